"""Bootstrap over patients: hand-worked draws, and simulations in which the truth is known."""

import numpy as np
import pytest

from prsmed.metrics.intervals import Bootstrap, macro_mean, mean, ratio

ALL = np.ones(4, dtype=bool)
VALUES = np.array([0.0, 1.0, 0.5, 0.9])


def test_statistics_by_hand():
    some = np.array([True, True, False, False])
    assert mean(VALUES, ALL).value() == pytest.approx(2.4 / 4)
    assert mean(VALUES, some).value() == 0.5 and mean(VALUES, some).n == 2
    assert ratio(VALUES, np.array([1.0, 2.0, 3.0, 4.0]), ALL).value() == pytest.approx(2.4 / 10)
    # one half of the first two, 0.7 of the last two: each part counts once, however many rows it has
    assert macro_mean([mean(VALUES, some), mean(VALUES, ~some)], rows=4).value() == pytest.approx(0.6)


def test_weights_repeat_rows():
    twice_the_second = np.array([[1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    assert mean(VALUES, ALL).compute(twice_the_second) == pytest.approx([2 / 3, 0.9])


def test_a_part_that_a_draw_leaves_out_does_not_pull_the_macro_mean_down():
    first = np.array([True, True, False, False])
    macro = macro_mean([mean(VALUES, first), mean(VALUES, ~first)], rows=4)
    assert macro.compute(np.array([[1.0, 1.0, 0.0, 0.0]])) == pytest.approx([0.5])


def test_what_has_no_rows_has_no_value_and_no_interval():
    nothing = mean(VALUES, ~ALL)
    assert nothing.value() is None and macro_mean([], rows=4).value() is None
    assert Bootstrap().intervals(["a", "b", "c", "d"], {"nothing": nothing}) == {"nothing": None}
    empty = mean(np.zeros(0), np.zeros(0, dtype=bool))
    assert Bootstrap().intervals([], {"empty": empty}) == {"empty": None}


def test_groups_are_drawn_whole():
    weights = Bootstrap(n_draws=50).weights(["b", "a", "b", "c"])
    assert weights.shape == (50, 4)
    assert (weights[:, 0] == weights[:, 2]).all() and (weights[:, 0] != weights[:, 1]).any()
    assert (weights[:, :2].sum(axis=1) + weights[:, 3] == 3).all()  # three groups drawn, three exist


def test_draws_depend_on_the_seed_and_not_on_the_order_of_rows():
    groups = ["a", "b", "c", "d"]
    assert (Bootstrap().weights(groups) == Bootstrap().weights(groups[::-1])[:, ::-1]).all()
    assert (Bootstrap().weights(groups) != Bootstrap(seed=1).weights(groups)).any()


def test_two_groups_by_hand():
    # Means of a draw: 0, 0.5 and 1 with chances 1/4, 1/2 and 1/4; the outer 2.5 % are 0 and 1.
    two = mean(np.array([0.0, 1.0]), np.ones(2, dtype=bool))
    assert Bootstrap().intervals(["a", "b"], {"two": two}) == {"two": [0.0, 1.0]}
    assert Bootstrap(coverage=0.4).intervals(["a", "b"], {"two": two}) == {"two": [0.5, 0.5]}


def test_fewer_than_two_groups_give_no_interval():
    assert Bootstrap().intervals(["a"] * 4, {"all": mean(VALUES, ALL)}) == {"all": None}
    only_a = mean(VALUES, np.array([True, True, False, False]))
    assert Bootstrap().intervals(["a", "a", "b", "b"], {"a": only_a}) == {"a": None}


def _clustered(rng: np.random.Generator, truth: float) -> tuple[list[str], np.ndarray]:
    """40 patients with 6 pictures each; most of the spread lies between patients."""
    scores = truth + rng.normal(0, 0.2, size=(40, 1)) + rng.normal(0, 0.1, size=(40, 6))
    return [f"p{patient}" for patient in np.repeat(np.arange(40), 6)], scores.ravel()


def _covers(interval: list[float] | None, truth: float) -> bool:
    assert interval is not None
    return interval[0] <= truth <= interval[1]


def test_the_interval_covers_the_truth_and_drawing_single_rows_would_not():
    """Of 200 simulated splits about 95 % must hold the truth: 0.95 +- 3 * sqrt(0.95 * 0.05 / 200) is 0.90 to 1.

    Rows of a patient correlate with 0.04 / 0.05 = 0.8, so the variance of the mean is 1 + 5 * 0.8 = 5 times what
    independent rows would have: their interval reaches 1.96 / sqrt(5) = 0.88 standard errors far and covers 62 %.
    """
    rng, truth, simulations = np.random.default_rng(3), 0.6, 200
    by_patient = by_row = 0
    for _ in range(simulations):
        groups, scores = _clustered(rng, truth)
        statistic = {"dice": mean(scores, np.ones(len(scores), dtype=bool))}
        draw = Bootstrap(n_draws=300)
        by_patient += _covers(draw.intervals(groups, statistic)["dice"], truth)
        by_row += _covers(draw.intervals([str(row) for row in range(len(groups))], statistic)["dice"], truth)
    assert 0.90 <= by_patient / simulations < 1
    assert 0.50 <= by_row / simulations <= 0.74


def test_the_interval_of_a_paired_difference_covers_the_true_difference():
    rng, gain, simulations = np.random.default_rng(4), 0.05, 200
    covered = 0
    for _ in range(simulations):
        groups, scores = _clustered(rng, 0.6)
        better = scores + gain + np.repeat(rng.normal(0, 0.05, size=40), 6) + rng.normal(0, 0.05, size=240)
        every = np.ones(240, dtype=bool)
        found = Bootstrap(n_draws=300).differences(groups, {"dice": mean(scores, every)}, {"dice": mean(better, every)})
        covered += _covers(found["dice"]["interval"], gain)
    assert 0.90 <= covered / simulations < 1


def test_a_constant_gain_is_certain_however_much_patients_differ():
    groups, scores = _clustered(np.random.default_rng(5), 0.6)
    every = np.ones(240, dtype=bool)
    found = Bootstrap().differences(groups, {"dice": mean(scores, every)}, {"dice": mean(scores + 0.01, every)})["dice"]
    assert found["n"] == 240 and found["difference"] == pytest.approx(0.01)
    assert found["interval"] == pytest.approx([0.01, 0.01])


def test_a_pair_needs_both():
    first, second = np.array([True, True, True, False]), np.array([False, True, True, True])
    pair = {"x": mean(VALUES, first)}, {"x": mean(1 - VALUES, second)}
    found = Bootstrap().differences(["a", "b", "c", "d"], *pair)["x"]
    assert (found["n"], found["a"], found["b"]) == (2, 0.75, 0.25)
    # Only b (gain -1) and c (gain 0) are pairs: a draw's mean gain lies between them, whatever a and d have.
    assert found["interval"] == [-1.0, 0.0]
    alone = Bootstrap().differences(["a", "b", "c", "d"], pair[0], {"x": mean(VALUES, ~first)})["x"]
    assert alone == {"n": 0, "a": None, "b": None, "difference": None, "interval": None}
