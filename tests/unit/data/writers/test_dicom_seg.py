"""A mask as SEG: read again it is the same mask, it points back to its source, and a validator accepts it."""

from pathlib import Path

import numpy as np
import pydicom
import pytest

from prsmed.data.readers import read_image
from prsmed.data.readers.segments import read_seg_mask
from prsmed.data.writers.dicom_seg import write_dicom_seg
from prsmed.errors import DataError
from prsmed.types import MaskRef, SourceImage
from tests.unit.data.readers.made_dicom import PATIENT, enhanced, picture, save
from tests.unit.data.readers.made_segments import STUDY, ct_slices
from tests.unit.data.writers.dciodvfy import errors_of

MODEL = {"name": "tiny", "version": "0.1.0"}
FIRST = MaskRef("seg", "", 1)


@pytest.fixture
def image(tmp_path: Path) -> SourceImage:
    return read_image(save(tmp_path / "ct", *ct_slices()))


def noise_mask(image: SourceImage) -> np.ndarray:
    """Half of all voxels, but for the first slice of a volume."""
    shape = image.array.shape if image.is_volume else image.array.shape[:2]
    mask = np.random.default_rng(0).random(shape) > 0.5
    if image.is_volume:
        mask[..., 0] = False
    return mask


def written(
    path: Path, mask: np.ndarray, image: SourceImage, target: str = "lung nodule", kind: str = "lesion"
) -> Path:
    seg = write_dicom_seg(path, mask, image, target=target, kind=kind, model=MODEL)
    assert seg == path
    return path


def test_read_again_it_is_the_same_mask(image: SourceImage, tmp_path: Path) -> None:
    mask = noise_mask(image)
    path = written(tmp_path / "new" / "seg.dcm", mask, image)
    np.testing.assert_array_equal(read_seg_mask(path, FIRST, image), mask)


@pytest.mark.parametrize(
    ("model", "is_corrected", "algorithm"),
    [(MODEL, False, "AUTOMATIC"), (MODEL, True, "SEMIAUTOMATIC"), (None, False, "MANUAL")],
)
def test_it_says_who_made_it(
    image: SourceImage, tmp_path: Path, model: dict[str, str] | None, is_corrected: bool, algorithm: str
) -> None:
    """PS3.3 C.8.20.4: (0062,0008), and an algorithm's name for all but MANUAL."""
    path = tmp_path / "seg.dcm"
    write_dicom_seg(
        path, noise_mask(image), image, target="lung nodule", kind="lesion", model=model, is_corrected=is_corrected
    )
    segment = pydicom.dcmread(path).SegmentSequence[0]
    assert segment.SegmentAlgorithmType == algorithm
    assert segment.get("SegmentAlgorithmName") == (model and model["name"])
    assert errors_of(path) == []


def test_an_enhanced_image_and_a_flipped_array(tmp_path: Path) -> None:
    positions = [[-10.0, 20.0, 4.0 * index] for index in (2, 0, 1)]
    dataset = enhanced(np.zeros((3, 4, 5), np.int16), positions, [1, 1, 1], **STUDY)
    dataset.SOPClassUID = pydicom.uid.EnhancedMRImageStorage
    dataset.DimensionOrganizationSequence = []
    image = read_image(save(tmp_path / "mr", dataset) / "0.dcm")
    mask = noise_mask(image)
    np.testing.assert_array_equal(read_seg_mask(written(tmp_path / "seg.dcm", mask, image), FIRST, image), mask)
    assert image.affine_ijk_to_ras is not None
    image.affine_ijk_to_ras[:, 3] += image.affine_ijk_to_ras[:, 1] * (image.array.shape[1] - 1)
    image.affine_ijk_to_ras[:, 1] *= -1
    again = written(tmp_path / "flipped.dcm", mask[:, ::-1], image)
    pixels = [pydicom.dcmread(path).pixel_array for path in (tmp_path / "seg.dcm", again)]
    np.testing.assert_array_equal(*pixels)


