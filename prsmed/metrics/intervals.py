"""Bootstrap over patients: how far a number could be off because other patients might have been in the split.

Pictures of one patient, or frames of one video, resemble each other. Drawing single pictures would count them as
independent and give intervals that are too narrow, so whole groups are drawn. One draw is one weight per row: how
often the row's group was drawn. A statistic that can be computed from weights is recomputed for all draws at once.

Shapes here: S draws, R rows, G groups.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Statistic:
    """A number of a list of rows that can be recomputed when each row counts with a weight.

    Attributes:
        compute: weights float64 (S, R) to values float64 (S,), NaN where the weights leave nothing to compute from.
        where: bool (R,), the rows that take part, whatever their values are.
    """

    compute: Callable[[np.ndarray], np.ndarray]
    where: np.ndarray

    @property
    def n(self) -> int:
        """How many rows take part."""
        return int(self.where.sum())

    def value(self, where_R: np.ndarray | None = None) -> float | None:
        """The number itself, of all rows that take part or of some of them; None where it is undefined."""
        weights_R = self.where if where_R is None else where_R
        value = float(self.compute(weights_R[None].astype(np.float64))[0])
        return None if np.isnan(value) else value


def ratio(numerator_R: np.ndarray, denominator_R: np.ndarray, where_R: np.ndarray) -> Statistic:
    """The sum of one quantity divided by the sum of another, over the rows `where_R`."""
    above_R, below_R = np.where(where_R, numerator_R, 0.0), np.where(where_R, denominator_R, 0.0)
    return Statistic(lambda weights_SR: divide(weights_SR @ above_R, weights_SR @ below_R), where_R)


def mean(values_R: np.ndarray, where_R: np.ndarray) -> Statistic:
    """The mean of a quantity over the rows `where_R`."""
    return ratio(values_R, np.ones(len(where_R)), where_R)


def macro_mean(parts: Sequence[Statistic], rows: int) -> Statistic:
    """The unweighted mean of several statistics; in a draw, of those that the draw leaves defined."""
    where_R = np.logical_or.reduce([np.zeros(rows, dtype=bool), *(part.where for part in parts)])

    def compute(weights_SR: np.ndarray) -> np.ndarray:
        none_S = np.full(len(weights_SR), np.nan)
        values_PS = np.stack([none_S, *(part.compute(weights_SR) for part in parts)])
        return divide(np.nansum(values_PS, axis=0), np.isfinite(values_PS).sum(axis=0))

    return Statistic(compute, where_R)


def divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """The quotient as float64, NaN where the denominator is 0."""
    above, below = np.broadcast_arrays(np.asarray(above, np.float64), np.asarray(below, np.float64))
    return np.divide(above, below, out=np.full(below.shape, np.nan), where=below != 0)


@dataclass(frozen=True)
class Bootstrap:
    """Percentile intervals from drawing groups with replacement.

    Attributes:
        n_draws: how many times as many groups as there are, are drawn.
        seed: the same groups and seed give the same draws, in whatever order the rows come.
        coverage: the share of the draws' values that an interval spans.
    """

    n_draws: int = 1000
    seed: int = 0
    coverage: float = 0.95

    def weights(self, groups: Sequence[str]) -> np.ndarray:
        """How often each row's group was drawn, float64 (S, R)."""
        if not groups:
            return np.zeros((self.n_draws, 0))
        names, group_R = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
        draw = np.random.default_rng(self.seed)
        times_SG = draw.multinomial(len(names), np.full(len(names), 1 / len(names)), size=self.n_draws)
        return times_SG.astype(np.float64)[:, group_R]

    def intervals(self, groups: Sequence[str], statistics: Mapping[str, Statistic]) -> dict[str, list[float] | None]:
        """[low, high] of each statistic; None where it is undefined or fewer than two groups take part in it.

        Args:
            groups: the patient or video of each row.
            statistics: all of them over these rows.
        """
        weights_SR = self.weights(groups)
        return {
            name: self._interval(statistic.compute(weights_SR), groups, statistic.where)
            for name, statistic in statistics.items()
        }

    def differences(
        self, groups: Sequence[str], statistics_a: Mapping[str, Statistic], statistics_b: Mapping[str, Statistic]
    ) -> dict[str, dict[str, Any]]:
        """What system b has more than system a, on the same rows and with the same draws for both.

        A row that takes part for only one of them (the other gives no sentence) counts for neither.

        Args:
            groups: the patient or video of each row.
            statistics_a, statistics_b: of both systems, under the same names.

        Returns:
            For each name `n`, `a`, `b`, `difference` (b - a) and its `interval`.
        """
        weights_SR = self.weights(groups)
        differences = {}
        for name, of_a in statistics_a.items():
            of_b = statistics_b[name]
            both_R = of_a.where & of_b.where
            a, b = of_a.value(both_R), of_b.value(both_R)
            difference, interval = None, None
            if a is not None and b is not None:
                paired_SR = weights_SR * both_R
                draws_S = of_b.compute(paired_SR) - of_a.compute(paired_SR)
                difference, interval = b - a, self._interval(draws_S, groups, both_R)
            differences[name] = {
                "n": int(both_R.sum()),
                "a": a,
                "b": b,
                "difference": difference,
                "interval": interval,
            }
        return differences

    def _interval(self, draws_S: np.ndarray, groups: Sequence[str], where_R: np.ndarray) -> list[float] | None:
        defined_S = draws_S[np.isfinite(draws_S)]
        if not len(defined_S) or len({group for group, part in zip(groups, where_R, strict=True) if part}) < 2:
            return None
        tail = (1 - self.coverage) / 2
        low, high = np.quantile(defined_S, [tail, 1 - tail])
        return [float(low), float(high)]


STANDARD = Bootstrap()
