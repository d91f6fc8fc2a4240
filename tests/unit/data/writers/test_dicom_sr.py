"""An answer as a structured report: what it says when it is read again, and what a validator says about it."""

from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest

from prsmed.data.readers import read_image
from prsmed.data.writers.answer import write_dicom
from prsmed.data.writers.dicom_seg import write_dicom_seg
from prsmed.data.writers.dicom_sr import write_dicom_sr
from prsmed.errors import DataError
from prsmed.types import NOT_A_MEDICAL_DEVICE, Answer, AnswerObject, Finding, SliceRef, SourceImage
from tests.unit.data.readers.made_dicom import picture, save
from tests.unit.data.readers.made_segments import STUDY, ct_slices
from tests.unit.data.writers.dciodvfy import errors_of

MODEL = {"name": "tiny", "version": "0.1.0"}
ANSWER: dict[str, Any] = {
    "target": "lung nodule",
    "kind": "lesion",
    "sentence": "There is a nodule. 结节。",
    "question": "Where is the nodule?",
    "contradictions": ["the words say left, the mask says right"],
    "warnings": ["the side cannot be told"],
    "model": MODEL,
}
MIDDLE = SliceRef("axial", 1)


def a_finding(**slots: Any) -> Finding:
    """A finding whose box holds columns 1 to 3 and rows 1 to 2."""
    picture_words = {"zone": "center", "zone_rule": "posmed", "picture_side": "left", "picture_level": "upper"}
    numbers = {"box_xyxy_px": (1, 1, 4, 3), "centroid_xy_px": (2.5, 2.0), "area_px": 6}
    return Finding(**{**picture_words, "central": True, "border_ambiguous": False, **numbers, **slots})


def walk(item: pydicom.Dataset) -> list[pydicom.Dataset]:
    """An item of an SR tree and everything below it."""
    return [item, *(below for child in item.get("ContentSequence", []) for below in walk(child))]


def named(path: Path, meaning: str) -> list[pydicom.Dataset]:
    """The content items whose concept name has this meaning."""
    items = walk(pydicom.dcmread(path))
    return [item for item in items if "ConceptNameCodeSequence" in item and _name(item) == meaning]


def _name(item: pydicom.Dataset) -> str:
    return item.ConceptNameCodeSequence[0].CodeMeaning


def _codes(items: list[pydicom.Dataset]) -> list[str]:
    return [item.ConceptCodeSequence[0].CodeMeaning for item in items if "ConceptCodeSequence" in item]


@pytest.fixture
def image(tmp_path: Path) -> SourceImage:
    return read_image(save(tmp_path / "ct", *ct_slices()))


@pytest.fixture
def ultrasound(tmp_path: Path) -> SourceImage:
    tags = STUDY | {"Modality": "US", "SOPClassUID": pydicom.uid.UltrasoundImageStorage, "FrameOfReferenceUID": None}
    return read_image(save(tmp_path / "us", picture(np.ones((4, 5), np.uint8), **tags)) / "0.dcm")


def test_the_words_are_in_it(image: SourceImage, tmp_path: Path) -> None:
    path = write_dicom_sr(tmp_path / "new" / "sr.dcm", image, findings=[a_finding()], **ANSWER)
    texts = [item.TextValue for item in named(path, "Finding") if "TextValue" in item]
    assert texts == [ANSWER["sentence"]]
    comments = [item.TextValue for item in named(path, "Comment")]
    assert comments[:2] == [f"Question: {ANSWER['question']}", f"Contradiction: {ANSWER['contradictions'][0]}"]
    assert comments[2] == f"Note: {ANSWER['warnings'][0]}" and NOT_A_MEDICAL_DEVICE in comments
    report = pydicom.dcmread(path)
    assert (report.CompletionFlag, report.VerificationFlag) == ("PARTIAL", "UNVERIFIED")
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"


def test_a_finding_is_a_coded_group_with_its_area_and_side(image: SourceImage, tmp_path: Path) -> None:
    findings = [a_finding(area_mm2=36.0, patient_side="left"), a_finding(patient_side="unknown")]
    path = write_dicom_sr(tmp_path / "sr.dcm", image, findings=findings, key_slice=MIDDLE, **ANSWER)
    assert len(named(path, "Measurement Group")) == 2
    assert _codes(named(path, "Finding")) == ["Nodule", "Nodule"]
    assert _codes(named(path, "Finding Site")) == ["Lung", "Lung"]
    assert _codes(named(path, "Laterality")) == ["Left"]  # unknown stays unsaid
    (area,) = named(path, "Area")
    measured = area.MeasuredValueSequence[0]
    assert (measured.NumericValue, measured.MeasurementUnitsCodeSequence[0].CodeValue) == (36, "mm2")
    # another reader of the same template finds them too
    report = hd.sr.srread(path)
    groups = report.content.get_planar_roi_measurement_groups()
    assert [group.finding_type.meaning for group in groups] == ["Nodule", "Nodule"]


