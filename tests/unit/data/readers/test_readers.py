"""Dispatch by suffix, masks on their image's grid, the union that is a target's truth."""

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from prsmed.data.manifest import Manifest
from prsmed.data.readers import IMAGE_SUFFIXES, image_suffix, read_image, read_mask, read_target
from prsmed.errors import DataError
from prsmed.types import Case, MaskRef, SourceImage, Target

PICTURE = SourceImage(array=np.zeros((4, 6, 3), np.uint8), path="a.png")
VOLUME = SourceImage(array=np.zeros((4, 5, 6), np.int16), affine_ijk_to_ras=np.diag([2.0, 2, 2, 1]), path="a.nii")


def _save_mask(path, array, mode=None):
    picture = Image.fromarray(np.asarray(array, dtype=np.uint8))
    (picture.convert(mode) if mode else picture).save(path)
    return path


def test_suffixes():
    assert image_suffix("A.NII.GZ") == ".nii.gz"
    assert image_suffix("scan.v2.JPG") == ".jpg"
    assert image_suffix("notes.txt") is None


def test_an_unsupported_format_names_the_supported_ones(tmp_path):
    (tmp_path / "a.gif").write_bytes(b"GIF89a")
    with pytest.raises(DataError) as caught:
        read_image(tmp_path / "a.gif")
    assert all(suffix in str(caught.value) for suffix in IMAGE_SUFFIXES)


@pytest.mark.parametrize(
    ("value", "mode"), [(value, mode) for value in (1, 38, 255) for mode in (None, "RGB", "P")] + [(255, "1")]
)
def test_any_single_level_is_a_mask(tmp_path, value, mode):
    array = np.zeros((4, 6))
    array[1:3, 2:5] = value
    mask = read_mask(_save_mask(tmp_path / "m.png", array, mode), MaskRef("png", "m.png"), PICTURE)
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, array > 0)


def test_a_palette_mask_is_read_by_colour_not_by_index(tmp_path):
    inverted = Image.fromarray(np.array([[0, 1, 1, 1, 1, 1]] * 4, dtype=np.uint8), mode="L").convert("P")
    inverted.putpalette([255, 255, 255, 0, 0, 0])
    inverted.save(tmp_path / "m.png")
    mask = read_mask(tmp_path / "m.png", MaskRef("png", "m.png"), PICTURE)
    np.testing.assert_array_equal(mask, [[True] + [False] * 5] * 4)


def test_a_mask_in_the_alpha_channel_is_no_negative(tmp_path):
    rgba = np.zeros((4, 6, 4), dtype=np.uint8)
    rgba[1, 1, 3] = 255
    Image.fromarray(rgba).save(tmp_path / "m.png")
    with pytest.raises(DataError, match="transparent pixels"):
        read_mask(tmp_path / "m.png", MaskRef("png", "m.png"), PICTURE)


def test_two_colours_are_not_binary(tmp_path):
    rgb = np.zeros((4, 6, 3), dtype=np.uint8)
    rgb[0, 0], rgb[1, 1] = (128, 0, 0), (0, 128, 0)
    Image.fromarray(rgb).save(tmp_path / "m.png")
    with pytest.raises(DataError, match="not binary"):
        read_mask(tmp_path / "m.png", MaskRef("png", "m.png"), PICTURE)


def _save_labels(path, affine, shape=(4, 5, 6)):
    array = np.zeros(shape, np.uint8)
    array[0, 0, 0], array[1, 1, 1] = 1, 3
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def test_a_label_of_a_volume(tmp_path):
    path = _save_labels(tmp_path / "m.nii", VOLUME.affine_ijk_to_ras)
    mask = read_mask(path, MaskRef("nifti", "m.nii", 3), VOLUME)
    assert mask.shape == (4, 5, 6) and np.argwhere(mask).tolist() == [[1, 1, 1]]
    assert not read_mask(path, MaskRef("nifti", "m.nii", 2), VOLUME).any()


@pytest.mark.parametrize(
    ("affine", "shape", "message"),
    [
        (np.diag([2.0, 2, 2, 1]), (4, 5, 7), r"mask is \(4, 5, 7\), image is \(4, 5, 6\)"),
        (np.diag([-2.0, 2, 2, 1]), (4, 5, 6), "up to 6.0 voxels"),  # (4 - 1) voxels, mirrored: 2 * 3
        (np.diag([2.0, 2, 2.1, 1]), (4, 5, 6), "up to 0.2 voxels"),  # 5 * 0.1 / 2 = 0.25 at the far corner
    ],
)
def test_a_mask_volume_on_another_grid_is_refused(tmp_path, affine, shape, message):
    with pytest.raises(DataError, match=message):
        read_mask(_save_labels(tmp_path / "m.nii", affine, shape), MaskRef("nifti", "m.nii", 1), VOLUME)


def test_rounding_of_an_affine_is_tolerated(tmp_path):
    affine = VOLUME.affine_ijk_to_ras + 1e-4
    affine[3] = [0, 0, 0, 1]
    assert read_mask(_save_labels(tmp_path / "m.nii", affine), MaskRef("nifti", "m.nii", 1), VOLUME).sum() == 1


@pytest.mark.parametrize(
    ("ref", "image", "message"),
    [
        (MaskRef("png", "m.png"), VOLUME, "must be a label volume"),
        (MaskRef("nifti", "m.nii", 1), PICTURE, "must be a picture"),
        (MaskRef("seg", "s.dcm", 1), PICTURE, r"s\.dcm: .*; "),
        (MaskRef("rtstruct", "r.dcm", "GTV"), PICTURE, "contours need a volume"),
    ],
)
def test_mask_kinds_that_do_not_fit(ref, image, message):
    with pytest.raises(DataError, match=message):
        read_mask(ref.path, ref, image)


def test_a_target_is_the_union_of_its_masks(tmp_path):
    left, right = np.zeros((4, 6)), np.zeros((4, 6))
    left[0, 0] = right[3, 5] = 255
    _save_mask(tmp_path / "l.png", left)
    _save_mask(tmp_path / "r.png", right)
    masks = (MaskRef("png", "l.png"), MaskRef("png", "r.png"))
    case = Case(id="a", image="a.png", modality="ct", group="a", split="test")
    manifest = Manifest(tmp_path, (case,), {".": tmp_path.resolve()})
    union = read_target(manifest, case, Target("t1", "lungs", "organ", masks=masks), PICTURE)
    assert np.argwhere(union).tolist() == [[0, 0], [3, 5]]
    assert not read_target(manifest, case, Target("t1", "lungs", "organ"), PICTURE).any()
