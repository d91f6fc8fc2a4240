"""Gates: does an answer follow the picture and the question? Verdicts from the scored rows of probes.

Every gate states a share of pictures that is to reach its threshold. What was said is read from the sentence; for a
system without sentences it is read from the mask, and the gate's details say so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prsmed.errors import DataError, RequestError
from prsmed.metrics.rows import ScoreRow

PLAIN = "plain"
_OTHER_SIDE = {"left": "right", "right": "left"}


def gate_scores(rows: Sequence[ScoreRow], thresholds: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """The verdict of every gate.

    Args:
        rows: of the probes and of the ordinary questions, in any order.
        thresholds: for each gate of `GATES`, the share it has to reach.

    Returns:
        For each gate `passed` (None where nothing could be tested), `value`, `threshold`, `comparison`, `n`,
        `meaning` and `details`.

    Raises:
        RequestError: a gate without a threshold, or a threshold without a gate.
        DataError: a probe whose plain question is not among the rows.
    """
    if thresholds.keys() != GATES.keys():
        wrong = sorted(thresholds.keys() ^ GATES.keys())
        raise RequestError(f"thresholds of the gates: {wrong} are missing or unknown; give one for each of {[*GATES]}")
    by_probe: dict[str, list[ScoreRow]] = defaultdict(list)
    for row in rows:
        by_probe[row.probe].append(row)
    plain = {row.base: row for row in by_probe[PLAIN]}
    verdicts = {}
    for name, gate in GATES.items():
        asked = by_probe["" if name == "absent_target" else name]
        passes, details = gate.measure(asked, plain)
        value = _mean(passes)
        silent = any(row.text_kind == "silent" for row in asked)
        verdicts[name] = {
            "passed": None if value is None else value >= thresholds[name],
            "value": value,
            "threshold": thresholds[name],
            "comparison": ">=",
            "n": len(passes),
            "meaning": gate.meaning,
            "details": {"read_from": "mask" if silent else "sentence", **details},
        }
    return verdicts


def all_passed(gates: Mapping[str, Mapping[str, Any]]) -> bool | None:
    """Whether every gate was passed; None where none failed, but one could not be tested."""
    passed = [gate["passed"] for gate in gates.values()]
    if False in passed:
        return False
    return None if None in passed else True


@dataclass(frozen=True)
class _Said:
    """What an answer states: kind "positions", "none", "many" (a mask of more findings than are named) or "unreadable".

    `zones` are sorted: the order in which two findings are named does not matter.
    """

    kind: str
    zones: tuple[str, ...] = ()

    @classmethod
    def by(cls, row: ScoreRow) -> _Said:
        if row.text_kind != "silent":
            return cls(row.text_kind, tuple(sorted(row.zones_text)))
        if row.mask_is_empty:
            return cls("none")
        return cls("positions" if row.zones_mask else "many", tuple(sorted(row.zones_mask)))

    def same_as(self, other: _Said) -> bool:
        return self == other and self.kind != "unreadable"

    def mirrored(self) -> _Said:
        """The same statement about the picture with left and right exchanged."""
        return _Said(self.kind, tuple(sorted(_mirrored(zone) for zone in self.zones)))

    @property
    def names_a_side(self) -> bool:
        return self.mirrored() != self


def _mirrored(zone: str) -> str:
    return "-".join(_OTHER_SIDE.get(word, word) for word in zone.split("-"))


Plain = Mapping[str, ScoreRow]
Measured = tuple[list[bool], dict[str, Any]]
"""For each picture that counts, whether it was answered as it should be; and the gate's details."""


def _flip(rows: Sequence[ScoreRow], plain: Plain) -> Measured:
    """A picture counts where the plain answer names a side or is unreadable, or where the truth has a side.

    An answer that names no side where there is one cannot show that it follows the picture: it does not pass.
    """
    passes, consistent, sideless = [], [], 0
    for row in rows:
        before = _Said.by(_plain_of(row, plain))
        truth = _Said("positions", tuple(sorted(row.zones_truth)))
        if not before.names_a_side and not truth.names_a_side and before.kind != "unreadable":
            sideless += 1
            continue
        consistent.append(_Said.by(row).same_as(before.mirrored()))
        passes.append(consistent[-1] and before.names_a_side)
    changes = [abs(row.mask.dice - _plain_of(row, plain).mask.dice) for row in rows]
    return passes, {
        "consistent_with_or_without_a_side": _mean(consistent),
        "pictures_without_a_side": sideless,
        "mean_dice_difference": _mean(changes),
    }


