"""The baselines on masks drawn by hand."""

import numpy as np
import pytest

from prsmed.errors import RequestError
from prsmed.geometry import mask_to_box
from prsmed.metrics.baselines import Asked, Replied, TrainingMasks, chance, constant, get_baseline, oracle
from prsmed.text.parse import parse_position
from prsmed.types import ZONES


def _mask(x0, y0, x1, y1, hw_px=(64, 64)):
    mask = np.zeros(hw_px, bool)
    mask[y0:y1, x0:x1] = True
    return mask


EMPTY = np.zeros((64, 64), bool)
LUNGS = _mask(8, 8, 24, 56) | _mask(40, 8, 56, 56)
EXAMPLES = [
    ("mri", "tumour", _mask(0, 0, 16, 16), ("top-left",)),
    ("mri", "tumour", _mask(0, 0, 16, 16), ("top-left",)),
    ("mri", "tumour", _mask(40, 40, 60, 60), ("bottom-right",)),
    ("mri", "tumour", EMPTY, ()),
    ("ct", "nodule", EMPTY, ()),
    ("ct", "nodule", EMPTY, ()),
    ("ct", "nodule", _mask(4, 4, 9, 9), ("top-left",)),
    ("x-ray", "lungs", LUNGS, ("center", "center")),
]
TRAINING = TrainingMasks(EXAMPLES)


def _answer(baseline, modality, target, kind="lesion", *, truth_HW=EMPTY, key="case/t1", training=TRAINING) -> Replied:
    return baseline(Asked(key, modality, target, kind, truth_HW), training, zone_rule="posmed")


def _zones(reply, target):
    return parse_position(reply.model_text, target=target).zones


def test_the_mean_mask_is_cut_where_it_serves_best():
    reply = _answer(constant, "mri", "tumour")
    # two of three masks agree: a Dice of 1, 1 and 0 beats the union's
    np.testing.assert_array_equal(reply.mask_HW, EXAMPLES[0][2])
    assert reply.presence_prob == 0.75  # three of four training images
    assert _zones(reply, "tumour") == ("top-left",)


def test_the_answer_fits_any_picture():
    reply = _answer(constant, "mri", "tumour", truth_HW=np.zeros((128, 256), bool))
    assert reply.mask_HW.shape == (128, 256) and mask_to_box(reply.mask_HW) == (0, 0, 64, 32)


def test_a_constant_answer_does_not_look():
    shown, hidden = (
        _answer(constant, "mri", "tumour", truth_HW=truth, key=key)
        for truth, key in ((_mask(30, 3, 40, 9), "a"), (EMPTY, "b"))
    )
    np.testing.assert_array_equal(shown.mask_HW, hidden.mask_HW)
    assert (shown.presence_prob, shown.model_text) == (hidden.presence_prob, hidden.model_text)


@pytest.mark.parametrize("target", ["nodule", "kneecap"])
def test_what_is_mostly_absent_or_never_seen_is_said_to_be_absent(target):
    reply = _answer(constant, "ct", target, truth_HW=np.ones((32, 32), bool))
    assert reply.mask_HW.shape == (32, 32) and not reply.mask_HW.any() and reply.presence_prob <= 0.5
    assert parse_position(reply.model_text, target=target).kind == "none"
    assert not _answer(chance, "ct", "kneecap").mask_HW.any()


def test_a_target_asked_in_another_modality_gets_its_own_answer():
    """As the gates ask: the best a system can do that hears the target and does not look."""
    reply = _answer(constant, "endoscopy", "tumour")
    np.testing.assert_array_equal(reply.mask_HW, EXAMPLES[0][2])


def test_an_organ_of_two_parts_is_one_finding():
    reply = _answer(constant, "x-ray", "lungs", "organ")
    np.testing.assert_array_equal(reply.mask_HW, LUNGS)
    # no training image has a single zone to count: the sentence states where the mean mask lies
    assert _zones(reply, "lungs") == ("center",)


def test_masks_that_never_overlap_still_give_a_mask():
    corners = [_mask(x, y, x + 1, y + 1) for x in range(0, 64, 8) for y in range(0, 64, 8)]
    training = TrainingMasks(("ct", "nodule", corner, ("center",)) for corner in corners)
    assert _answer(constant, "ct", "nodule", training=training).mask_HW.any()


def test_chance_is_repeatable_and_guesses_as_often_as_in_training():
    """300 questions about a target that three of four training images show; zones and masks drawn evenly."""
    replies = [_answer(chance, "mri", "tumour", key=f"case{index}") for index in range(300)]
    again = _answer(chance, "mri", "tumour", key="case7")
    np.testing.assert_array_equal(again.mask_HW, replies[7].mask_HW)
    assert again.model_text == replies[7].model_text
    shown = [reply for reply in replies if reply.presence_prob == 1]
    assert all(reply.mask_HW.any() == (reply.presence_prob == 1) for reply in replies)
    assert len(shown) / 300 == pytest.approx(0.75, abs=0.1)  # four standard deviations of 0.025
    named = [_zones(reply, "tumour")[0] for reply in shown]
    assert all(named.count(zone) / len(shown) == pytest.approx(1 / 5, abs=0.11) for zone in ZONES)
    corner = np.mean([reply.mask_HW[0, 0] for reply in shown])
    assert corner == pytest.approx(2 / 3, abs=0.13)


@pytest.mark.parametrize("truth_HW", [EMPTY, _mask(2, 40, 9, 50), _mask(2, 40, 9, 50) | _mask(50, 4, 60, 12)])
def test_the_oracle_says_what_is_true(truth_HW):
    reply = _answer(oracle, "mri", "tumour", truth_HW=truth_HW)
    np.testing.assert_array_equal(reply.mask_HW, truth_HW)
    parsed = parse_position(reply.model_text, target="tumour")
    expected = {0: (), 70: ("bottom-left",), 150: ("bottom-left", "top-right")}[int(truth_HW.sum())]
    assert reply.presence_prob == float(bool(expected))
    assert (parsed.kind, sorted(parsed.zones)) == ("positions" if expected else "none", sorted(expected))


def test_an_unknown_baseline_is_named():
    with pytest.raises(RequestError, match=r"baseline 'best': unknown; choose one of constant, chance, oracle"):
        get_baseline("best")