def test_the_side_of_a_sided_organ_is_in_its_name(image: SourceImage, tmp_path: Path) -> None:
    answer = ANSWER | {"target": "right kidney", "kind": "organ"}
    path = write_dicom_sr(tmp_path / "sr.dcm", image, findings=[a_finding(patient_side="right")], **answer)
    assert _codes(named(path, "Finding")) == ["Kidney"]
    assert _codes(named(path, "Laterality")) == ["Right"]


def test_the_box_lies_in_the_patient(image: SourceImage, tmp_path: Path) -> None:
    # its edges by the made slices: x = -10 + 2 (column - 0.5), y = 20 + 3 (row - 0.5), z = 2.5 (LPS)
    expected = [(-9, 21.5), (-3, 21.5), (-3, 27.5), (-9, 27.5), (-9, 21.5)]
    assert image.affine_ijk_to_ras is not None
    flipped = image.affine_ijk_to_ras.copy()
    flipped[:, 3] += flipped[:, 0] * 4
    flipped[:, 0] *= -1
    other = SourceImage(image.array[::-1], flipped, series=image.series)  # shown alike, stored otherwise
    for name, source in (("a.dcm", image), ("b.dcm", other)):
        path = write_dicom_sr(tmp_path / name, source, findings=[a_finding()], key_slice=MIDDLE, **ANSWER)
        (region,) = named(path, "Image Region")
        assert region.GraphicType == "POLYGON"
        assert region.ReferencedFrameOfReferenceUID == image.series.frame_of_reference_uid
        corners = np.reshape(region.GraphicData, (-1, 3))
        np.testing.assert_allclose(corners, [(x, y, 2.5) for x, y in expected])
        assert _codes(named(path, "Geometric purpose of region")) == ["Bounded by"]


def test_a_coronal_box_lies_in_the_patient(image: SourceImage, tmp_path: Path) -> None:
    # coronal rows run from head to feet: row 0 is z = 5 mm, so rows 1 to 2 reach from 3.75 down to -1.25
    coronal = SliceRef("coronal", 2)
    path = write_dicom_sr(tmp_path / "sr.dcm", image, findings=[a_finding()], key_slice=coronal, **ANSWER)
    corners = np.reshape(named(path, "Image Region")[0].GraphicData, (-1, 3))
    np.testing.assert_allclose(corners[:, 0], [-9, -3, -3, -9, -9])
    np.testing.assert_allclose(corners[:, 1], 26)
    np.testing.assert_allclose(corners[:, 2], [3.75, 3.75, -1.25, -1.25, 3.75])


def test_the_box_on_a_picture(ultrasound: SourceImage, tmp_path: Path) -> None:
    path = write_dicom_sr(tmp_path / "sr.dcm", ultrasound, findings=[a_finding()], **ANSWER)
    (region,) = named(path, "Image Region")
    assert (region.GraphicType, list(region.GraphicData)) == ("POLYLINE", [1, 1, 4, 1, 4, 3, 1, 3, 1, 1])
    source = pydicom.dcmread(tmp_path / "us" / "0.dcm")
    referenced = region.ContentSequence[0].ReferencedSOPSequence[0]
    assert referenced.ReferencedSOPInstanceUID == source.SOPInstanceUID


def test_without_a_key_slice_a_volume_has_no_region(image: SourceImage, tmp_path: Path) -> None:
    path = write_dicom_sr(tmp_path / "sr.dcm", image, findings=[a_finding(area_mm2=1.0)], **ANSWER)
    assert not named(path, "Image Region") and named(path, "Area")


@pytest.mark.parametrize(("modality", "areas"), [("x-ray", 0), ("ultrasound", 1)])
def test_an_x_ray_has_no_area(modality: str, areas: int, ultrasound: SourceImage, tmp_path: Path) -> None:
    thing = AnswerObject(np.zeros((4, 5), bool), None, True, 0.9, [a_finding(area_mm2=2.04)])
    texts = {"model_text": "a", "rule_text": "b", "text": "b", "text_source": "rule"}
    stated = {"modality": modality, "modality_source": "the file", "timings_s": {}, "model": MODEL}
    answer = Answer("Where?", **texts, objects=[thing], contradictions=[], **stated)
    write_dicom(tmp_path, answer, thing.mask, ultrasound, target="lung nodule", kind="lesion")
    assert len(named(tmp_path / "report.dcm", "Area")) == areas and named(tmp_path / "report.dcm", "Image Region")


@pytest.mark.parametrize(("states_absence", "said"), [(True, "Absent"), (False, "Undetermined")])
def test_absence_is_stated_of_the_side_that_was_asked_about(
    states_absence: bool, said: str, image: SourceImage, tmp_path: Path
) -> None:
    options = {"side": "right", "states_absence": states_absence}
    path = write_dicom_sr(tmp_path / "sr.dcm", image, findings=[], **options, **ANSWER)
    assert _codes(named(path, "Presence of property")) == [said]
    assert _codes(named(path, "Laterality")) == ["Right"]


