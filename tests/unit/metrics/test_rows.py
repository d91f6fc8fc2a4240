"""Scored rows as lines of rows.jsonl."""

import json

import pytest

from prsmed.errors import DataError
from prsmed.metrics.rows import read_rows
from tests.unit.metrics.test_position import row

ROWS = [row(0, "top-left", "center", model_text="Слева, 文"), row(1, "", "none", zones_truth=("center", "top-left"))]


def test_rows_are_plain_data_and_come_back(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(one.to_json()) + "\n" for one in ROWS), encoding="utf-8")
    assert read_rows(path) == ROWS
    assert (ROWS[0].zone_truth, ROWS[1].zone_truth) == ("top-left", None)


@pytest.mark.parametrize("text", [None, "not json\n", '{"index": 0}\n', '{"mask": {}, "zones_truth": 3}\n', "\udcff"])
def test_what_is_not_rows_is_refused(tmp_path, text):
    path = tmp_path / "rows.jsonl"
    if text is not None:
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=r"rows.jsonl: cannot be read as scored rows .*; run `prsmed evaluate` first"):
        read_rows(path)
