"""Words about the patient: the table of views (docs/conventions.md), the sentences, and questions about one side."""

import itertools

import numpy as np
import pytest

from prsmed.errors import RequestError
from prsmed.geometry import Geometry, PatientAxes
from prsmed.samples import findings_of
from prsmed.text.parse import parse_position
from prsmed.text.patient import (
    SIDE_NOT_SHOWN,
    SIDE_NOT_STATED,
    expects_side,
    on_side,
    patient_slots,
    patient_words,
    side_asked,
)
from prsmed.text.templates import rule_text
from prsmed.types import MODALITIES, ZONES, Finding

HW_PX = (100, 200)
TOP_LEFT, BOTTOM_RIGHT, CENTER = (10, 10, 30, 20), (160, 80, 190, 90), (90, 45, 110, 55)

AXIAL = PatientAxes("L", "P", "H", slice_share=0.9)
CORONAL = PatientAxes("L", "F", "P", slice_share=0.9)
SAGITTAL = PatientAxes("P", "F", "L", slice_share=0.9)
FRONTAL, SEEN_FROM_BEHIND = PatientAxes("L", "F"), PatientAxes("R", "F")


def _mask(*boxes_xyxy_px: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros(HW_PX, bool)
    for x0, y0, x1, y1 in boxes_xyxy_px:
        mask[y0:y1, x0:x1] = True
    return mask


def _findings(axes: PatientAxes | None, *boxes_xyxy_px: tuple[int, int, int, int]) -> list[Finding]:
    return findings_of(_mask(*boxes_xyxy_px), "lesion", zone_rule="posmed", patient_axes=axes)


VIEWS = {
    # view: axes, then (patient_side, ap, si, frame) of a finding at the top left and of one at the bottom right
    "axial": (AXIAL, ("right", "anterior", "upper third", "axial"), ("left", "posterior", "upper third", "axial")),
    "coronal": (
        CORONAL,
        ("right", "unknown", "superior", "coronal"),
        ("left", "unknown", "inferior", "coronal"),
    ),
    "sagittal": (
        SAGITTAL,
        ("left", "anterior", "superior", "sagittal"),
        ("left", "posterior", "inferior", "sagittal"),
    ),
    "frontal X-ray": (
        FRONTAL,
        ("right", "unknown", "upper zone", "frontal"),
        ("left", "unknown", "lower zone", "frontal"),
    ),
    "frontal X-ray stored as seen from behind": (
        SEEN_FROM_BEHIND,
        ("left", "unknown", "upper zone", "frontal"),
        ("right", "unknown", "lower zone", "frontal"),
    ),
    "lateral X-ray, front on the left": (
        PatientAxes("P", "F"),
        ("unknown", "anterior", "superior", "lateral"),
        ("unknown", "posterior", "inferior", "lateral"),
    ),
    "lateral X-ray, front on the right": (
        PatientAxes("A", "F"),
        ("unknown", "posterior", "superior", "lateral"),
        ("unknown", "anterior", "inferior", "lateral"),
    ),
    "one direction stated": (
        PatientAxes("L", ""),
        ("right", "unknown", "unknown", "patient"),
        ("left", "unknown", "unknown", "patient"),
    ),
    "one side shown": (
        PatientAxes(laterality="left"),
        ("left", "unknown", "unknown", "patient"),
        ("left", "unknown", "unknown", "patient"),
    ),
    "one side shown, and how it lies": (
        PatientAxes("L", "F", laterality="left"),
        ("left", "unknown", "upper zone", "frontal"),
        ("left", "unknown", "lower zone", "frontal"),
    ),
    "ultrasound, endoscopy, dermoscopy, any PNG; X-ray without Patient Orientation": (
        None,
        ("unknown", "unknown", "unknown", "picture"),
        ("unknown", "unknown", "unknown", "picture"),
    ),
}


@pytest.mark.parametrize(("axes", "top_left", "bottom_right"), VIEWS.values(), ids=VIEWS)
def test_what_each_view_may_say(axes, top_left, bottom_right):
    for box, expected in ((TOP_LEFT, top_left), (BOTTOM_RIGHT, bottom_right)):
        (finding,) = _findings(axes, box)
        assert (finding.patient_side, finding.ap, finding.si, finding.frame) == expected


@pytest.mark.parametrize(("axes", "top_left", "bottom_right"), VIEWS.values(), ids=VIEWS)
def test_mirroring_swaps_the_patients_sides_unless_the_slice_or_the_file_names_one(axes, top_left, bottom_right):
    swap = {"left": "right", "right": "left", "unknown": "unknown"}
    mirrored = findings_of(_mask(TOP_LEFT)[:, ::-1], "lesion", zone_rule="posmed", patient_axes=axes)[0]
    kept = axes is SAGITTAL or (axes is not None and axes.laterality)
    assert mirrored.patient_side == (top_left[0] if kept else swap[top_left[0]])


def test_a_picture_knows_only_what_its_file_states():
    """`Geometry` hands on Patient Orientation and laterality; a View Position alone says nothing about the side."""
    assert Geometry((10, 10), (10, 10)).patient_axes is None
    stated = Geometry((10, 10), (10, 10), picture_axes=("L", "F")).patient_axes
    assert (stated.right, stated.down, stated.through, stated.slice_share) == ("L", "F", "", None)
    contradicting = Geometry((10, 10), (10, 10), picture_axes=("L", "R")).patient_axes
    assert contradicting == PatientAxes()
    assert Geometry((10, 10), (10, 10), laterality="right").patient_axes == PatientAxes(laterality="right")


@pytest.mark.parametrize(("letters", "side"), [(("L", "F"), "right"), (("R", "F"), "left"), (("F", "R"), "left")])
def test_pictures_turned_any_way(letters, side):
    """The top of a picture whose rows run to the patient's right is the patient's left."""
    axes = Geometry(HW_PX, HW_PX, picture_axes=letters).patient_axes
    assert _findings(axes, TOP_LEFT)[0].patient_side == side


def test_near_the_middle_no_side_is_named():
    """Five per cent of 200 columns are 10 px: a centre between 90 and 110 px is in the middle."""
    sides = {x: patient_slots(AXIAL, (x - 5, 0, x + 5, 10), HW_PX)["patient_side"] for x in (89, 91, 100, 109, 111)}
    assert sides == {89: "right", 91: "middle", 100: "middle", 109: "middle", 111: "left"}
    assert patient_slots(PatientAxes("P", "F", "R", slice_share=0.52), TOP_LEFT, HW_PX)["patient_side"] == "middle"


@pytest.mark.parametrize(("share", "third"), [(0.1, "lower"), (0.5, "middle"), (0.8, "upper")])
def test_the_level_of_an_axial_slice_is_a_third_of_the_scan(share, third):
    towards_head, towards_feet = (
        PatientAxes("L", "P", "H", slice_share=share),
        PatientAxes("L", "P", "F", slice_share=1 - share),
    )
    for axes in (towards_head, towards_feet):
        assert patient_slots(axes, CENTER, HW_PX)["si"] == f"{third} third"


SENTENCES = {
    "axial": (AXIAL, "the patient's right, anterior, in the upper third of the scanned volume"),
    "coronal": (CORONAL, "the patient's right, superior"),
    "sagittal": (SAGITTAL, "the patient's left, anterior, superior"),
    "frontal": (FRONTAL, "the patient's right upper zone"),
    "lateral": (PatientAxes("P", "F"), "anterior, superior"),
    "nothing known": (None, ""),
}


@pytest.mark.parametrize(("axes", "words"), SENTENCES.values(), ids=SENTENCES)
def test_the_sentence_says_both(axes, words):
    text = rule_text(_findings(axes, TOP_LEFT), target="mass")
    assert text == "The mass is in the top left of the image" + (f": {words}." if words else ".")


def test_a_finding_in_the_middle():
    assert patient_words(_findings(AXIAL, CENTER)[0]) == (
        "in the middle between the patient's left and right, in the upper third of the scanned volume"
    )
    assert patient_words(_findings(FRONTAL, CENTER)[0]) == (
        "the patient's middle zone, in the middle between the patient's left and right"
    )


def test_sentences_of_several_findings_and_sizes():
    """Boxes of 30 x 10 and 20 x 10 px with pixels of 2 mm along rows and 0.5 mm along columns."""
    mask = _mask(TOP_LEFT, BOTTOM_RIGHT)
    sized = findings_of(mask, "lesion", zone_rule="posmed", spacing_hw_mm=(2.0, 0.5), patient_axes=CORONAL)
    assert rule_text(sized, target="mass") == (
        "There are two masses: one in the bottom right (the patient's left, inferior, about 15 x 20 mm)"
        " and another in the top left (the patient's right, superior, about 10 x 20 mm) of the image."
    )
    assert rule_text(sized, target="mass", max_described=1) == (
        "There are two masses; the largest is in the bottom right of the image:"
        " the patient's left, inferior, about 15 x 20 mm."
    )
    sized_only = findings_of(_mask(TOP_LEFT), "lesion", zone_rule="posmed", spacing_hw_mm=(0.01, 0.5))
    assert rule_text(sized_only, target="mass") == "The mass is in the top left of the image: about 10 x 1 mm."
    assert "mm" not in rule_text(sized_only, target="mass", modality="x-ray")


def test_an_unknown_side_is_said_where_a_reader_expects_one():
    picture, lateral = _findings(None, TOP_LEFT), _findings(PatientAxes("P", "F"), TOP_LEFT)
    assert rule_text(picture, target="mass", side_expected=True).endswith(f"of the image. {SIDE_NOT_STATED}")
    assert rule_text(lateral, target="mass", side_expected=True).endswith(f"superior. {SIDE_NOT_SHOWN}")
    assert "Patient side" not in rule_text(picture, target="mass")
    assert "Patient side" not in rule_text(_findings(AXIAL, TOP_LEFT), target="mass", side_expected=True)
    assert rule_text([], target="mass", side_expected=True) == "No mass is visible in this image."
    assert [modality for modality in MODALITIES if expects_side(modality)] == ["ct", "mri", "x-ray"]


@pytest.mark.parametrize(
    ("oblique_deg", "remark"),
    [
        (4.0, ""),
        (20.0, " The slice is nearly axial, 20 degrees off the patient's axes."),
        (50.0, " The slice is oblique, 50 degrees off the patient's axes."),
    ],
)
def test_an_oblique_slice_is_called_so(oblique_deg, remark):
    axes = PatientAxes("L", "P", "H", slice_share=0.5, oblique_deg=oblique_deg)
    text = rule_text(_findings(axes, TOP_LEFT), target="mass", side_expected=True)
    assert text.endswith(f"in the middle third of the scanned volume.{remark}")
    assert parse_position(text).zones == ("top-left",)


def test_the_parser_reads_the_picture_in_every_sentence():
    """All combinations of slots, one, two and three findings, with sizes, remarks and centrality."""
    slots = itertools.product(
        ("left", "right", "middle", "unknown"),
        ("anterior", "middle", "unknown"),
        ("superior", "inferior", "middle", "upper third", "middle zone", "lower zone", "unknown"),
        ("picture", "nearly axial, 20 degrees off the patient's axes"),
        (None, (0.0, 0.0, 23.4, 17.8)),
    )
    for number, (side, ap, si, frame, box_mm) in enumerate(slots):
        findings = [
            Finding(
                zone=ZONES[(number + shift) % 5],
                zone_rule="posmed-2",
                picture_side="left",
                picture_level="top",
                central=number % 2 == 0,
                border_ambiguous=False,
                box_xyxy_px=TOP_LEFT,
                centroid_xy_px=(20.0, 15.0),
                area_px=200,
                box_xyxy_mm=box_mm,
                patient_side=side,
                ap=ap,
                si=si,
                frame=frame,
            )
            for shift in range(3)
        ]
        for count, described in ((1, 1), (2, 2), (3, 1)):
            text = rule_text(findings[:count], target="left lung opacity", side_expected=True)
            zones = tuple(finding.zone for finding in findings[:described])
            assert parse_position(text, target="left lung opacity").zones == zones, text


ASKED = {
    "Is there a nodule in the right lung?": "right",
    "Where is the opacity in the LEFT upper lobe?": "left",
    "Show the mass on the patient\u2019s left side.": "left",
    "Any lesion in the left cerebral hemisphere?": "left",
    "Is there a tumour on the right side of the brain?": "right",
    "What is in the right half of the patient?": "right",
    "Any right-sided effusion?": "right",
    "Where is the left kidney?": "left",
    "Is the nodule of the right lung on the left of the image?": "right",
    "Where is the nodule?": None,
    "Is it on the left?": None,
    "Is it on the left side of the image?": None,
    "Is the polyp in the right-hand corner of this picture?": None,
    "Is it at the left hand side?": None,
    "Is there a lung nodule in the bottom right hand corner?": None,
    "Is it near the left hand edge?": None,
    "Is there a fracture in the right hand?": "right",
    "Paint the number of nodules in the left lung.": "left",
    "Where is the brain tumour that causes the weakness of the left arm?": None,
    "Which organ lies in front of the left kidney?": None,
    "Where is the vessel next to the right kidney?": None,
    "Is there a nodule in the left lung behind the heart?": "left",
    "Any nodule above 5 mm in the right lung?": "right",
    "The patient has pain. Is there a nodule in the left lung?": "left",
    "Known left breast cancer. Are there lung nodules?": None,
    "The right lung was removed. Is there a lung nodule?": None,
    "The left lung is clear. Is there a lung nodule elsewhere?": None,
    "Is there a nodule in the right lung or anywhere else?": None,
    "Is there a lung opacity on the right side of the chest X-ray?": None,
    "Is there a brain tumour on the left side of the brain MRI?": None,
    "Is it in the right hand top corner?": None,
    "Where is the brain tumour in this patient with left arm weakness?": None,
    "Patient with left-sided weakness, where is the brain tumour?": None,
    "Is there a stroke after left leg numbness?": None,
    "Is there a nodule anywhere in the right lung?": "right",
    "What else is in the left lung?": "left",
    "How large is the known nodule in the right lung?": "right",
    "Is there a nodule in the right lung? Please answer briefly.": "right",
    "Is there a nodule in the left lung? If so, how big?": "left",
    "Left lung vs. right lung: which has the nodule?": None,
    "Is there a tumour on the right side of the brain on CT?": "right",
    "Is there a fracture in the right hand of this patient?": "right",
    "Is it top left or bottom right?": None,
    "What is in the image's left lung?": None,
    "Is there something in the left lobe of the liver?": None,
    "Is the right atrium enlarged?": None,
    "Is it in the left or right lung?": None,
    "Is it in the left or the right?": None,
    "Are there nodules in both the left lung and the right lung?": None,
    "Is there anything outside the right lung?": None,
    "Is that right?": None,
    "": None,
}


@pytest.mark.parametrize(("question", "side"), ASKED.items())
def test_which_side_of_the_patient_is_asked_for(question, side):
    assert side_asked(question) == side


def test_findings_are_split_by_the_patients_side():
    findings = _findings(AXIAL, TOP_LEFT, BOTTOM_RIGHT, CENTER)
    kept, unknown = on_side(findings, "right")
    assert {finding.patient_side for finding in kept} == {"right", "middle"} and unknown == []
    assert [finding.zone for finding in on_side(findings, "left")[0]] == ["bottom-right", "center"]
    pictures = _findings(None, TOP_LEFT, BOTTOM_RIGHT)
    assert on_side(pictures, "left") == ([], pictures)
    with pytest.raises(RequestError, match="left, right"):
        on_side(findings, "top")