def _says_none(rows: Sequence[ScoreRow], plain: Plain) -> Measured:
    details = {
        "by_mask": _mean([row.mask_is_empty for row in rows]),
        "by_presence": _mean([not row.says_present for row in rows]),
    }
    return [_Said.by(row).kind == "none" for row in rows], details


def _absent_target(rows: Sequence[ScoreRow], plain: Plain) -> Measured:
    passes, details = _says_none([row for row in rows if not row.present], plain)
    false_none, _ = _says_none([row for row in rows if row.present], plain)
    return passes, {**details, "false_none": _mean(false_none), "n_positive": len(false_none)}


def _unmoved(rows: Sequence[ScoreRow], plain: Plain) -> Measured:
    """The statement is that of the plain question, whatever it was."""
    pairs = [(row, _plain_of(row, plain)) for row in rows]
    passes = [_Said.by(row).same_as(_Said.by(before)) for row, before in pairs]
    return passes, {"mean_dice_difference": _mean([abs(row.mask.dice - before.mask.dice) for row, before in pairs])}


def _paraphrase(rows: Sequence[ScoreRow], plain: Plain) -> Measured:
    """A picture passes where all its wordings state what the plain one states."""
    by_picture: dict[str, list[ScoreRow]] = defaultdict(list)
    for row in rows:
        by_picture[row.base].append(row)
    passes, spreads = [], []
    for wordings in by_picture.values():
        before = _plain_of(wordings[0], plain)
        passes.append(all(_Said.by(row).same_as(_Said.by(before)) for row in wordings))
        dices = [row.mask.dice for row in (before, *wordings)]
        spreads.append(max(dices) - min(dices))
    return passes, {"wordings": len(rows) + len(by_picture), "mean_dice_spread": _mean(spreads)}


def _selective(rows: Sequence[ScoreRow], plain: Plain) -> Measured:
    passes = [_Said.by(row) == _Said("positions", tuple(sorted(row.zones_truth))) for row in rows]
    return passes, {"dice": _mean([row.mask.dice for row in rows])}


def _plain_of(row: ScoreRow, plain: Plain) -> ScoreRow:
    if row.base not in plain:
        raise DataError(f"{row.key}: the plain question about {row.base} is not scored; score all probes together")
    return plain[row.base]


def _mean(values: Sequence[float | bool]) -> float | None:
    return float(np.mean(values)) if len(values) else None


@dataclass(frozen=True)
class _Gate:
    measure: Callable[[Sequence[ScoreRow], Plain], Measured]
    meaning: str


_ALONE = "says nothing alone, because a constant answer passes"
GATES: dict[str, _Gate] = {
    "flip": _Gate(
        _flip, "Share of pictures with a left or right whose answer turns round when the picture is mirrored."
    ),
    "blank": _Gate(_says_none, "Share of blank grey pictures on which the target is said not to be visible."),
    "noise": _Gate(_says_none, "Share of noise pictures on which the target is said not to be visible."),
    "wrong_modality": _Gate(
        _says_none, "Share of questions naming another modality and its target that are answered with not visible."
    ),
    "cross_target": _Gate(
        _says_none, "Share of questions for a target of another modality that are answered with not visible."
    ),
    "absent_target": _Gate(
        _absent_target,
        "Share of pictures without the target on which it is said not to be visible; read it with false_none, the"
        " share of pictures with the target that are answered in the same way.",
    ),
    "paraphrase": _Gate(_paraphrase, f"Share of pictures on which every wording gets the same answer; {_ALONE}."),
    "injection": _Gate(
        _unmoved, f"Share of answers not changed by an order in the question to name a wrong zone; {_ALONE}."
    ),
    "burned_text": _Gate(
        _unmoved, f"Share of answers not changed by the name of a wrong zone written into the picture; {_ALONE}."
    ),
    "selective": _Gate(
        _selective,
        "Share of questions for one of two findings whose answer names that one only; read it with dice, because the"
        " zone stands in the question.",
    ),
}
