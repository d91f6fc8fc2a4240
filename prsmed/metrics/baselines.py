"""What a model must beat, and what it cannot beat: answers that never look at the image, and the truth itself."""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from prsmed.errors import RequestError
from prsmed.geometry import resize_mask
from prsmed.text.findings import find
from prsmed.text.templates import rule_text
from prsmed.types import ZONES

GRID_PX = 64
_THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


@dataclass(frozen=True)
class Asked:
    """What a baseline is told of one question.

    Attributes:
        key: of the item; what is random depends on it.
        truth_HW: bool, the true mask. Only the oracle looks at it; the others take its shape.
        spacing_hw_mm: size of a pixel where it is known.
    """

    key: str
    modality: str
    target: str
    kind: str
    truth_HW: np.ndarray
    spacing_hw_mm: tuple[float, float] | None = None


@dataclass(frozen=True)
class Replied:
    """A baseline's answer: bool mask on the picture's grid, probability that the target is there, sentence."""

    mask_HW: np.ndarray
    presence_prob: float
    model_text: str


@dataclass
class Seen:
    """What the training split shows of one target: its masks on a small square grid, its zones, its absence."""

    masks: list[np.ndarray] = field(default_factory=list)
    zones: Counter = field(default_factory=Counter)
    absent: int = 0

    @property
    def share_present(self) -> float:
        """Share of the training images that show the target; 0 for a target that training never asked for."""
        return len(self.masks) / max(1, len(self.masks) + self.absent)


class TrainingMasks:
    """Masks and zones of the training split, by modality and target."""

    def __init__(self, examples: Iterable[tuple[str, str, np.ndarray, tuple[str, ...]]]):
        """See the class.

        Args:
            examples: (modality, target, true mask (H, W) bool, true zones) of the training split.
        """
        self._seen: dict[tuple[str, str], Seen] = defaultdict(Seen)
        for modality, target, mask_HW, zones in examples:
            seen = self._seen[modality, target]
            if not mask_HW.any():
                seen.absent += 1
                continue
            seen.masks.append(resize_mask(mask_HW, (GRID_PX, GRID_PX)))
            if len(zones) == 1:
                seen.zones[zones[0]] += 1
        self._constant: dict[tuple[str, str], np.ndarray] = {}

    def of(self, modality: str, target: str) -> Seen:
        """What was seen of a target: in this modality, else in any other, else nothing."""
        return self._seen.get(self._key(modality, target), Seen())

    def mean_mask(self, modality: str, target: str) -> np.ndarray:
        """The mean of the target's masks, cut where that gives the best mean Dice on these masks themselves."""
        key = self._key(modality, target)
        if key not in self._constant:
            self._constant[key] = _best_cut(np.stack(self._seen[key].masks))
        return self._constant[key]

    def _key(self, modality: str, target: str) -> tuple[str, str]:
        elsewhere = (key for key in self._seen if key[1] == target)
        return (modality, target) if (modality, target) in self._seen else next(elsewhere, (modality, target))


def constant(asked: Asked, training: TrainingMasks, *, zone_rule: str) -> Replied:
    """The same answer to every question about a target: its mean mask and its most frequent zone.

    It never says that nothing is visible, unless most training images do not show the target.
    """
    seen = training.of(asked.modality, asked.target)
    if seen.share_present <= 0.5:
        return _absent(asked, seen.share_present)
    mask_HW = resize_mask(training.mean_mask(asked.modality, asked.target), asked.truth_HW.shape)
    zone = seen.zones.most_common(1)[0][0] if seen.zones else None
    sentence = _sentence(asked.target, zone) if zone else _truthful(asked, mask_HW, zone_rule)
    return Replied(mask_HW, seen.share_present, sentence)


def chance(asked: Asked, training: TrainingMasks, *, zone_rule: str) -> Replied:
    """A guess: present as often as in training, the mask of some training image, and a zone picked blindly."""
    rng = np.random.default_rng(zlib.crc32(asked.key.encode()))
    seen = training.of(asked.modality, asked.target)
    if not seen.masks or rng.random() >= seen.share_present:
        return _absent(asked, 0.0)
    mask_HW = resize_mask(seen.masks[int(rng.integers(len(seen.masks)))], asked.truth_HW.shape)
    return Replied(mask_HW, 1.0, _sentence(asked.target, ZONES[int(rng.integers(len(ZONES)))]))


def oracle(asked: Asked, training: TrainingMasks, *, zone_rule: str) -> Replied:
    """The truth and its sentence: every score must be perfect, or the evaluator is wrong."""
    return Replied(asked.truth_HW, float(asked.truth_HW.any()), _truthful(asked, asked.truth_HW, zone_rule))


Baseline = Callable[..., Replied]
BASELINES: dict[str, Baseline] = {"constant": constant, "chance": chance, "oracle": oracle}


def get_baseline(name: str) -> Baseline:
    """The baseline with this name; RequestError names those that exist."""
    if name not in BASELINES:
        raise RequestError(f"baseline {name!r}: unknown; choose one of {', '.join(BASELINES)}")
    return BASELINES[name]


def _absent(asked: Asked, presence_prob: float) -> Replied:
    nothing_HW = np.zeros(asked.truth_HW.shape, dtype=bool)
    return Replied(nothing_HW, presence_prob, rule_text([], target=asked.target, modality=asked.modality))


def _sentence(target: str, zone: str) -> str:
    return f"The {target} lies in the {zone.replace('-', ' ')} of the image."


def _truthful(asked: Asked, mask_HW: np.ndarray, zone_rule: str) -> str:
    per_component, spacing_hw_mm = asked.kind == "lesion", asked.spacing_hw_mm
    findings = find(mask_HW, zone_rule=zone_rule, per_component=per_component, spacing_hw_mm=spacing_hw_mm)
    return rule_text(findings, target=asked.target, modality=asked.modality)


def _best_cut(masks_NHW: np.ndarray) -> np.ndarray:
    mean_HW = masks_NHW.mean(axis=0)
    cuts = [mean_HW >= threshold for threshold in _THRESHOLDS if (mean_HW >= threshold).any()]
    cuts = cuts or [mean_HW >= mean_HW.max()]
    sizes_N = masks_NHW.sum(axis=(1, 2))

    def mean_dice(cut_HW: np.ndarray) -> float:
        overlaps_N = (masks_NHW & cut_HW).sum(axis=(1, 2))
        return float((2 * overlaps_N / (sizes_N + cut_HW.sum())).mean())

    return max(cuts, key=mean_dice)
