"""How numbers are printed."""

import pytest

from prsmed.report.page import number, score


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "\N{EN DASH}"),
        (0.81249, "0.812"),
        (1.0, "1.000"),
        (-0.05, "-0.050"),
        (0, "0"),
        (4647, "4647"),
        (170.12, "170.1"),
    ],
)
def test_number(value, text):
    assert number(value) == text


def test_a_score_has_its_interval_only_where_both_are_known():
    block = {
        "dice": 0.5,
        "iou": 0.25,
        "kappa": None,
        "intervals": {"dice": [0.4, 0.6], "kappa": [0.0, 0.1], "iou": None},
    }
    assert score(block, "dice").interval == ("0.400", "0.600")
    assert score(block, "iou").interval == score(block, "kappa").interval == score(None, "dice").interval == ()
