"""SEG and RTSTRUCT on an image's grid; numbers follow from the made slices' positions, or from the real files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from skimage.draw import polygon2mask

from prsmed.data.readers import read_image, read_mask
from prsmed.data.readers.segments import even_odd, read_rtstruct_mask, read_seg_mask
from prsmed.errors import DataError
from prsmed.types import MaskRef, SourceImage
from tests.unit.data.readers.made_dicom import PATIENT, picture, save
from tests.unit.data.readers.made_segments import STUDY, box_contour, ct_slices, save_rtstruct, save_seg

FIRST = MaskRef("seg", "", 1)
GTV = MaskRef("rtstruct", "", "GTV")
# columns 1 to 3 and rows 1 to 2: their centres, x = -8 to -4 and y = 23 to 26, lie inside
INSIDE = box_contour((-9, -3), (21.5, 27.5), 2.5)


@pytest.fixture
def slices() -> list[pydicom.Dataset]:
    return ct_slices()


@pytest.fixture
def image(slices: list[pydicom.Dataset], tmp_path: Path) -> SourceImage:
    """Shape (5, 4, 3)."""
    return read_image(save(tmp_path / "ct", *slices))


def segments(seed: int = 0, count: int = 1) -> np.ndarray:
    """uint8 (frames, rows, columns, segments), no voxel in two segments."""
    labels = np.random.default_rng(seed).integers(0, count + 1, (3, 4, 5))
    return np.stack([labels == number for number in range(1, count + 1)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
@pytest.mark.parametrize("number", [1, 2])
def test_frames_are_placed_by_position(
    kind: str, number: int, slices: list[pydicom.Dataset], image: SourceImage, tmp_path: Path
) -> None:
    stored = segments(count=2)
    # the SEG's frames run against the volume's slices
    path = save_seg(tmp_path / "seg.dcm", slices[::-1], stored[::-1], kind=kind)
    mask = read_seg_mask(path, MaskRef("seg", "", number), image)
    np.testing.assert_array_equal(mask, stored[..., number - 1].transpose(2, 1, 0).astype(bool))


def test_fractions_count_from_one_half(slices: list[pydicom.Dataset], image: SourceImage, tmp_path: Path) -> None:
    stored = np.zeros((3, 4, 5, 1), np.float32)
    stored[1, 2, :4, 0] = (0.49, 0.5, 0.51, 1.0)
    mask = read_seg_mask(save_seg(tmp_path / "seg.dcm", slices, stored, kind="FRACTIONAL"), FIRST, image)
    assert np.argwhere(mask).tolist() == [[1, 2, 1], [2, 2, 1], [3, 2, 1]]


def test_a_declared_segment_without_frames_is_empty(
    slices: list[pydicom.Dataset], image: SourceImage, tmp_path: Path
) -> None:
    stored = segments(count=2)
    stored[..., 1] = 0
    path = save_seg(tmp_path / "seg.dcm", slices, stored)
    assert not read_seg_mask(path, MaskRef("seg", "", 2), image).any()
    assert read_seg_mask(path, FIRST, image).any()


def test_the_image_may_be_stored_another_way(slices: list[pydicom.Dataset], image: SourceImage, tmp_path: Path) -> None:
    assert image.affine_ijk_to_ras is not None
    flipped = image.affine_ijk_to_ras.copy()
    flipped[:, 3] += flipped[:, 0] * (image.array.shape[0] - 1)
    flipped[:, 0] *= -1
    other = SourceImage(
        image.array[::-1].transpose(2, 0, 1), flipped[:, [2, 0, 1, 3]], series=image.series, path=image.path
    )
    seg = save_seg(tmp_path / "seg.dcm", slices, segments())
    contours = save_rtstruct(tmp_path / "rt.dcm", {"GTV": [INSIDE]})
    for read, path, ref in ((read_seg_mask, seg, FIRST), (read_rtstruct_mask, contours, GTV)):
        np.testing.assert_array_equal(read(path, ref, other), read(path, ref, image)[::-1].transpose(2, 0, 1))


def test_a_picture_has_to_be_named_by_its_seg(tmp_path: Path) -> None:
    tags = STUDY | {"Modality": "US", "SOPClassUID": pydicom.uid.UltrasoundImageStorage, "FrameOfReferenceUID": None}
    one, other = (picture(np.ones((4, 5), np.uint8), **tags) for _ in range(2))
    stored = segments()[:1]
    path = save_seg(tmp_path / "seg.dcm", [one], stored)
    first, second = (read_image(save(tmp_path / name, data) / "0.dcm") for name, data in (("a", one), ("b", other)))
    np.testing.assert_array_equal(read_seg_mask(path, FIRST, first), stored[0, ..., 0].astype(bool))
    with pytest.raises(DataError, match=r"does not name .* as its source; use the image it was made on"):
        read_seg_mask(path, FIRST, second)


def test_a_voxel_is_inside_where_its_centre_is(image: SourceImage, tmp_path: Path) -> None:
    path = save_rtstruct(tmp_path / "rt.dcm", {"body": [box_contour((-99, 99), (-99, 99), 0)], "GTV": [INSIDE]})
    expected = np.zeros((5, 4, 3), bool)
    expected[1:4, 1:3, 1] = True
    for selector in ("GTV", "2", 2):
        np.testing.assert_array_equal(read_mask(path, MaskRef("rtstruct", "", selector), image), expected)
    # the part beyond the edge of a slice is cut off
    assert read_rtstruct_mask(path, MaskRef("rtstruct", "", "body"), image)[:, :, 0].all()


@pytest.mark.parametrize("contour_type", ["CLOSED_PLANAR", "CLOSEDPLANAR_XOR"])
def test_inner_contours_and_keyholes_are_holes(contour_type: str, image: SourceImage, tmp_path: Path) -> None:
    outer, inner = ((-11, -1), (19, 30)), ((-7, -5), (22, 25))  # the inner one holds column 2, row 1
    keyhole = [(-11, 19), (-7, 22), (-5, 22), (-5, 25), (-7, 25), (-7, 22), (-11, 19), (-11, 30), (-1, 30), (-1, 19)]
    rois = {
        "ring": [box_contour(*outer, 2.5), box_contour(*inner, 2.5)],
        "keyhole": [[value for x, y in keyhole for value in (x, y, 2.5)]],
    }
    path = save_rtstruct(tmp_path / "rt.dcm", rois, contour_type=contour_type)
    expected = np.zeros((5, 4, 3), bool)
    expected[:, :, 1] = True
    expected[2, 1, 1] = False
    for name in rois:
        np.testing.assert_array_equal(read_rtstruct_mask(path, MaskRef("rtstruct", "", name), image), expected)


def test_regions_that_touch_share_no_voxel(image: SourceImage, tmp_path: Path) -> None:
    # both outlines run through the centres of column 2
    rois = {"left": [box_contour((-11, -6), (19, 30), 0)], "right": [box_contour((-6, 0), (19, 30), 0)]}
    path = save_rtstruct(tmp_path / "rt.dcm", rois)
    masks = [read_rtstruct_mask(path, MaskRef("rtstruct", "", name), image)[:, :, 0] for name in rois]
    assert (masks[0] ^ masks[1]).all() and not (masks[0] & masks[1]).any()


def test_even_odd_agrees_with_scikit_image() -> None:
    # on corners that meet no pixel centre, where the two conventions are the same
    for seed in range(20):
        corners = np.random.default_rng(seed).uniform(-2, 22, (7, 2))
        np.testing.assert_array_equal(even_odd([corners], (20, 17)), polygon2mask((20, 17), corners))


Bad = Callable[[Path, list[pydicom.Dataset]], tuple[Path, MaskRef]]


def _seg(path: Path, slices: list[pydicom.Dataset], **tags: object) -> Path:
    for dataset in slices:
        for keyword, value in tags.items():
            setattr(dataset, keyword, value)
    return save_seg(path / "seg.dcm", slices, np.ones((len(slices), 4, 5, 1), np.uint8))


def _shifted(path: Path, slices: list[pydicom.Dataset]) -> tuple[Path, MaskRef]:
    for dataset in slices:
        dataset.ImagePositionPatient = [-10 + 0.4, *dataset.ImagePositionPatient[1:]]  # a fifth of a voxel
    return _seg(path, slices), FIRST


def _cut(path: Path, slices: list[pydicom.Dataset], keep: float) -> tuple[Path, MaskRef]:
    whole = _seg(path, slices)
    content = whole.read_bytes()
    whole.write_bytes(content[: int(len(content) * keep)] if keep < 1 else content[:-2])
    return whole, FIRST


def _rt(path: Path, contour: list[float] = INSIDE, selector: str = "GTV", **options: str) -> tuple[Path, MaskRef]:
    return save_rtstruct(path / "rt.dcm", {"GTV": [contour]}, **options), MaskRef("rtstruct", "", selector)


def _more_slices(path: Path, slices: list[pydicom.Dataset]) -> tuple[Path, MaskRef]:
    return _seg(path, ct_slices(4)), FIRST


BAD: dict[str, tuple[Bad, str]] = {
    "SEG of another frame of reference": (
        lambda path, slices: (_seg(path, slices, FrameOfReferenceUID="1.2.3"), FIRST),
        "frame of reference is 1.2.3, the image's is .*; use the series it was made on",
    ),
    "missing segment": (
        lambda path, slices: (_seg(path, slices), MaskRef("seg", "", 3)),
        r"no segment 3; choose one of 1 \(first\)",
    ),
    "SEG between the slices": (_shifted, "0.20 voxels beside .*; resample it onto the image"),
    "SEG of other pixels": (
        lambda path, slices: (_seg(path, slices, PixelSpacing=[6, 4]), FIRST),
        "beside the image's own voxels; resample",
    ),
    "SEG beyond the image": (_more_slices, "reaches beyond the image; read the whole series"),
    "SEG cut in its header": (lambda path, slices: _cut(path, slices, 0.4), "cannot be read as DICOM SEG"),
    "SEG cut in its pixels": (lambda path, slices: _cut(path, slices, 1), "export or download it again"),
    "CT as SEG": (lambda path, slices: (path / "ct" / "0.dcm", FIRST), "cannot be read as DICOM SEG .*; export"),
    "RTSTRUCT of another series": (
        lambda path, slices: _rt(path, series_uid="1.2.3"),
        "was drawn on series 1.2.3, the image is series .*; use the series it was drawn on",
    ),
    "RTSTRUCT of another frame of reference": (
        lambda path, slices: _rt(path, frame_uid="1.2.3"),
        "frame of reference is 1.2.3, the image's",
    ),
    "missing ROI": (
        lambda path, slices: _rt(path, selector="PTV"),
        r"has no ROI 'PTV'; choose the name or the number of one of 1 \(GTV\)",
    ),
    "ROI never drawn": (
        lambda path, slices: (save_rtstruct(path / "rt.dcm", {"GTV": []}), GTV),
        "ROI 1 is listed but has no closed contour; draw it",
    ),
    "only points": (lambda path, slices: _rt(path, contour_type="POINT"), "has no closed contour; draw it"),
    "contour beyond the slices": (
        lambda path, slices: _rt(path, box_contour((-9, -3), (21, 28), 6.5)),
        "lies at slice 2.6, the image has 0 to 2; read the whole series",
    ),
    "contour across the slices": (
        lambda path, slices: _rt(path, [-9, 21, 0, -3, 21, 2.5, -3, 28, 5]),
        "runs across slices; draw it in the plane",
    ),
    "two contours on one slice": (
        lambda path, slices: (
            save_rtstruct(path / "rt.dcm", {"GTV": [INSIDE, box_contour((-9, -3), (21, 28), 3.5)]}),
            GTV,
        ),
        "contours of two planes fall on slice 1; resample",
    ),
    "CT as RTSTRUCT": (lambda path, slices: (path / "ct" / "0.dcm", GTV), "is a CT object .*, expected RTSTRUCT"),
    "no DICOM": (lambda path, slices: (Path(__file__), GTV), "cannot be read as DICOM RTSTRUCT"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_a_remedy(
    name: str, slices: list[pydicom.Dataset], image: SourceImage, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    make, message = BAD[name]
    path, ref = make(tmp_path, slices)
    recwarn.clear()
    with pytest.raises(DataError, match=message) as refused:
        read_mask(path, ref, image)
    assert str(refused.value).startswith(f"{path}: ") and "; " in str(refused.value)
    assert PATIENT not in str(refused.value) and not recwarn.list


def test_a_contour_needs_a_volume(tmp_path: Path) -> None:
    path, ref = _rt(tmp_path)
    with pytest.raises(DataError, match=r"contours need a volume, a\.png is a picture; use the series"):
        read_rtstruct_mask(path, ref, SourceImage(np.zeros((4, 5, 1), np.uint8), path="a.png"))


def test_a_real_seg_is_its_own_pixels(shared_data: Path) -> None:
    folder = shared_data / "dicom" / "dcmqi_liver_CT3slice_SEG"
    path = folder / "seg" / "SEG_liver.dcm"
    mask = read_seg_mask(path, FIRST, read_image(folder / "ct"))
    # by its positions this SEG, like the volume, runs from feet to head
    np.testing.assert_array_equal(mask, pydicom.dcmread(path).pixel_array.transpose(2, 1, 0).astype(bool))


def test_a_real_rtstruct_is_the_mask_published_beside_it(shared_data: Path) -> None:
    folder = shared_data / "dicom" / "ibsi_nsclc_phantom_CT_RTSTRUCT"
    image = read_image(folder / "image")
    mask = read_rtstruct_mask(next((folder / "mask").iterdir()), MaskRef("rtstruct", "", "GTV-1"), image)
    published = shared_data / "volumes" / "nsclc_ct_mask.nii.gz"
    truth = read_mask(published, MaskRef("nifti", "", 1), image)
    assert mask.sum() == 125256  # volumes/manifest.csv
    np.testing.assert_array_equal(mask, truth)


def test_a_real_pet_rtstruct_lies_on_hot_voxels(shared_data: Path) -> None:
    folder = shared_data / "dicom" / "STS_008_PET_RTSTRUCT"
    image = read_image(folder / "image")
    mask = read_rtstruct_mask(folder / "mask" / "RS.dcm", MaskRef("rtstruct", "", "GTV_Mass_PET"), image)
    assert mask.any(axis=(0, 1)).sum() == 19  # contours in the file, each on a slice of its own
    # a sarcoma takes up more tracer than what surrounds it
    assert image.array[mask].mean() > 3 * image.array[~mask].mean()
