"""A mask to the network's grid and back to its voxels, slice by slice: the Dice of a mask with itself.

Where the network's grid is no coarser than the source's, it has to be 0.99 at least; where it is coarser, the figure is
the ceiling of any prediction at that size, and is recorded (and shown by `pytest -rP`).
"""

import json

import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform

from prsmed.data.preprocessing import Preprocessing
from prsmed.data.readers import read_image, read_mask
from prsmed.data.slicing import choose_slices
from prsmed.geometry import Frame
from prsmed.types import SLICE_AXES, MaskRef, SourceImage

SIDE_PX = 256


@pytest.fixture(scope="module")
def steps(repository):
    return json.loads((repository / "configs/train.json").read_text(encoding="utf-8"))["preprocessing_steps"]


def _there_and_back(steps, image, mask_ijk, *, axis, side_px):
    """The mask after its way through the network's grid, and whether that is coarser than the source's anywhere."""
    resized = [{**step, "long_side_px": side_px} if step["transform"] == "ToCanonicald" else step for step in steps]
    prepared = Preprocessing(resized).prepare(image, modality="mri")
    frame = Frame(side_px)
    back_ijk, is_coarser = np.zeros_like(mask_ijk), False
    for position in choose_slices(image, mask_ijk, axis=axis, choice="all"):
        _, geometry = prepared.slice(position)
        canonical_hw_px = geometry.canonical_hw_px
        is_coarser |= any(here < there for here, there in zip(canonical_hw_px, geometry.slice_hw_px, strict=True))
        label = torch.from_numpy(geometry.mask_to_canonical(geometry.volume.take(mask_ijk)).astype(np.float32))
        framed = frame.enter(label[None, None], [canonical_hw_px])
        left = frame.leave(framed, [canonical_hw_px], canonical_hw_px)
        geometry.volume.put(geometry.prob_to_slice(left[0, 0]).numpy() >= 0.5, back_ijk)
    return back_ijk, is_coarser


def _dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def _check(steps, image, mask_ijk, name, record_property):
    for axis in SLICE_AXES:
        back_ijk, is_coarser = _there_and_back(steps, image, mask_ijk, axis=axis, side_px=SIDE_PX)
        dice = _dice(back_ijk, mask_ijk)
        assert is_coarser or dice >= 0.99, (name, axis, dice)
        coarse_ijk, _ = _there_and_back(steps, image, mask_ijk, axis=axis, side_px=SIDE_PX // 2)
        ceiling = _dice(coarse_ijk, mask_ijk)
        record_property(f"{name} {axis} at {SIDE_PX // 2} px", round(float(ceiling), 4))
        print(f"{name}, {axis}: Dice {dice:.4f} at {SIDE_PX} px, {ceiling:.4f} at {SIDE_PX // 2} px")
        assert ceiling > 0.8


def _blob(shape_ijk, spacing_mm):
    """A ball of 14 mm in the middle of a volume, and a small one near a corner."""
    places = np.meshgrid(*(np.arange(side) * mm for side, mm in zip(shape_ijk, spacing_mm, strict=True)), indexing="ij")
    middle = [side * mm / 2 for side, mm in zip(shape_ijk, spacing_mm, strict=True)]
    large = sum((place - at) ** 2 for place, at in zip(places, middle, strict=True)) < 14**2
    small = sum((place - 12) ** 2 for place in places) < 6**2
    return large | small


@pytest.mark.parametrize("spacing_mm", [(0.7, 0.7, 5.0), (3.0, 0.8, 0.8), (1.0, 2.0, 1.0)])
def test_anisotropic_voxels(steps, spacing_mm, record_property):
    shape_ijk = tuple(round(64 / mm) for mm in spacing_mm)
    mask_ijk = _blob(shape_ijk, spacing_mm)
    image = SourceImage(mask_ijk.astype(np.int16), np.diag([*spacing_mm, 1.0]), spacing_mm)
    _check(steps, image, mask_ijk, f"spacing {spacing_mm}", record_property)


def _rotated(degrees):
    """A turn about x and then about z."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    about_x = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    about_z = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    return about_z @ about_x


def _real(folder, name):
    image = read_image(folder / f"{name}_image.nii.gz")
    path = folder / f"{name}_mask.nii.gz"
    return image, read_mask(path, MaskRef("nifti", str(path), 1), image)


@pytest.mark.parametrize("name", ["brain1", "nsclc_ct", "STS_002_CT"])
def test_real_volumes(steps, shared_data, name, record_property):
    image, mask_ijk = _real(shared_data / "volumes", name)
    _check(steps, image, mask_ijk, name, record_property)


def test_an_oblique_volume(steps, shared_data, record_property):
    """STS_002_CT on a grid that is turned by 17 degrees about two axes, as an oblique acquisition would be stored."""
    image, mask_ijk = _real(shared_data / "volumes", "STS_002_CT")
    centre_ijk = np.array(mask_ijk.shape) / 2
    oblique_to_ras = np.array(image.affine_ijk_to_ras)
    oblique_to_ras[:3, :3] = _rotated(17) @ oblique_to_ras[:3, :3]
    oblique_to_ras[:3, 3] += (image.affine_ijk_to_ras - oblique_to_ras)[:3, :3] @ centre_ijk
    to_stored = np.linalg.inv(image.affine_ijk_to_ras) @ oblique_to_ras
    resampled = [
        affine_transform(array.astype(np.float32), to_stored[:3, :3], to_stored[:3, 3], order=order)
        for array, order in ((image.array, 1), (mask_ijk, 0))
    ]
    oblique = SourceImage(resampled[0], oblique_to_ras, image.spacing_mm)
    assert (resampled[1] > 0.5).sum() > mask_ijk.sum() / 2
    _check(steps, oblique, resampled[1] > 0.5, "oblique STS_002_CT", record_property)
