"""One scored answer. Everything in a report is computed from a list of these rows, and from nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prsmed.errors import DataError


@dataclass(frozen=True)
class MaskScores:
    """A predicted mask against the true one, both on the grid of the source picture.

    The policy for empty masks, the same for every score: both empty is right (1), one of two empty is wrong (0).

    Attributes:
        dice, iou, nsd: overlap, and the share of both surfaces that lie within the stated tolerance of each other.
        intersection_px, union_px: for the cumulative IoU of many images.
        box_iou: IoU of the half-open boxes around the masks.
        lesions_true, lesions_found: connected regions of the truth, and how many of them the prediction hits.
        lesions_false: predicted regions that hit no true one.
    """

    dice: float
    iou: float
    nsd: float
    intersection_px: int
    union_px: int
    box_iou: float
    lesions_true: int
    lesions_found: int
    lesions_false: int


@dataclass(frozen=True)
class ScoreRow:
    """One answer, scored: what was asked, what is true, what was drawn, and what was said.

    Attributes:
        index: position in the evaluator's list of items.
        key, group: of the item, and the patient or video that bootstrap draws as one.
        probe: name of the gate's probe this row belongs to, "" for the ordinary questions of the split.
        base: for a probe, the key of the item it was made from.
        query_kind: "template" or the kind of the case's own question.
        present: whether the true mask holds anything.
        zones_truth: zones of the true findings that a truthful sentence names, () for none and for more than two.
        zones_mask: the same, of the predicted mask.
        text_kind: "positions", "none", "unreadable", or "silent" for a system that gives no sentences and for a
            question whose answer is an explanation.
        zones_text: zones the sentence names; `zones_right`: they are the true ones, or "none" is true.
        rule_right: the rule's sentence about the predicted mask says what it says about the true one.
        border_ambiguous: a true finding changes its zone when it moves by 2 %.
        contradiction: sentence, mask and presence disagree.
        query_length: "short" or "long" of the case's own question, else "".
        decoder_box_iou: IoU of the box decoder's box with the one around the true mask; None for a system without one,
            and where nothing is true.
        names_target: the sentence names what was asked for, and names it first; None without a sentence, for a question
            that asks for no explanation, and where nothing is true.
        readings_agree: the model was sure what its answer is about; None where nothing is marked, and where that was
            not decided.
        protocol_dice, protocol_iou, protocol_e_measure: by the authors' protocol, or None where it was not asked for.
    """

    index: int
    key: str
    group: str
    modality: str
    dataset: str
    target: str
    kind: str
    query_kind: str
    probe: str
    base: str
    question: str
    present: bool
    mask: MaskScores
    presence_prob: float
    says_present: bool
    mask_is_empty: bool
    zones_truth: tuple[str, ...]
    border_ambiguous: bool
    zones_mask: tuple[str, ...]
    rule_right: bool
    model_text: str
    text_kind: str
    zones_text: tuple[str, ...]
    zones_right: bool
    contradiction: bool
    query_length: str = ""
    decoder_box_iou: float | None = None
    names_target: bool | None = None
    readings_agree: bool | None = None
    protocol_dice: float | None = None
    protocol_iou: float | None = None
    protocol_e_measure: float | None = None

    @property
    def zone_truth(self) -> str | None:
        """The one zone of a picture with exactly one finding, else None."""
        return self.zones_truth[0] if len(self.zones_truth) == 1 else None

    @property
    def lesion_dice_counts(self) -> bool:
        """Whether the row takes part in the headline: a lesion that is there, asked in the ordinary way."""
        return self.present and self.kind == "lesion" and not self.probe

    def to_json(self) -> dict[str, Any]:
        """Plain data, one line of rows.jsonl."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> ScoreRow:
        """The inverse of `to_json`."""
        tuples = {name: tuple(record[name]) for name in ("zones_truth", "zones_mask", "zones_text")}
        return cls(**{**record, **tuples, "mask": MaskScores(**record["mask"])})


def read_rows(path: str | Path) -> list[ScoreRow]:
    """The rows that an evaluation wrote.

    Raises:
        DataError: no such file, or not what this version writes.
    """
    try:
        return [ScoreRow.from_json(json.loads(line)) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: cannot be read as scored rows ({error!r}); run `prsmed evaluate` first") from error
