"""The baseline a model must beat: for each target, the mean mask and the most frequent zone of the training split."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from prsmed.geometry import mask_to_box, resize_mask
from prsmed.text.findings import find
from prsmed.text.templates import rule_text
from prsmed.types import AnswerObject

GRID_PX = 64
_THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


@dataclass
class _Seen:
    masks: list[np.ndarray] = field(default_factory=list)
    zones: Counter = field(default_factory=Counter)
    absent: int = 0


class ConstantBaseline:
    """Answers every question about a target in the same way, without looking at the image.

    The mask is the mean of the training masks, squashed to a square, cut where that gives the best mean Dice on the
    training masks themselves. The sentence names the most frequent zone. It never says that nothing is visible,
    unless most training images do not show the target.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], _Seen] = defaultdict(_Seen)
        self._masks: dict[tuple[str, str], np.ndarray] = {}

    def fit(self, examples: Iterable[tuple[str, str, np.ndarray, tuple[str, ...]]]) -> ConstantBaseline:
        """Learn from (modality, target, true mask (H, W), true zones) of the training split."""
        for modality, target, mask_HW, zones in examples:
            seen = self._seen[modality, target]
            if not mask_HW.any():
                seen.absent += 1
                continue
            seen.masks.append(resize_mask(mask_HW, (GRID_PX, GRID_PX)))
            if len(zones) == 1:
                seen.zones[zones[0]] += 1
        for key, seen in self._seen.items():
            if seen.masks:
                self._masks[key] = _best_cut(np.stack(seen.masks))
        return self

    def answer(
        self, modality: str, target: str, kind: str, hw_px: tuple[int, int], *, zone_rule: str
    ) -> tuple[AnswerObject, str]:
        """Mask and sentence for a picture of this size; an empty mask for a target it never saw in training."""
        seen = self._seen.get((modality, target), _Seen())
        says_present = len(seen.masks) > seen.absent
        mask_HW = np.zeros(hw_px, dtype=bool)
        if says_present:
            mask_HW = resize_mask(self._masks[modality, target], hw_px)
        findings = find(mask_HW, zone_rule=zone_rule, per_component=kind == "lesion")
        share = len(seen.masks) / max(1, len(seen.masks) + seen.absent)
        thing = AnswerObject(mask_HW, mask_to_box(mask_HW), says_present, share, findings)
        if not says_present or not seen.zones:
            return thing, rule_text(findings, target=target, modality=modality)
        return thing, f"The {target} lies in the {seen.zones.most_common(1)[0][0].replace('-', ' ')} of the image."


def _best_cut(masks_NHW: np.ndarray) -> np.ndarray:
    mean_HW = masks_NHW.mean(axis=0)
    cuts = [mean_HW >= threshold for threshold in _THRESHOLDS if (mean_HW >= threshold).any()]
    cuts = cuts or [mean_HW >= mean_HW.max()]
    sizes_N = masks_NHW.sum(axis=(1, 2))

    def mean_dice(cut_HW: np.ndarray) -> float:
        overlaps_N = (masks_NHW & cut_HW).sum(axis=(1, 2))
        return float((2 * overlaps_N / (sizes_N + cut_HW.sum())).mean())

    return max(cuts, key=mean_dice)
