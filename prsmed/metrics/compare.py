"""Two systems on the same questions: what one has more than the other, and whether that could be chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prsmed.errors import RequestError
from prsmed.metrics.intervals import STANDARD, Bootstrap, Statistic
from prsmed.metrics.rows import ScoreRow
from prsmed.metrics.summary import block_statistics, macro_lesion_dice, negative_statistics, ordinary

_TRUTH = ("group", "modality", "target", "kind", "present", "zones_truth", "border_ambiguous")


def compare(
    rows_a: Sequence[ScoreRow], rows_b: Sequence[ScoreRow], *, intervals: Bootstrap = STANDARD
) -> dict[str, Any]:
    """Paired differences over the questions that both systems were asked, with the same drawn patients for both.

    Args:
        rows_a, rows_b: of two systems; probes are left out.
        intervals: how patients are drawn.

    Returns:
        `n` shared questions of `n_groups` patients, how many are `only_a` or `only_b`, and `differences`: for each
        score `n`, `a`, `b`, `difference` (b - a) and its `interval`, None where a system does not have the score.

    Raises:
        RequestError: no question is shared, a key occurs twice, or the truth of a shared one is not the same.
    """
    by_key_a, by_key_b = _by_key(rows_a, "first"), _by_key(rows_b, "second")
    shared = [key for key in by_key_a if key in by_key_b]
    if not shared:
        raise RequestError(
            f"compare: none of the {len(by_key_a)} and {len(by_key_b)} questions is shared; "
            "evaluate both systems on the same split of the same data"
        )
    for key in shared:
        _check_truth(by_key_a[key], by_key_b[key])
    common_a, common_b = [by_key_a[key] for key in shared], [by_key_b[key] for key in shared]
    groups = [row.group for row in common_a]
    return {
        "n": len(shared),
        "n_groups": len(set(groups)),
        "only_a": len(by_key_a) - len(shared),
        "only_b": len(by_key_b) - len(shared),
        "differences": intervals.differences(groups, _statistics(common_a), _statistics(common_b)),
    }


def _statistics(rows: Sequence[ScoreRow]) -> dict[str, Statistic]:
    return {"macro_lesion_dice": macro_lesion_dice(rows), **block_statistics(rows), **negative_statistics(rows)}


def _by_key(rows: Sequence[ScoreRow], which: str) -> dict[str, ScoreRow]:
    kept: dict[str, ScoreRow] = {}
    for row in ordinary(rows):
        if row.key in kept:
            raise RequestError(
                f"compare: the {which} rows hold {row.key} twice; compare the rows of one evaluation each"
            )
        kept[row.key] = row
    return kept


def _check_truth(row_a: ScoreRow, row_b: ScoreRow) -> None:
    pairs = [(name, getattr(row_a, name), getattr(row_b, name)) for name in _TRUTH]
    pairs.append(("lesions_true", row_a.mask.lesions_true, row_b.mask.lesions_true))
    for name, in_a, in_b in pairs:
        if in_a != in_b:
            raise RequestError(
                f"compare: {row_a.key} has {name} {in_a!r} in the first rows and {in_b!r} in the second; "
                "evaluate both systems on the same data with the same zone rule"
            )
