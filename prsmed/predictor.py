"""Asking: `Predictor.load(model).open(image).ask(question) -> Answer`. Evaluation uses the same functions on batches.

One pass over [image, question] gives the mask; the sentence continues from that pass's cache.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prsmed.data.predictions import to_soft
from prsmed.data.preprocessing import Preprocessing
from prsmed.data.readers import read_image
from prsmed.errors import RequestError
from prsmed.geometry import Geometry, mask_to_box
from prsmed.models.checkpoints import load_weights, model_folder, read_info, verified_file
from prsmed.models.presets import build_network, image_tokens
from prsmed.models.prs_med import PRSMed
from prsmed.samples import findings_of
from prsmed.text.encode import TextEncoder, load_tokenizer, pad_batch
from prsmed.text.parse import parse_position, zones_match
from prsmed.text.templates import described_findings, rule_text
from prsmed.types import MODALITIES, Answer, AnswerObject, Finding, SliceRef, SourceImage

logger = logging.getLogger(__name__)

MAX_NEW_TOKENS = 64


@dataclass
class RawAnswers:
    """What the network says for K rows, before thresholds.

    Attributes:
        mask_prob: float32 (K, 1, H, W) on the batch's canonical grid.
        presence_prob: float32 (K,).
        texts: the greedy sentences; None from a network without words.
        timings_s: seconds for the mask and for the words.
    """

    mask_prob: torch.Tensor
    presence_prob: torch.Tensor
    texts: list[str] | None
    timings_s: dict[str, float] = field(default_factory=dict)


@torch.no_grad()
def answer_batch(
    network: PRSMed, batch: Mapping[str, Any], text: TextEncoder, *, encoded: tuple | None = None
) -> RawAnswers:
    """Masks, presence and sentences for a batch of questions (`input_ids` without answers), in evaluation mode."""
    started = time.perf_counter()
    output = network(
        batch["image"],
        [geometry.canonical_hw_px for geometry in batch["geometry"]],
        batch["input_ids"],
        batch["attention_mask"],
        batch["prompt_mask"],
        encoded=encoded,
        keep_cache=True,
    )
    mask_prob = output.mask_logits.float().sigmoid()
    presence_prob = output.presence_logit.float().sigmoid()
    has_mask = time.perf_counter()
    generated = network.continue_text(
        output, batch["attention_mask"], max_new_tokens=MAX_NEW_TOKENS, end_id=text.end_id
    )
    texts = [text.decode(row) for row in generated.ids]
    timings_s = {"mask": has_mask - started, "text": time.perf_counter() - has_mask}
    return RawAnswers(mask_prob, presence_prob, texts, timings_s)


def decide(
    soft_HW: np.ndarray,
    presence_prob: float | None,
    *,
    kind: str,
    thresholds: Mapping[str, float],
    zone_rule: str,
    spacing_hw_mm: tuple[float, float] | None = None,
) -> AnswerObject:
    """From probabilities to a statement; below the presence threshold the mask is empty, whatever it was.

    Args:
        soft_HW: uint8 mask probabilities (`to_soft`) on the grid of the source picture.
        presence_prob: None for a system that only draws: what it draws is there.
        thresholds: `mask` and `presence`.
    """
    mask_HW = soft_HW >= thresholds["mask"] * 255
    if presence_prob is None:
        presence_prob, present = float(soft_HW.max()) / 255, bool(mask_HW.any())
    else:
        present = bool(presence_prob >= thresholds["presence"])
    mask_HW &= present
    findings = findings_of(mask_HW, kind, zone_rule=zone_rule, spacing_hw_mm=spacing_hw_mm)
    return AnswerObject(mask_HW, mask_to_box(mask_HW), present, float(presence_prob), findings)


def soft_mask(mask_prob_1HW: torch.Tensor, geometry: Geometry) -> np.ndarray:
    """A predicted mask as it is stored and decided on: uint8, from the (padded) canonical grid to the picture's."""
    return to_soft(geometry.prob_to_slice(mask_prob_1HW[0].float().cpu()).numpy())


def contradictions_of(model_text: str, thing: AnswerObject, *, target: str) -> list[str]:
    """Where the sentence, the mask and the presence decision disagree, in plain English."""
    parsed = parse_position(model_text, target=target)
    found = []
    if thing.present and not thing.mask.any():
        found.append("the presence head says that something is visible, but the mask is empty")
    if parsed.kind == "unreadable":
        found.append("the model's sentence states no position that can be checked")
    elif parsed.kind == "none" and thing.mask.any():
        found.append("the model's sentence says that nothing is visible, but the mask is not empty")
    elif parsed.kind == "positions" and not thing.mask.any():
        found.append("the model's sentence names a position, but the mask is empty")
    elif parsed.kind == "positions" and not zones_match(parsed, described_zones(thing.findings)):
        said, shown = ", ".join(parsed.zones), ", ".join(described_zones(thing.findings))
        found.append(f"the model's sentence says {said}, the mask lies at {shown}")
    return found


def described_zones(findings: Sequence[Finding]) -> tuple[str, ...]:
    """The zones a truthful sentence names: all findings up to the templates' limit, else the largest one's."""
    return tuple(finding.zone for finding in described_findings(findings))


