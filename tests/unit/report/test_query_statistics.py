"""Counts of a manifest's questions, on rows written out by hand."""

import json
from pathlib import Path

import pytest
from PIL import Image

from prsmed.errors import DataError
from prsmed.report.query_statistics import count_queries, write_statistics
from prsmed.types import Case, Query, Target

LIVER, SPLEEN = Target("t1", "liver", "organ"), Target("t2", "spleen", "organ")
CASES = [
    Case(
        "a",
        "a.png",
        "ct",
        "g",
        "train",
        targets=(LIVER, SPLEEN),
        queries=(
            Query("q1", ("t1",), "naming", "Segment the liver."),
            Query("q2", ("t1",), "attribute", "Which organ makes bile, and stores sugar?", "long"),
            Query("q3", (), "naming", "Segment the pancreas."),
        ),
    ),
    Case("b", "b.png", "ct", "g", "test", targets=(LIVER,), queries=()),
]


def test_counts() -> None:
    found = count_queries(CASES)
    assert (found["images"], found["images_with_queries"], found["queries"], found["absent"]) == (2, 1, 3, 1)
    assert found["classes"] == {"liver": {"images": 2, "queries": 2}, "spleen": {"images": 1, "queries": 0}}
    assert found["splits"]["train"] == {"naming": {"short": 2, "long": 0}, "attribute": {"short": 0, "long": 1}}
    assert found["words_per_question"] == {"short": {3: 2}, "long": {7: 1}}
    assert found["words"] == {
        "segment": 2,
        "liver": 1,
        "makes": 1,
        "organ": 1,
        "pancreas": 1,
        "stores": 1,
        "sugar": 1,
        "which": 1,
    }
    assert found["distinct_questions"] == 3


def test_files(tmp_path: Path) -> None:
    write_statistics(CASES, tmp_path / "made")
    assert json.loads((tmp_path / "made" / "statistics.json").read_text())["queries"] == 3
    with Image.open(tmp_path / "made" / "statistics.png") as picture:
        assert picture.format == "PNG"


def test_nothing_to_count_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="prsmed data queries"):
        write_statistics(CASES[1:], tmp_path)
