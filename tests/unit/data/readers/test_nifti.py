"""Volumes are written with nibabel; header fields are set by hand where a test is about them."""

import nibabel as nib
import numpy as np
import pytest

from prsmed.data.readers.labels import read_labels, sole_label
from prsmed.data.readers.nifti import read_nifti
from prsmed.errors import DataError

# voxels of 2 x 3 x 4 mm, first axis towards the patient's left
AFFINE = np.array([[-2.0, 0, 0, 10], [0, 3, 0, -20], [0, 0, 4, 5], [0, 0, 0, 1]])
SHAPE = (4, 5, 6)


def _save(path, array, affine=AFFINE, kind=nib.Nifti1Image, codes=(2, 0), unit="mm"):
    volume = kind(array, affine)
    volume.header.set_xyzt_units(unit)
    volume.set_sform(affine, code=codes[0])
    volume.set_qform(affine, code=codes[1])
    nib.save(volume, path)
    return path


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_integers_keep_type_and_stored_order(tmp_path, kind, name):
    array = np.arange(120, dtype=np.int16).reshape(SHAPE)
    read = read_nifti(_save(tmp_path / name, array, kind=kind))
    assert read.array.dtype == np.int16 and read.is_volume
    np.testing.assert_array_equal(read.array, array)
    np.testing.assert_array_equal(read.affine_ijk_to_ras, AFFINE)
    assert read.spacing_mm == (2.0, 3.0, 4.0)


def test_slope_and_intercept_are_applied(tmp_path):
    volume = nib.Nifti1Image(np.full(SHAPE, 7, dtype=np.int16), AFFINE)
    volume.header.set_slope_inter(2, -1024)
    nib.save(volume, tmp_path / "a.nii")
    raw = nib.load(tmp_path / "a.nii")
    stored = int(raw.dataobj.get_unscaled()[0, 0, 0])
    read = read_nifti(tmp_path / "a.nii")
    assert read.array.dtype == np.float32
    assert read.array[0, 0, 0] == stored * 2 - 1024


def test_qform_serves_where_there_is_no_sform(tmp_path):
    read = read_nifti(_save(tmp_path / "a.nii", np.zeros(SHAPE, np.uint8), codes=(0, 1)))
    np.testing.assert_allclose(read.affine_ijk_to_ras, AFFINE, atol=1e-5)


def test_a_fourth_dimension_of_one_is_dropped(tmp_path):
    assert read_nifti(_save(tmp_path / "a.nii", np.zeros((*SHAPE, 1), np.uint8))).array.shape == SHAPE


def _nan_voxel():
    array = np.zeros(SHAPE, np.float32)
    array[1, 2, 3] = np.nan
    return array


_FLAT = AFFINE * [[1, 1, 0, 1], [1, 1, 0, 1], [1, 1, 0, 1], [1, 1, 1, 1]]
_NAN_AFFINE = np.where(AFFINE == 10, np.nan, AFFINE)


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (np.zeros((*SHAPE, 2), np.uint8), {}, "expected three dimensions"),
        (np.zeros(SHAPE[:2], np.uint8), {}, "expected three dimensions"),
        (_nan_voxel(), {}, "NaN or infinite voxels"),
        (np.zeros(SHAPE, np.complex64), {}, "expected numbers"),
        (np.zeros(SHAPE, np.uint8), {"codes": (0, 0)}, "states no orientation.*; set the qform or sform"),
        (np.zeros(SHAPE, np.uint8), {"unit": "micron"}, "micron, expected mm"),
    ],
)
def test_what_is_not_a_volume_is_refused(tmp_path, array, options, message):
    with pytest.raises(DataError, match=rf"a\.nii: .*{message}"):
        read_nifti(_save(tmp_path / "a.nii", array, **options))


@pytest.mark.parametrize("affine", [_FLAT, _NAN_AFFINE], ids=["singular", "nan"])
def test_an_affine_that_cannot_be_inverted_is_refused(tmp_path, affine):
    volume = nib.Nifti1Image(np.zeros(SHAPE, np.uint8), None)
    volume.header["sform_code"] = 1
    for row, name in enumerate(("srow_x", "srow_y", "srow_z")):
        volume.header[name] = affine[row]
    nib.Nifti1Image(volume.dataobj, None, header=volume.header)
    raw = bytearray(volume.to_bytes())
    raw[280:328] = affine[:3].astype("<f4").tobytes()  # NIfTI-1: srow_x, srow_y, srow_z
    raw[254:256] = np.int16(1).tobytes()  # NIfTI-1: sform_code
    (tmp_path / "a.nii").write_bytes(raw)
    with pytest.raises(DataError, match="affine is not invertible"):
        read_nifti(tmp_path / "a.nii")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_truncated_volume_is_refused(tmp_path, name):
    path = _save(tmp_path / name, np.random.default_rng(0).random((16, 16, 16)).astype(np.float32))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="cannot be decoded as NIfTI"):
        read_nifti(path)


def test_labels(tmp_path):
    array = np.zeros(SHAPE, np.float32)
    empty = _save(tmp_path / "empty.nii", array)
    array[0, 0, 0] = 255
    one = _save(tmp_path / "one.nii", array)
    array[1, 0, 0] = 2
    two = _save(tmp_path / "two.nii", array)
    array[2, 0, 0] = 0.5
    soft = _save(tmp_path / "soft.nii", array)
    assert (sole_label(empty), sole_label(one)) == (1, 255)
    assert read_labels(two).array[1, 0, 0] == 2
    with pytest.raises(DataError, match=r"labels \[2, 255\], not one"):
        sole_label(two)
    with pytest.raises(DataError, match="whole numbers"):
        read_labels(soft)