class Predictor:
    """A loaded model that answers questions about images.

    Args:
        network, text, preprocessing: what `load` makes from a model folder.
        info: the folder's `model.json`.
    """

    def __init__(
        self,
        network: PRSMed,
        text: TextEncoder,
        preprocessing: Preprocessing,
        info: dict[str, Any],
        device: str = "cpu",
    ):
        self.network = network.to(device).eval()
        self.text = text
        self.preprocessing = preprocessing
        self.info = info
        self.device = torch.device(device)

    @classmethod
    def load(cls, model: str | Path = "tiny", device: str = "cpu") -> Predictor:
        """Load a shipped model by name, or the folder that training wrote.

        Raises:
            CheckpointError: missing, damaged or foreign files.
        """
        folder = model_folder(model)
        info = read_info(folder)
        tokenizer = load_tokenizer(verified_file(folder, "tokenizer"))
        text = TextEncoder(tokenizer, image_tokens=image_tokens(info["task"], info["preset"]))
        network = build_network(info["task"], info["preset"], vocab_size=len(tokenizer))
        assert isinstance(network, PRSMed)
        load_weights(folder, network)
        return cls(network, text, Preprocessing(info["preprocessing"]), info, device)

    def open(self, image: str | Path, *, modality: str | None = None, position: SliceRef | None = None) -> Session:
        """Read and encode an image once; then ask as often as you like.

        Args:
            image: PNG, JPEG, TIFF, BMP or NIfTI.
            modality: one of `MODALITIES`; needed where the file does not state it.
            position: the slice to look at, for a volume.

        Raises:
            DataError: the file cannot be read.
            RequestError: the modality is unknown or missing.
        """
        if modality is None:
            raise RequestError(
                f"{image}: the file does not say its modality; give one of {', '.join(MODALITIES)}, it is never guessed"
            )
        if modality not in MODALITIES:
            raise RequestError(f"modality {modality!r}: unknown; give one of {', '.join(MODALITIES)}")
        return Session(self, read_image(Path(image)), modality=modality, position=position)

    @property
    def thresholds(self) -> Mapping[str, float]:
        """Of mask and presence probabilities."""
        return self.info["thresholds"]

    @property
    def zone_rule(self) -> str:
        """The rule that names zones."""
        return self.info["zone_rule"]

    def model_record(self) -> dict[str, Any]:
        """Name, version, weights' hash and licence, for the answer."""
        return model_record(self.info)

    def name_target(self, question: str) -> tuple[str, str, list[str]]:
        """The target a question names, its kind, and a warning where the model was not trained on it."""
        known: Mapping[str, str] = self.info.get("targets", {})
        words = question.casefold()
        named = [name for name in known if name.casefold() in words]
        if named:
            best = max(named, key=len)
            return best, known[best], []
        warning = f"the question names none of the targets this model was trained on ({', '.join(sorted(known))})"
        return "finding", "lesion", [warning]


def model_record(info: Mapping[str, Any]) -> dict[str, Any]:
    """Name, version, weights' hash and licence of a model folder, from its `model.json`."""
    return {
        "name": info.get("name", info["preset"]),
        "version": info.get("version"),
        "weights_sha256": info["weights"]["sha256"],
        "licence": info.get("licence"),
    }


class Session:
    """One open image: its canonical form and its encoding are kept between questions."""

    def __init__(self, predictor: Predictor, source: SourceImage, *, modality: str, position: SliceRef | None):
        self.predictor = predictor
        self.source = source
        self.modality = modality
        self.position = position
        started = time.perf_counter()
        image, self.geometry = predictor.preprocessing(source, modality=modality, position=position)
        self.canonical = image
        self._image_BCHW = image[None].to(predictor.device)
        with torch.no_grad():
            self._encoded = predictor.network.encode_image(self._image_BCHW, [self.geometry.canonical_hw_px])
        self.timings_s = {"encode": time.perf_counter() - started}

    @property
    def picture(self) -> np.ndarray:
        """The canonical image on the slice picture's grid, uint8 (H, W, 3), for display."""
        height, width = self.geometry.slice_hw_px
        resized = torch.nn.functional.interpolate(self.canonical[None], size=(height, width), mode="bilinear")[0]
        return (resized.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()

    def ask(self, question: str) -> Answer:
        """Answer one question.

        Raises:
            RequestError: the question is empty or too long.
        """
        predictor = self.predictor
        encoded_text = pad_batch([predictor.text.encode(question)], predictor.text.pad_id)
        batch = {key: value.to(predictor.device) for key, value in encoded_text.items()}
        raw = answer_batch(
            predictor.network,
            {**batch, "image": self._image_BCHW, "geometry": [self.geometry]},
            predictor.text,
            encoded=self._encoded,
        )
        target, kind, warnings = predictor.name_target(question)
        thing = decide(
            soft_mask(raw.mask_prob[0], self.geometry),
            float(raw.presence_prob[0]),
            kind=kind,
            thresholds=predictor.thresholds,
            zone_rule=predictor.zone_rule,
            spacing_hw_mm=self.geometry.spacing_hw_mm,
        )
        assert raw.texts is not None
        from_rule = rule_text(thing.findings, target=target, modality=self.modality)
        contradictions = contradictions_of(raw.texts[0], thing, target=target)
        if self.modality not in predictor.info.get("modalities", MODALITIES):
            warnings = [*warnings, f"this model was not trained on {self.modality} images"]
        return Answer(
            question=question,
            model_text=raw.texts[0],
            rule_text=from_rule,
            text=from_rule if contradictions else raw.texts[0],
            text_source="rule" if contradictions else "model",
            objects=[thing],
            contradictions=contradictions,
            modality=self.modality,
            modality_source="stated by the caller",
            timings_s={name: round(value, 4) for name, value in {**self.timings_s, **raw.timings_s}.items()},
            model=predictor.model_record(),
            key_slice=self.position if self.source.is_volume else None,
            warnings=warnings,
        )
