"""The constant baseline on masks drawn by hand."""

import numpy as np

from prsmed.metrics.baselines import ConstantBaseline
from prsmed.text.parse import parse_position


def _mask(x0, y0, x1, y1, hw_px=(64, 64)):
    mask = np.zeros(hw_px, bool)
    mask[y0:y1, x0:x1] = True
    return mask


EMPTY = np.zeros((64, 64), bool)
EXAMPLES = [
    ("mri", "tumour", _mask(0, 0, 16, 16), ("top-left",)),
    ("mri", "tumour", _mask(0, 0, 16, 16), ("top-left",)),
    ("mri", "tumour", _mask(40, 40, 60, 60), ("bottom-right",)),
    ("mri", "tumour", EMPTY, ()),
    ("ct", "nodule", EMPTY, ()),
    ("ct", "nodule", EMPTY, ()),
    ("ct", "nodule", _mask(4, 4, 9, 9), ("top-left",)),
    ("x-ray", "lungs", _mask(8, 8, 24, 56) | _mask(40, 8, 56, 56), ("center", "center")),
]


def test_the_mean_mask_is_cut_where_it_serves_best():
    thing, sentence = ConstantBaseline().fit(EXAMPLES).answer("mri", "tumour", "lesion", (64, 64), zone_rule="posmed")
    # two of three masks agree: a Dice of 1, 1 and 0 beats the union's
    np.testing.assert_array_equal(thing.mask, EXAMPLES[0][2])
    assert thing.box_xyxy_px == (0, 0, 16, 16) and thing.present and thing.presence_prob == 0.75
    assert parse_position(sentence, target="tumour").zones == ("top-left",)


def test_the_answer_fits_any_picture():
    thing, _ = ConstantBaseline().fit(EXAMPLES).answer("mri", "tumour", "lesion", (128, 256), zone_rule="posmed")
    assert thing.mask.shape == (128, 256) and thing.box_xyxy_px == (0, 0, 64, 32)


def test_what_is_mostly_absent_or_never_seen_is_said_to_be_absent():
    baseline = ConstantBaseline().fit(EXAMPLES)
    for modality, target in (("ct", "nodule"), ("ct", "tumour")):
        thing, sentence = baseline.answer(modality, target, "lesion", (32, 32), zone_rule="posmed")
        assert not thing.mask.any() and not thing.present and thing.findings == [] and thing.box_xyxy_px is None
        assert parse_position(sentence, target=target).kind == "none"


def test_an_organ_of_two_parts_is_one_finding():
    thing, sentence = ConstantBaseline().fit(EXAMPLES).answer("x-ray", "lungs", "organ", (64, 64), zone_rule="posmed")
    assert len(thing.findings) == 1 and thing.mask.sum() == 2 * 16 * 48
    # no training image has a single zone to count: the sentence states where the mean mask lies
    assert parse_position(sentence, target="lungs").zones == (thing.findings[0].zone,)


def test_masks_that_never_overlap_still_give_a_mask():
    corners = [_mask(x, y, x + 1, y + 1) for x in range(0, 64, 8) for y in range(0, 64, 8)]
    examples = [("ct", "nodule", corner, ("center",)) for corner in corners]
    thing, _ = ConstantBaseline().fit(examples).answer("ct", "nodule", "lesion", (64, 64), zone_rule="posmed")
    assert thing.present and thing.mask.any()
