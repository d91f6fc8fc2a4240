"""The table that ends a validation or an evaluation."""

import re

import pytest

from bundle.console import print_scores
from prsmed.metrics.intervals import Bootstrap
from prsmed.metrics.rows import MaskScores, ScoreRow
from prsmed.metrics.summary import summarise
from tests.unit.metrics.test_position import row


def scored(index: int, kind: str, dice: float, *, right: bool) -> ScoreRow:
    mask = MaskScores(dice, dice, dice, 1, 1, dice, 1, 1, 0)
    return row(index, "center", "center" if right else "top-left", modality="ct", kind=kind, mask=mask)


def printed(content: dict, capsys: pytest.CaptureFixture[str], title: str = "first on test") -> str:
    print_scores(content, title=title)
    return capsys.readouterr().out


def test_the_table_has_a_line_for_each_modality_and_kind(capsys: pytest.CaptureFixture[str]) -> None:
    scores = summarise([scored(0, "lesion", 0.25, right=True), scored(1, "organ", 0.75, right=False)])
    constant = summarise([scored(0, "lesion", 0.125, right=False), scored(1, "organ", 0.5, right=False)])
    out = printed({**scores, "baselines": {"constant": constant, "oracle": scores}}, capsys)
    cells = [re.split(r"\s*│\s*", line.strip(" │")) for line in out.splitlines() if "│" in line]
    table = {line[0]: line[1:] for line in cells}
    assert table["ct lesions"] == ["1", "0.250", "0.250", "1.000 (1)", "-", "0.125", "0.000"]
    assert table["overall"] == ["2", "0.500", "0.500", "0.500 (2)", "-", "0.312", "0.000"]
    assert set(table) >= {"ct lesions", "ct organs", "lesions", "organs", "overall"}
    assert "constant: 0 images without the target" in out


def test_a_validation_has_neither_baselines_nor_gates(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(summarise([scored(0, "lesion", 0.25, right=True)]), capsys)
    assert "0.250" in out and "gates" not in out and "constant:" not in out
    assert "headline, macro lesion Dice: 0.250\n" in out


def test_intervals_and_verdicts(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [scored(index, "lesion", 0.25 + 0.5 * (index % 2), right=True) for index in range(4)]
    content = summarise(rows, intervals=Bootstrap(n_draws=50))
    gates = {"flip": (True, 1.0), "blank": (False, 0.0), "selective": (None, None)}
    content["gates"] = {name: {"passed": passed, "value": value} for name, (passed, value) in gates.items()}
    out = printed(content, capsys)
    low, high = content["overall"]["intervals"]["macro_lesion_dice"]
    assert f"0.500 [{low:.3f}, {high:.3f}]" in out
    assert "gates: flip pass (1.000), blank FAIL (0.000), selective no case (-)" in out


@pytest.mark.parametrize("title", ["[/red] on test", "[bold]x[/bold] on test", "a [1] on test"])
def test_a_name_is_no_markup(title: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert title in printed(summarise([scored(0, "lesion", 0.25, right=True)]), capsys, title)
