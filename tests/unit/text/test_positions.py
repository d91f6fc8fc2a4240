"""Zone rules: the written-out rules of the project page (posmed) and of paper A.6 (mmrs)."""

import numpy as np
import pytest

from prsmed.errors import DataError, RequestError
from prsmed.text.positions import ZONE_RULES, border_ambiguous, get_rule, is_central, zone_of


def box_around(x_px: float, y_px: float, half_px: float = 1) -> tuple[float, float, float, float]:
    return x_px - half_px, y_px - half_px, x_px + half_px, y_px + half_px


@pytest.mark.parametrize(
    ("center_xy_px", "zone"),
    [
        ((10, 10), "top-left"),
        ((190, 10), "top-right"),
        ((10, 90), "bottom-left"),
        ((190, 90), "bottom-right"),
        ((100, 50), "center"),
        ((119, 50), "center"),  # 19 px from the centre, radius 0.2 * 100 = 20
        ((121, 49), "top-right"),  # 21 px: outside, although 0.2 of the width would be 40
        ((100, 31), "center"),
        ((99, 29), "top-left"),
    ],
)
def test_posmed_zones_of_a_wide_picture(center_xy_px, zone):
    assert zone_of(box_around(*center_xy_px), (100, 200)) == zone


def test_radius_is_exclusive_and_symmetric_in_a_tall_picture():
    assert zone_of(box_around(50, 80), (200, 100)) == "top-right"  # exactly 20 px above the centre
    assert zone_of(box_around(50, 81), (200, 100)) == "center"
    assert zone_of(box_around(50, 119), (200, 100)) == "center"


@pytest.mark.parametrize("rule", ZONE_RULES)
def test_mirror_swaps_left_and_right(rule):
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width = rng.integers(20, 90, 2)
        mask = np.zeros((height, width), bool)
        y0, x0 = rng.integers(0, height - 6), rng.integers(0, width - 6)
        mask[y0 : y0 + rng.integers(1, 7), x0 : x0 + 5] = True
        y1 = y0 + int(mask.any(axis=1).sum())
        zone = zone_of((x0, y0, x0 + 5, y1), (height, width), rule=rule, mask=mask)
        mirrored = zone_of((width - x0 - 5, y0, width - x0, y1), (height, width), rule=rule, mask=mask[:, ::-1])
        swap = {"left": "right", "right": "left"}
        level, _, side = zone.partition("-")
        on_the_line = x0 + 2.5 == width / 2
        assert on_the_line or mirrored == (f"{level}-{swap[side]}" if side else zone)


def test_mmrs_takes_the_quadrant_with_most_of_the_mask_and_states_the_center_beside_it():
    mask = np.zeros((100, 100), bool)
    mask[10:20, 5:15] = True  # 100 px, top left
    mask[10, 15:90] = True  # a thin line pulls the box centre to the right of 50? no: (5 + 90) / 2 = 47.5
    mask[10, 90:99] = True  # now (5 + 99) / 2 = 52
    box = (5, 10, 99, 20)
    assert zone_of(box, (100, 100), rule="mmrs") == "top-right"  # the box alone
    assert zone_of(box, (100, 100), rule="mmrs", mask=mask) == "top-left"
    assert not is_central(box, (100, 100), rule="mmrs", mask=mask)
    near = box_around(45, 45)
    assert zone_of(near, (100, 100), rule="mmrs") == "top-left" and is_central(near, (100, 100), rule="mmrs")
    assert not is_central(box_around(35, 35), (100, 100), rule="mmrs")  # 21.2 units away, A.6 says 20


def test_a_pixel_on_the_dividing_line_counts_for_both_sides():
    mask = np.zeros((5, 5), bool)
    mask[0, 1:5] = True  # left of 2.5: 1.5 px, right: 2.5 px
    assert zone_of((1, 0, 5, 1), (5, 5), rule="mmrs", mask=mask) == "top-right"


@pytest.mark.parametrize(
    ("center_xy_px", "ambiguous"),
    [
        ((20, 20), False),
        ((20, 48.5), True),  # 1.5 px from the line between top and bottom, the shift is 2 px
        ((20, 47.5), False),
        ((50, 50), False),  # the middle of the disc
        ((31.5, 50), True),  # 1.5 px inside the disc's edge
        ((33, 50), False),
        ((50 - 21 / 2**0.5, 50 - 21 / 2**0.5), True),  # 1 px outside the edge, on the diagonal
        ((50 - 23 / 2**0.5, 50 - 23 / 2**0.5), False),
    ],
)
def test_border_ambiguity(center_xy_px, ambiguous):
    assert border_ambiguous(box_around(*center_xy_px), (100, 100), "posmed") is ambiguous


def test_border_ambiguity_of_a_mask_under_mmrs():
    mask = np.zeros((100, 100), bool)
    mask[10:20, 46:54] = True
    assert border_ambiguous((46, 10, 54, 20), (100, 100), "mmrs", mask=mask)
    assert not border_ambiguous((6, 10, 14, 20), (100, 100), "mmrs", mask=np.roll(mask, -40, axis=1))


def test_rules_are_found_by_name_and_by_stored_id_and_nothing_else():
    assert get_rule("posmed") is get_rule("posmed-2")
    with pytest.raises(RequestError, match="posmed, mmrs"):
        zone_of((0, 0, 1, 1), (10, 10), rule="thirds")
    with pytest.raises(DataError, match="mask is"):
        zone_of((0, 0, 1, 1), (10, 10), mask=np.ones((10, 11), bool))


def test_pixels_that_are_not_square_change_nothing_of_the_picture() -> None:
    """A point of a 100 x 200 picture, and the same one where five rows are stored as one (10 mm of 2 mm columns)."""
    whole, thin = ((100, 200), 1.0), ((20, 200), 5.0)
    for y_px in (25, 35, 45, 55, 65, 75):
        for x_px in (70, 85, 100, 115, 130):
            box, stored = (x_px - 2, y_px - 5, x_px + 2, y_px + 5), (x_px - 2, y_px / 5 - 1, x_px + 2, y_px / 5 + 1)
            for of in (zone_of, is_central, border_ambiguous):
                assert of(box, whole[0]) == of(stored, thin[0], aspect=thin[1]), (of.__name__, x_px, y_px)
    assert zone_of((88, 8, 92, 10), (20, 200)) != zone_of((88, 8, 92, 10), (20, 200), aspect=5.0) == "center"
