"""Findings of masks drawn by hand; every expected number is counted from the drawing."""

import numpy as np
import pytest
from skimage import measure

from prsmed.errors import DataError
from prsmed.text.findings import components, default_min_area_px, find


def test_slots_of_one_region():
    mask = np.zeros((100, 200), bool)
    mask[10:20, 150:170] = True
    prob = np.where(mask, 0.75, 0.1)
    (finding,) = find(mask, spacing_hw_mm=(0.5, 2.0), prob_HW=prob)
    assert (finding.zone, finding.zone_rule) == ("top-right", "posmed-2")
    assert (finding.picture_side, finding.picture_level, finding.central) == ("right", "top", False)
    assert finding.box_xyxy_px == (150, 10, 170, 20)
    assert finding.centroid_xy_px == (160.0, 15.0)
    assert finding.area_px == 200 and finding.area_mm2 == 200.0
    assert finding.box_xyxy_mm == (300.0, 5.0, 340.0, 10.0)
    assert finding.score == pytest.approx(0.75)
    assert (finding.patient_side, finding.ap, finding.si, finding.frame) == ("unknown", "unknown", "unknown", "picture")


def test_no_millimetres_without_spacing_and_no_score_without_probabilities():
    mask = np.zeros((40, 40), bool)
    mask[5:10, 5:10] = True
    (finding,) = find(mask)
    assert finding.area_mm2 is None and finding.box_xyxy_mm is None and finding.score is None


def test_empty_mask_has_no_finding():
    assert find(np.zeros((50, 60), bool)) == []
    assert find(np.zeros((50, 60), bool), per_component=False) == []


def test_components_are_sorted_by_area_and_small_ones_dropped():
    mask = np.zeros((100, 100), bool)
    mask[5:10, 5:10] = True  # 25 px
    mask[80:90, 80:90] = True  # 100 px
    mask[50, 20:27] = True  # 7 px, below the default of 8
    assert [finding.area_px for finding in find(mask)] == [100, 25]
    assert [finding.area_px for finding in find(mask, min_area_px=1)] == [100, 25, 7]


@pytest.mark.parametrize("seed", range(4))
def test_components_are_those_of_the_whole_picture(seed):
    """Only the mask's box is labelled; scikit-image labels all of it."""
    mask_HW = np.zeros((40, 60), dtype=bool)
    mask_HW[seed : 30 - seed, 10 * seed : 50] = (
        np.random.default_rng(seed).random((30 - 2 * seed, 50 - 10 * seed)) < 0.4
    )
    labels_HW, kept = components(mask_HW, 3)
    expected_HW = measure.label(mask_HW, connectivity=2)
    np.testing.assert_array_equal(labels_HW, expected_HW)
    areas_px = [int((expected_HW == label).sum()) for label in kept]
    assert areas_px == sorted(areas_px, reverse=True) and min(areas_px) >= 3
    rows, columns = np.nonzero(expected_HW == kept[0])
    expected_xy_px = (columns.mean() + 0.5, rows.mean() + 0.5)
    assert find(mask_HW)[0].centroid_xy_px == expected_xy_px


def test_diagonal_neighbours_are_one_component():
    assert len(find(np.eye(20, dtype=bool))) == 1


def test_a_mask_of_specks_keeps_its_largest():
    mask = np.zeros((100, 100), bool)
    mask[3, 3] = True
    mask[90, 90:92] = True
    (finding,) = find(mask)
    assert finding.area_px == 2 and finding.zone == "bottom-right"


def test_default_min_area_grows_with_the_picture():
    assert default_min_area_px((100, 100)) == 8
    assert default_min_area_px((1000, 1000)) == 100


def test_two_lungs_are_one_finding_when_asked_for():
    mask = np.zeros((100, 100), bool)
    mask[20:80, 10:40] = True
    mask[20:80, 60:90] = True
    mask[0, 0] = True  # a speck does not widen the box
    (finding,) = find(mask, per_component=False)
    assert finding.box_xyxy_px == (10, 20, 90, 80) and finding.zone == "center" and finding.area_px == 3600


def test_mirror_swaps_left_and_right():
    rng = np.random.default_rng(1)
    swap = {"left": "right", "right": "left"}
    for _ in range(50):
        mask = np.zeros((60, 91), bool)
        for _ in range(rng.integers(1, 4)):
            y, x = rng.integers(0, 50), rng.integers(0, 80)
            mask[y : y + rng.integers(3, 9), x : x + rng.integers(3, 9)] = True
        for finding in find(mask):
            x0, y0, x1, y1 = finding.box_xyxy_px
            twin = next(other for other in find(mask[:, ::-1]) if other.box_xyxy_px == (91 - x1, y0, 91 - x0, y1))
            if (x0 + x1) / 2 == 45.5:  # on the dividing line: counts as right on both sides, and is marked
                assert finding.border_ambiguous or finding.zone == "center"
                continue
            assert twin.picture_side == swap[finding.picture_side] and twin.picture_level == finding.picture_level
            level, _, side = finding.zone.partition("-")
            assert twin.zone == (f"{level}-{swap[side]}" if side else "center")
            assert twin.border_ambiguous == finding.border_ambiguous


def test_ambiguity_is_marked():
    mask = np.zeros((100, 100), bool)
    mask[10:20, 44:54] = True  # centre 49, the dividing line is at 50
    assert find(mask)[0].border_ambiguous
    assert not find(np.roll(mask, -20, axis=1))[0].border_ambiguous


def test_wrong_arrays_are_refused():
    with pytest.raises(DataError, match="threshold"):
        find(np.zeros((4, 4), np.float32))
    with pytest.raises(DataError, match="one grid"):
        find(np.zeros((4, 4), bool), prob_HW=np.zeros((5, 4)))
