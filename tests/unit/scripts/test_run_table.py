"""The rows of a table are overlays of the preset's own config."""

import math

import pytest

from scripts.run_table import (
    as_preset,
    cell,
    frozen_encoder,
    frozen_language,
    interval,
    learning_encoder,
    words_only,
)

PARTS = ["decoder.*", "encoder.*", "language.model.*", "language.projector.*"]
TINY = {
    "stages": [
        {"name": "see", "share": 0.1, "trainable": ["encoder.*", "decoder.*"]},
        {"name": "joint", "share": 0.9, "trainable": ["*"]},
    ],
    "loss_weights": {"bce": 1.0, "ce": 2.0},
}
SMALL = {
    "stages": [{"name": "joint", "share": 1.0, "trainable": ["decoder.*", "language.model.*lora_*"]}],
    "loss_weights": {"bce": 1.0, "ce": 2.0},
}


def patterns(overlay: dict) -> list[list[str]]:
    return [entry["trainable"] for entry in overlay["stages"]]


def test_the_causal_rows_differ_in_what_learns():
    assert patterns(frozen_language(TINY, PARTS))[1] == ["decoder.*", "encoder.*", "language.projector.*"]
    assert patterns(frozen_language(SMALL, PARTS)) == [["decoder.*"]]
    words = words_only(TINY, PARTS)
    assert patterns(words) == [["language.model.*", "language.projector.*"]]
    assert words["stages"][0]["share"] == 1, "the time of a stage without anything to learn goes to the others"
    assert words["loss_weights"] == {"bce": 0.0, "ce": 2.0}
    assert as_preset(TINY, PARTS) == {"stages": TINY["stages"]}


def test_the_encoder_rows_differ_in_the_encoder_alone():
    assert patterns(frozen_encoder(TINY, PARTS))[0] == ["decoder.*"]
    assert patterns(learning_encoder(SMALL, PARTS)) == [["encoder.*", "decoder.*", "language.model.*lora_*"]]


def test_the_interval_is_student_t_over_seeds():
    """Three values with mean 2 and deviation 1: t(0.975, 2) = 4.3027, divided by the root of 3."""
    mean, low, high = interval([1.0, 2.0, 3.0])
    assert mean == 2
    assert (high - 2, 2 - low) == pytest.approx((4.3027 / math.sqrt(3),) * 2, abs=1e-4)
    assert all(math.isnan(end) for end in interval([0.5])[1:])


def test_one_seed_is_not_shown_as_an_interval():
    """Square brackets would be read as markup and vanish."""
    assert cell([0.5]) == "0.500 (one seed)"
    assert cell([1.0, 2.0, 3.0]) == "2.000 (-0.484 to 4.484)"
