"""The presence threshold of a shipped model: chosen by hand-made answers."""

import json

import numpy as np
import pytest

from prsmed.errors import DataError
from scripts.export_model import chosen_threshold, presence_threshold


def test_the_threshold_parts_what_can_be_parted():
    prob, present = np.array([0.1, 0.6, 0.7, 0.9]), np.array([False, False, True, True])
    assert presence_threshold(prob, present) == pytest.approx(0.65)
    # One absent picture above all: 2 of 2 and 1 of 2 is more than any other cut gives.
    assert presence_threshold(np.array([0.2, 0.95, 0.7, 0.9]), present) == pytest.approx(0.45)


def test_one_sort_of_pictures_chooses_nothing():
    with pytest.raises(DataError, match="one sort only"):
        presence_threshold(np.array([0.2, 0.4]), np.array([True, True]))


def test_probes_have_no_say(tmp_path):
    rows = [
        {"probe": "", "presence_prob": 0.2, "present": False},
        {"probe": "", "presence_prob": 0.6, "present": True},
        {"probe": "blank", "presence_prob": 0.99, "present": False},
        {"probe": "", "presence_prob": None, "present": False},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert chosen_threshold(tmp_path) == pytest.approx(0.4)
