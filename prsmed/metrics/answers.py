"""Scores of single answers against the truth: overlap of masks, position by the strict parser, presence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from prsmed.text.parse import parse_position, zones_match


def dice_iou(predicted_HW: np.ndarray, truth_HW: np.ndarray) -> tuple[float, float]:
    """Dice and IoU of two bool masks. Both empty is 1; one empty is 0 (the policy for empty masks, written once)."""
    overlap = float(np.logical_and(predicted_HW, truth_HW).sum())
    total = float(predicted_HW.sum()) + float(truth_HW.sum())
    if total == 0:
        return 1.0, 1.0
    return 2 * overlap / total, overlap / (total - overlap)


@dataclass(frozen=True)
class ScoreRow:
    """One answer, scored. `zone_truth` is None unless the truth has exactly one finding."""

    index: int
    key: str
    modality: str
    dataset: str
    target: str
    kind: str
    group: str
    present: bool
    dice: float
    iou: float
    presence_prob: float
    says_present: bool
    mask_is_empty: bool
    text_kind: str
    zones_truth: tuple[str, ...]
    zones_text: tuple[str, ...]
    zones_right: bool
    border_ambiguous: bool
    contradiction: bool
    question: str
    model_text: str

    @property
    def zone_truth(self) -> str | None:
        return self.zones_truth[0] if len(self.zones_truth) == 1 else None

    def to_json(self) -> dict[str, Any]:
        """Plain data, one line of answers.jsonl."""
        return asdict(self)


def score_text(model_text: str, zones_truth: tuple[str, ...], *, target: str, present: bool) -> dict[str, Any]:
    """Position fields of a row: what the model's own words say, parsed strictly; unreadable is wrong."""
    parsed = parse_position(model_text, target=target)
    right = parsed.kind == "none" if not present else parsed.kind == "positions" and zones_match(parsed, zones_truth)
    return {"text_kind": parsed.kind, "zones_text": tuple(parsed.zones), "zones_right": bool(right)}


def summarise(rows: Sequence[ScoreRow]) -> dict[str, Any]:
    """`scores.json`: overall, per modality, organs and lesions apart, negatives.

    Dice and IoU are means over images whose truth is not empty; zone accuracy is over images with exactly one finding,
    from the model's own words; negatives are reported on their own. Each block states its n.
    """
    modalities = sorted({row.modality for row in rows})
    return {
        "schema_version": 1,
        "overall": _block(rows),
        "lesions": _block([row for row in rows if row.kind == "lesion"]),
        "organs": _block([row for row in rows if row.kind == "organ"]),
        "modalities": {name: _modality([row for row in rows if row.modality == name]) for name in modalities},
        "negatives": _negatives(rows),
    }


def _modality(rows: Sequence[ScoreRow]) -> dict[str, Any]:
    lesions, organs = ([row for row in rows if row.kind == kind] for kind in ("lesion", "organ"))
    return {**_block(rows), "lesions": _block(lesions), "organs": _block(organs), "negatives": _negatives(rows)}


def _block(rows: Sequence[ScoreRow]) -> dict[str, Any]:
    positives = [row for row in rows if row.present]
    single = [row for row in positives if row.zone_truth is not None]
    clear = [row for row in single if not row.border_ambiguous]
    return {
        "n": len(positives),
        "dice": _mean([row.dice for row in positives]),
        "iou": _mean([row.iou for row in positives]),
        "zone_accuracy": _mean([row.zones_right for row in single]),
        "zone_n": len(single),
        "zone_accuracy_unambiguous": _mean([row.zones_right for row in clear]),
        "zone_n_unambiguous": len(clear),
        "all_findings_accuracy": _mean([row.zones_right for row in positives]),
        "contradiction_rate": _mean([row.contradiction for row in rows]),
    }


def _negatives(rows: Sequence[ScoreRow]) -> dict[str, Any]:
    """Specificity on images without the target; false_none: images with it that are said not to show it."""
    negatives = [row for row in rows if not row.present]
    positives = [row for row in rows if row.present]
    return {
        "n": len(negatives),
        "specificity": _mean([row.text_kind == "none" for row in negatives]),
        "specificity_presence": _mean([not row.says_present for row in negatives]),
        "specificity_mask": _mean([row.mask_is_empty for row in negatives]),
        "n_positive": len(positives),
        "false_none": _mean([row.text_kind == "none" for row in positives]),
        "false_none_presence": _mean([not row.says_present for row in positives]),
    }


def _mean(values: Sequence[float | bool]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def flat_metrics(scores: dict[str, Any], prefix: str = "val") -> dict[str, float]:
    """Scalars under MLflow names: `val/overall/dice`, `val/mri/zone_accuracy`, `val/negatives/specificity`, ..."""
    blocks = {"overall": scores["overall"], "lesions": scores["lesions"], "organs": scores["organs"]}
    blocks |= {"negatives": scores["negatives"], **scores["modalities"]}
    return {
        f"{prefix}/{block}/{name}": float(value)
        for block, values in blocks.items()
        for name, value in values.items()
        if isinstance(value, (int, float))
    }


def selection_score(scores: dict[str, Any]) -> float:
    """What picks the best checkpoint: the mean of Dice, zone accuracy and balanced presence, as far as they exist."""
    negatives = scores["negatives"]
    parts = [scores["overall"]["dice"], scores["overall"]["zone_accuracy"], negatives["specificity"]]
    if negatives["false_none"] is not None:
        parts.append(1 - negatives["false_none"])
    return float(np.mean([part for part in parts if part is not None] or [0.0]))
