"""Relations in the picture, on boxes drawn by hand: yes, no, and the cases between."""

import numpy as np
import pytest

from prsmed.geometry import PatientAxes
from prsmed.text.findings import find
from prsmed.text.relations import Place, beside, between, in_quarter, largest, on_patient_side, singles_out
from prsmed.types import Finding

HW = (40, 60)


def _finding(x0: int, y0: int, x1: int, y1: int, axes: PatientAxes | None = None) -> Finding:
    mask = np.zeros(HW, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return find(mask, per_component=False, min_area_px=1, patient_axes=axes)[0]


REFERENCE = _finding(20, 10, 30, 20)  # centroid (25, 15)


@pytest.mark.parametrize(
    ("word", "box", "holds"),
    [
        ("left", (10, 10, 20, 20), True),  # touches the reference's edge
        ("left", (11, 10, 21, 20), None),  # overlaps it, centroid 16
        ("left", (22, 10, 28, 20), False),  # centroid 25, as the reference's
        ("right", (30, 0, 35, 5), True),
        ("right", (27, 0, 35, 5), None),
        ("right", (0, 0, 35, 5), False),
        ("above", (0, 0, 60, 10), True),
        ("above", (0, 5, 60, 12), None),
        ("above", (0, 20, 5, 25), False),
        ("below", (0, 20, 5, 25), True),
        ("below", (0, 18, 5, 25), None),
        ("below", (0, 0, 60, 10), False),
    ],
)
def test_beside(word: str, box: tuple[int, int, int, int], holds: bool | None) -> None:
    assert beside(word, "r", REFERENCE).holds(_finding(*box)) is holds


@pytest.mark.parametrize(
    ("box", "holds"),
    [
        ((28, 18, 32, 22), True),  # centroid (30, 20), the middle of (10, 20) and (50, 20)
        ((28, 26, 32, 30), True),  # 8 px off the line of 40 px
        ((28, 31, 32, 35), None),  # 13 px off
        ((28, 38, 32, 40), None),  # 19 px off
        ((10, 18, 14, 22), None),  # a tenth of the way along
        ((4, 18, 8, 22), False),  # before its beginning
        ((54, 18, 58, 22), False),
    ],
)
def test_between(box: tuple[int, int, int, int], holds: bool | None) -> None:
    place = between("a", _finding(8, 18, 12, 22), "b", _finding(48, 18, 52, 22))
    assert place.holds(_finding(*box)) is holds
    assert place.reference_ids == ("a", "b")


def test_far_off_the_line_is_not_between() -> None:
    # (30, 5) lies 10 px above a line of 20 px
    assert between("a", _finding(18, 13, 22, 17), "b", _finding(38, 13, 42, 17)).holds(_finding(29, 4, 31, 6)) is False


@pytest.mark.parametrize(("areas_px", "holds"), [((150, 100, 20), True), ((149, 100, 20), False)])
def test_largest_needs_half_as_much_again(areas_px: tuple[int, ...], holds: bool) -> None:
    finding = _finding(0, 0, 10, 15) if areas_px[0] == 150 else _finding(0, 0, 1, 1)
    assert largest(areas_px).holds(finding) is holds


@pytest.mark.parametrize(
    ("word", "box", "holds"),
    [
        ("upper left", (0, 0, 30, 20), True),
        ("upper left", (0, 0, 31, 20), None),
        ("upper left", (30, 0, 40, 20), False),
        ("lower right", (30, 20, 60, 40), True),
        ("lower right", (29, 20, 60, 40), None),
        ("upper right", (30, 0, 60, 20), True),
        ("lower left", (0, 20, 30, 40), True),
    ],
)
def test_quarters_of_the_picture(word: str, box: tuple[int, int, int, int], holds: bool | None) -> None:
    assert in_quarter(word, HW).holds(_finding(*box)) is holds


def test_the_patients_side_needs_a_stated_orientation() -> None:
    """Radiological convention: columns run towards the patient's left, so the picture's left is the patient's right."""
    axes = PatientAxes("L", "P")
    on_picture_left = (2, 10, 8, 20)
    assert on_patient_side("right").holds(_finding(*on_picture_left, axes)) is True
    assert on_patient_side("left").holds(_finding(*on_picture_left, axes)) is False
    assert on_patient_side("right").holds(_finding(*on_picture_left)) is None
    assert on_patient_side("right").holds(_finding(28, 10, 32, 20, axes)) is None


@pytest.mark.parametrize(
    ("answers", "is_single"),
    [((True, False, False), True), ((True, True, False), False), ((True, None), False), ((None, False), False)],
)
def test_one_yes_and_no_doubt(answers: tuple[bool | None, ...], is_single: bool) -> None:
    findings = [_finding(i, 0, i + 1, 1) for i in range(len(answers))]
    place = Place("direction", "left", (), lambda finding: answers[finding.box_xyxy_px[0]])
    assert singles_out(place, findings[0], findings[1:]) is is_single
