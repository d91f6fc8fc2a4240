"""NRRD and MetaImage: files of SimpleITK (LPS), compared with what nibabel writes for the same grid (RAS)."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from prsmed.data.readers import VOLUME_SUFFIXES, read_image, read_mask, sole_label
from prsmed.types import MaskRef

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# an oblique grid: a turn of 30 degrees about z, then 20 about x; voxels of 1 x 2 x 3 mm
TURN = np.array([[np.cos(0.52), -np.sin(0.52), 0], [np.sin(0.52), np.cos(0.52), 0], [0, 0, 1]]) @ np.array(
    [[1, 0, 0], [0, np.cos(0.35), -np.sin(0.35)], [0, np.sin(0.35), np.cos(0.35)]]
)
SPACING_MM = (1.0, 2.0, 3.0)


def _volume(array_ijk, directions=TURN):
    volume = SimpleITK.GetImageFromArray(array_ijk.transpose())
    volume.SetSpacing(SPACING_MM)
    volume.SetDirection(directions.ravel().tolist())
    volume.SetOrigin((5.0, -6.0, 7.0))
    return volume


def _save_nifti(path, array_ijk):
    affine_ijk_to_lps = np.eye(4)
    affine_ijk_to_lps[:3, :3] = TURN * SPACING_MM
    affine_ijk_to_lps[:3, 3] = (5.0, -6.0, 7.0)
    nib.save(nib.Nifti1Image(array_ijk, LPS_TO_RAS @ affine_ijk_to_lps), path)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("suffix", VOLUME_SUFFIXES)
def test_one_point_has_one_value_in_every_format(tmp_path, suffix, dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    path = tmp_path / f"скан 体{suffix}"
    if suffix.startswith(".nii"):
        _save_nifti(path, array)
    else:
        SimpleITK.WriteImage(_volume(array), str(path), useCompression=True)
    image = read_image(path)
    assert image.array.dtype == dtype and image.is_volume
    np.testing.assert_array_equal(image.array, array)
    np.testing.assert_allclose(image.spacing_mm, SPACING_MM, rtol=1e-6)
    # ITK's own mapping of the voxel (1, 2, 3), in LPS
    x, y, z = _volume(array).TransformIndexToPhysicalPoint((1, 2, 3))
    np.testing.assert_allclose(image.affine_ijk_to_ras @ [1, 2, 3, 1], [-x, -y, z, 1], atol=1e-5)


def test_a_nrrd_in_ras(tmp_path):
    header = (
        "NRRD0004\ntype: uchar\ndimension: 3\nspace: right-anterior-superior\nsizes: 2 2 2\n"
        "space directions: (2,0,0) (0,3,0) (0,0,4)\nspace origin: (10,20,30)\nencoding: raw\n\n"
    )
    (tmp_path / "a.nrrd").write_bytes(header.encode() + bytes(range(8)))
    image = read_image(tmp_path / "a.nrrd")
    np.testing.assert_allclose(image.affine_ijk_to_ras, [[2, 0, 0, 10], [0, 3, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]])
    assert image.array[1, 0, 0] == 1


def test_labels_in_nrrd(tmp_path):
    labels = np.zeros((2, 3, 4), np.uint8)
    labels[1, 2, 3] = 7
    SimpleITK.WriteImage(_volume(labels), str(tmp_path / "mask.nrrd"))
    SimpleITK.WriteImage(_volume(labels), str(tmp_path / "image.mha"))
    assert sole_label(tmp_path / "mask.nrrd") == 7
    mask = read_mask(tmp_path / "mask.nrrd", MaskRef("nifti", "mask.nrrd", 7), read_image(tmp_path / "image.mha"))
    assert np.argwhere(mask).tolist() == [[1, 2, 3]]