def test_it_says_what_where_from_and_by_whom(image: SourceImage, tmp_path: Path) -> None:
    source = pydicom.dcmread(tmp_path / "ct" / "0.dcm")
    segmentation = pydicom.dcmread(written(tmp_path / "seg.dcm", noise_mask(image), image, "left kidney", "organ"))
    (segment,) = segmentation.SegmentSequence
    kind = segment.SegmentedPropertyTypeCodeSequence[0]
    assert segment.SegmentLabel == "left kidney"
    assert (kind.CodeValue, kind.CodingSchemeDesignator) == ("64033007", "SCT")
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue == "7771000"
    algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("tiny", "0.1.0")
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    assert segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    assert len(segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 3
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName"):
        assert segmentation[keyword].value == source[keyword].value
    assert segmentation.SeriesInstanceUID != source.SeriesInstanceUID
    assert segmentation.NumberOfFrames == 2  # the empty slice is left out
    assert segmentation.ContentDescription == "Research software, not a medical device"


def test_two_results_share_no_identifier(image: SourceImage, tmp_path: Path) -> None:
    one, other = (pydicom.dcmread(written(tmp_path / name, noise_mask(image), image)) for name in ("1.dcm", "2.dcm"))
    assert one.SOPInstanceUID != other.SOPInstanceUID and one.SeriesInstanceUID != other.SeriesInstanceUID


@pytest.mark.parametrize("thickness", ["", None])
def test_a_thickness_that_is_not_stated_is_the_step_between_slices(thickness: str | None, tmp_path: Path) -> None:
    image = read_image(save(tmp_path / "ct", *ct_slices(SliceThickness=thickness)))
    mask = noise_mask(image)
    path = written(tmp_path / "seg.dcm", mask, image)
    np.testing.assert_array_equal(read_seg_mask(path, FIRST, image), mask)
    shared = pydicom.dcmread(path).SharedFunctionalGroupsSequence[0]
    assert shared.PixelMeasuresSequence[0].SliceThickness == 2.5


def test_an_empty_mask_is_no_seg(image: SourceImage, tmp_path: Path) -> None:
    empty = np.zeros(image.array.shape, bool)
    path = tmp_path / "seg.dcm"
    assert write_dicom_seg(path, empty, image, target="polyp", kind="lesion", model=MODEL) is None
    assert not path.exists()


def test_a_picture(tmp_path: Path) -> None:
    tags = STUDY | {"Modality": "US", "SOPClassUID": pydicom.uid.UltrasoundImageStorage, "FrameOfReferenceUID": None}
    image = read_image(save(tmp_path / "us", picture(np.ones((4, 5, 3), np.uint8), **tags)) / "0.dcm")
    mask = noise_mask(image)
    path = written(tmp_path / "seg.dcm", mask, image, "breast lesion")
    np.testing.assert_array_equal(read_seg_mask(path, FIRST, image), mask)


def test_names_of_any_alphabet_are_copied_and_never_told(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    # a name without "^" is what highdicom warns about, by quoting it
    slices = ct_slices(SpecificCharacterSet="ISO_IR 100", PatientName="Müller", PatientID="4711")
    image = read_image(save(tmp_path / "ct", *slices))
    recwarn.clear()
    path = written(tmp_path / "seg.dcm", noise_mask(image), image)
    assert pydicom.dcmread(path).PatientName == "Müller"
    assert not recwarn.list and "Müller" not in caplog.text


@pytest.mark.parametrize("what", ["no DICOM", "another shape", "no bool", "a resampled volume", "a file that is gone"])
def test_what_cannot_be_written_is_refused(what: str, image: SourceImage, tmp_path: Path) -> None:
    mask, path = noise_mask(image), tmp_path / "seg.dcm"
    message = "write the mask as NIfTI"
    if what == "no DICOM":
        image.series, message = None, "is not DICOM; results as DICOM need"
    elif what == "another shape":
        mask, message = mask[1:], r"mask is bool \(4, 4, 3\), expected bool \(5, 4, 3\); resample"
    elif what == "no bool":
        mask, message = mask.astype(np.uint8), "mask is uint8"
    elif what == "a resampled volume":
        assert image.affine_ijk_to_ras is not None
        image.affine_ijk_to_ras = image.affine_ijk_to_ras @ np.diag([1, 1, 0.5, 1])
    else:
        (tmp_path / "ct" / "1.dcm").unlink()
        message = "the source cannot be read again .*; restore its files"
    with pytest.raises(DataError, match=message) as refused:
        write_dicom_seg(path, mask, image, target="polyp", kind="lesion", model=MODEL)
    assert PATIENT not in str(refused.value) and not path.exists()


def test_a_folder_that_cannot_be_made(image: SourceImage, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be written .*; choose another output folder"):
        written(tmp_path / "file" / "seg.dcm", noise_mask(image), image)


@pytest.mark.parametrize(
    ("name", "of_the_source"),
    [
        ("dcmqi_liver_CT3slice_SEG/ct", ()),
        ("ibsi_nsclc_phantom_CT_RTSTRUCT/image", ()),
        # this series' Study ID has 18 characters, two too many, and is copied as it is
        ("STS_008_PET_RTSTRUCT/image", ("Study ID", "Value Representations")),
        ("single/US1_J2KR.dcm", ()),
        ("single/RG1_J2KI.dcm", ()),
        ("single/JPGLosslessP14SV1_1s_1f_8b.dcm", ()),
    ],
)
def test_real_series_survive_and_validate(
    name: str, of_the_source: tuple[str, ...], shared_data: Path, tmp_path: Path
) -> None:
    image = read_image(shared_data / "dicom" / name)
    mask = noise_mask(image)
    path = written(tmp_path / "seg.dcm", mask, image)
    np.testing.assert_array_equal(read_seg_mask(path, FIRST, image), mask)
    assert not [line for line in errors_of(path) if not any(known in line for known in of_the_source)]
