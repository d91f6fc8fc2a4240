"""Scores of the position that a sentence states, beside what answers that do not look would reach.

Judged are ordinary questions about images with exactly one true finding. A sentence that cannot be read, that denies
the finding or that names several zones is wrong. Systems that give no sentences are left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from prsmed.metrics.intervals import Bootstrap, Statistic, divide, mean
from prsmed.metrics.rows import ScoreRow
from prsmed.types import ZONES

LABELS = (*ZONES, "none", "unreadable", "several")


def is_judged(row: ScoreRow) -> bool:
    """Whether a row takes part in the scores of stated positions."""
    return not row.probe and row.present and row.zone_truth is not None and row.text_kind != "silent"


def stated_label(row: ScoreRow) -> str:
    """What the sentence states, one of `LABELS`."""
    if row.text_kind != "positions":
        return row.text_kind
    return row.zones_text[0] if len(row.zones_text) == 1 else "several"


def constant_label_sets(rows: Sequence[ScoreRow]) -> list[str]:
    """Sets of at least two judged rows whose true zone is always the same, as "modality/dataset/target".

    A set is one target of one data set: the smallest part of the data that a model can recognise without looking for
    the target. Where one zone is always right, a constant answer scores 1 and agreement beyond chance has no meaning.
    """
    zones: dict[str, list[str | None]] = defaultdict(list)
    for row in filter(is_judged, rows):
        zones[_label_set(row)].append(row.zone_truth)
    return sorted(name for name, found in zones.items() if len(found) > 1 and len(set(found)) == 1)


def _label_set(row: ScoreRow) -> str:
    return "/".join(part for part in (row.modality, row.dataset, row.target) if part)


def position_statistics(rows: Sequence[ScoreRow]) -> dict[str, Statistic]:
    """Accuracy, balanced accuracy and kappa over the judged ones of these rows; kappa without constant sets."""
    constant = set(constant_label_sets(rows))
    judged_R = np.array([is_judged(row) for row in rows], dtype=bool)
    sets_R = np.array([_label_set(row) for row in rows])
    varied_R = judged_R & ~np.isin(sets_R, list(constant))
    strata = [np.flatnonzero(varied_R & (sets_R == name)) for name in sorted({*sets_R[varied_R]})]
    right_R = np.array([row.zones_right for row in rows], dtype=np.float64)
    cells_RK = _cells(rows)
    return {
        "accuracy": mean(right_R, judged_R),
        "balanced_accuracy": Statistic(lambda weights_SR: balanced_accuracy(_tables(weights_SR, cells_RK)), judged_R),
        "kappa": Statistic(
            lambda weights_SR: stratified_kappa([_tables(weights_SR[:, R], cells_RK[R]) for R in strata]), varied_R
        ),
    }


def balanced_accuracy(tables_STP: np.ndarray) -> np.ndarray:
    """The mean recall of the zones that occur, of confusion tables (draws, true zones, predicted `LABELS`)."""
    recalls_ST = divide(_right(tables_STP), tables_STP.sum(axis=2))
    return divide(np.nansum(recalls_ST, axis=1), np.isfinite(recalls_ST).sum(axis=1))


def stratified_kappa(strata_STP: Sequence[np.ndarray]) -> np.ndarray:
    """Agreement beyond chance, chance being that of each set by itself (Cohen 1960; Barlow et al. 1991).

    With p_o right and p_e right by chance in a set of n: the sum of n (p_o - p_e) by the sum of n (1 - p_e); NaN where
    chance is certain. One set gives Cohen's kappa. An answer that only knows the usual zone of every target gives 0,
    where one table over all targets would reward it for telling the targets apart.
    """
    beyond_S, possible_S = np.float64(0), np.float64(0)
    for tables_STP in strata_STP:
        total_S = tables_STP.sum(axis=(1, 2))
        by_chance_S = (tables_STP.sum(axis=2) * tables_STP.sum(axis=1)[:, : len(ZONES)]).sum(axis=1)
        # In counts, not shares: whole numbers cancel exactly, so that a constant answer gives 0 and not 1e-17.
        beyond_S = beyond_S + np.nan_to_num(divide(total_S * _right(tables_STP).sum(axis=1) - by_chance_S, total_S))
        possible_S = possible_S + np.nan_to_num(divide(total_S**2 - by_chance_S, total_S))
    return divide(np.atleast_1d(beyond_S), np.atleast_1d(possible_S))


def position_scores(rows: Sequence[ScoreRow], intervals: Bootstrap | None) -> dict[str, Any]:
    """Scores of stated positions, their confusion matrix, and two baselines that do not look.

    `majority` is the most frequent true zone of these very images, the best constant answer there is in hindsight (of
    equally frequent ones the first of `ZONES`). `random_accuracy` is what guessing among the five zones with equal
    chances reaches on average. `unreadable` is the share of sentences that the parser cannot read.
    """
    statistics = position_statistics(rows)
    n = statistics["accuracy"].n
    confusion_TP = _tables(np.ones((1, len(rows))), _cells(rows))[0].astype(int)
    zone, count = max(zip(ZONES, confusion_TP.sum(axis=1), strict=True), key=lambda pair: pair[1])
    unreadable = confusion_TP[:, LABELS.index("unreadable")].sum()
    return {
        "n": n,
        **{name: statistic.value() for name, statistic in statistics.items()},
        "majority": {"zone": zone if n else None, "accuracy": float(count / n) if n else None},
        "random_accuracy": 1 / len(ZONES) if n else None,
        "confusion": {"labels": list(LABELS), "rows": confusion_TP.tolist()},
        "unreadable": float(unreadable / n) if n else None,
        "intervals": intervals.intervals([row.group for row in rows], statistics) if intervals else {},
    }


def _cells(rows: Sequence[ScoreRow]) -> np.ndarray:
    """The cell of the flattened confusion table that each row falls in, one-hot (R, true zones * LABELS)."""
    cells_RK = np.zeros((len(rows), len(ZONES) * len(LABELS)))
    for index, row in enumerate(rows):
        if is_judged(row) and row.zone_truth is not None:
            cells_RK[index, ZONES.index(row.zone_truth) * len(LABELS) + LABELS.index(stated_label(row))] = 1
    return cells_RK


def _tables(weights_SR: np.ndarray, cells_RK: np.ndarray) -> np.ndarray:
    return (weights_SR @ cells_RK).reshape(len(weights_SR), len(ZONES), len(LABELS))


def _right(tables_STP: np.ndarray) -> np.ndarray:
    return np.diagonal(tables_STP, axis1=1, axis2=2)
