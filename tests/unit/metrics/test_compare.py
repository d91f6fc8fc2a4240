"""Two systems on the same questions: differences counted by hand."""

import dataclasses

import numpy as np
import pytest

from prsmed.errors import RequestError
from prsmed.metrics.compare import compare
from prsmed.metrics.intervals import Bootstrap
from prsmed.metrics.rows import ScoreRow
from prsmed.types import ZONES
from tests.unit.metrics.test_position import MASK, row


def _rows(dices: list[float], stated: list[str] | None = None) -> list[ScoreRow]:
    zones = [ZONES[index % 5] for index in range(len(dices))]
    return [
        row(index, zone, says, mask=dataclasses.replace(MASK, dice=dice))
        for index, (zone, says, dice) in enumerate(zip(zones, stated or zones, dices, strict=True))
    ]


def test_differences_by_hand():
    first = _rows([0.2, 0.4, 0.6, 0.8, 1.0], ["center"] * 5)
    second = _rows([0.3, 0.5, 0.7, 0.9, 1.0])
    found = compare(first, second)
    assert {name: found[name] for name in ("n", "n_groups", "only_a", "only_b")} == {
        "n": 5,
        "n_groups": 5,
        "only_a": 0,
        "only_b": 0,
    }
    dice = found["differences"]["dice"]
    assert (dice["n"], dice["a"], dice["b"]) == (5, pytest.approx(0.6), pytest.approx(0.68))
    assert dice["difference"] == pytest.approx(0.08) and 0 < dice["interval"][0] < 0.08 < dice["interval"][1] <= 0.1
    kappa = found["differences"]["zone_kappa"]
    assert (kappa["a"], kappa["b"], kappa["difference"]) == (0.0, 1.0, 1.0)
    assert found["differences"]["zone_accuracy"]["difference"] == pytest.approx(0.8)


def test_every_score_is_compared():
    names = set(compare(_rows([0.5] * 5), _rows([0.5] * 5))["differences"])
    assert {"dice", "iou", "nsd", "macro_lesion_dice", "zone_accuracy", "zone_kappa", "specificity", "ciou"} <= names


def test_a_score_without_cases_has_no_difference():
    specificity = compare(_rows([0.5] * 5), _rows([0.6] * 5))["differences"]["specificity"]
    assert specificity == {"n": 0, "a": None, "b": None, "difference": None, "interval": None}


def test_swapping_the_systems_turns_the_sign():
    rng = np.random.default_rng(0)
    first, second = _rows(rng.random(40).tolist()), _rows(rng.random(40).tolist())
    there, back = (compare(*pair)["differences"]["dice"] for pair in ((first, second), (second, first)))
    assert there["difference"] == -back["difference"]
    assert there["interval"] == pytest.approx([-back["interval"][1], -back["interval"][0]])


def test_only_shared_questions_count_and_the_order_does_not():
    first, second = _rows([0.2, 0.4, 0.6]), _rows([0.3, 0.5, 0.7, 0.0, 0.0])[1:][::-1]
    found = compare(first, second)
    assert (found["n"], found["only_a"], found["only_b"]) == (2, 1, 2)
    assert found["differences"]["dice"]["a"] == pytest.approx(0.5)
    assert found["differences"]["dice"]["b"] == pytest.approx(0.6)


def test_probes_are_left_out():
    rows = _rows([0.5] * 5)
    probes = [dataclasses.replace(one, probe="flip") for one in rows]
    assert compare([*rows, *probes], rows) == compare(rows, rows)


def test_pairs_are_surer_than_their_parts():
    """Patients differ by 0.2, the systems by 0.05 on each of them: unpaired, the difference would drown."""
    rng = np.random.default_rng(1)
    dices = rng.normal(0.5, 0.2, 50)
    found = compare(_rows(dices.tolist()), _rows((dices + 0.05).tolist()), intervals=Bootstrap(n_draws=200))
    assert found["differences"]["dice"]["interval"] == pytest.approx([0.05, 0.05])


def test_a_silent_system_is_compared_by_its_masks():
    silent = [dataclasses.replace(one, text_kind="silent", zones_text=()) for one in _rows([0.5] * 5)]
    found = compare(silent, _rows([0.75] * 5))["differences"]
    assert found["zone_accuracy"]["difference"] is None and found["zone_accuracy"]["n"] == 0
    assert found["dice"]["difference"] == 0.25


def test_nothing_shared_is_refused():
    other = [dataclasses.replace(one, key=f"other{one.index}") for one in _rows([0.5] * 3)]
    with pytest.raises(RequestError, match="none of the 3 and 3 questions is shared; evaluate both"):
        compare(_rows([0.5] * 3), other)
    with pytest.raises(RequestError, match="none of the 0"):
        compare([], other)


@pytest.mark.parametrize(
    ("name", "value"),
    [("zones_truth", ("center",)), ("present", False), ("group", "g9"), ("kind", "organ"), ("border_ambiguous", True)],
)
def test_another_truth_is_refused(name, value):
    changed = [dataclasses.replace(one, **{name: value}) for one in _rows([0.5])]
    with pytest.raises(RequestError, match=rf"case0/t1 has {name} .* same zone rule"):
        compare(_rows([0.5]), changed)


def test_another_number_of_true_regions_is_refused():
    changed = [dataclasses.replace(one, mask=dataclasses.replace(MASK, lesions_true=2)) for one in _rows([0.5])]
    with pytest.raises(RequestError, match="lesions_true 1 in the first rows and 2"):
        compare(_rows([0.5]), changed)


def test_a_key_that_occurs_twice_is_refused():
    rows = _rows([0.5])
    with pytest.raises(RequestError, match="second rows hold case0/t1 twice"):
        compare(rows, [*rows, *rows])