def test_what_an_anonymiser_took_out_is_empty(tmp_path: Path) -> None:
    gone = dict.fromkeys(("PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber", "ReferringPhysicianName"))
    image = read_image(save(tmp_path / "ct", *ct_slices(**gone)))
    report = pydicom.dcmread(write_dicom_sr(tmp_path / "sr.dcm", image, findings=[], **ANSWER))
    assert not report.PatientBirthDate and not report.StudyID


def test_nothing_visible_is_an_absence(image: SourceImage, tmp_path: Path) -> None:
    path = write_dicom_sr(tmp_path / "sr.dcm", image, findings=[], key_slice=MIDDLE, **ANSWER)
    assert _codes(named(path, "Presence of property")) == ["Absent"]
    assert _codes(named(path, "Finding")) == ["Nodule"]
    assert not named(path, "Image Region") and not named(path, "Area")


@pytest.mark.parametrize("kind", ["volume", "picture"])
def test_it_refers_to_source_and_mask(kind: str, image: SourceImage, ultrasound: SourceImage, tmp_path: Path) -> None:
    source = image if kind == "volume" else ultrasound
    mask = np.ones(source.array.shape if source.is_volume else source.array.shape[:2], bool)
    codes = {key: ANSWER[key] for key in ("target", "kind", "model")}
    seg = write_dicom_seg(tmp_path / "seg.dcm", mask, source, **codes)
    volume_ml = 0.9 if source.is_volume else None
    path = write_dicom_sr(
        tmp_path / "sr.dcm", source, findings=[a_finding()], seg_path=seg, volume_ml=volume_ml, **ANSWER
    )
    report, segmentation = pydicom.dcmread(path), pydicom.dcmread(seg)
    evidence = [
        item.ReferencedSOPInstanceUID
        for keyword in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")
        for study in report.get(keyword, [])
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    ]
    files = [pydicom.dcmread(file).SOPInstanceUID for file in source.series.files]
    assert sorted(evidence) == sorted([*files, segmentation.SOPInstanceUID])
    images = [item.ReferencedSOPSequence[0] for item in walk(report) if item.get("ValueType") == "IMAGE"]
    assert segmentation.SOPInstanceUID in [item.ReferencedSOPInstanceUID for item in images]
    volumes = [item.MeasuredValueSequence[0].NumericValue for item in named(path, "Volume")]
    assert volumes == ([900] if source.is_volume else [])  # mm3


def test_patient_and_study_are_the_sources(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    slices = ct_slices(SpecificCharacterSet="ISO_IR 100", PatientName="Müller", PatientID="4711")
    image = read_image(save(tmp_path / "ct", *slices))
    recwarn.clear()
    report = pydicom.dcmread(write_dicom_sr(tmp_path / "sr.dcm", image, findings=[], **ANSWER))
    assert (report.PatientName, report.PatientID) == ("Müller", "4711")
    assert report.StudyInstanceUID == slices[0].StudyInstanceUID
    assert report.SeriesInstanceUID != slices[0].SeriesInstanceUID
    assert not recwarn.list and "Müller" not in caplog.text
    assert "Müller" not in str(report.ContentSequence)


def test_what_cannot_be_written_is_refused(image: SourceImage, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read as DICOM SEG .*; write it again"):
        write_dicom_sr(tmp_path / "sr.dcm", image, findings=[], seg_path=tmp_path / "ct" / "0.dcm", **ANSWER)
    image.series = None
    with pytest.raises(DataError, match="is not DICOM; results as DICOM need"):
        write_dicom_sr(tmp_path / "sr.dcm", image, findings=[], **ANSWER)
    assert not (tmp_path / "sr.dcm").exists()


@pytest.mark.parametrize("found", [True, False])
@pytest.mark.parametrize(
    ("name", "of_the_source"),
    [
        ("dcmqi_liver_CT3slice_SEG/ct", ()),
        ("ibsi_nsclc_phantom_CT_RTSTRUCT/image", ()),
        # this series' Study ID has 18 characters, two too many, and is copied as it is
        ("STS_008_PET_RTSTRUCT/image", ("Study ID", "Value Representations")),
        ("single/US1_J2KR.dcm", ()),
        ("single/RG1_J2KI.dcm", ()),
    ],
)
def test_reports_on_real_series_validate(
    name: str, of_the_source: tuple[str, ...], found: bool, shared_data: Path, tmp_path: Path
) -> None:
    image = read_image(shared_data / "dicom" / name)
    mask = np.zeros(image.array.shape if image.is_volume else image.array.shape[:2], bool)
    mask[1:4, 1:3] = found
    codes = {key: ANSWER[key] for key in ("target", "kind", "model")}
    seg = write_dicom_seg(tmp_path / "seg.dcm", mask, image, **codes)
    findings = [a_finding(area_mm2=4.5, patient_side="right")] if found else []
    key_slice = MIDDLE if image.is_volume else None
    path = write_dicom_sr(tmp_path / "sr.dcm", image, findings=findings, key_slice=key_slice, seg_path=seg, **ANSWER)
    assert not [line for line in errors_of(path) if not any(known in line for known in of_the_source)]
