"""Square pixels, row by row and column by column, against MONAI's grid of points."""

import monai.transforms
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from prsmed.data.spacing import Spacingd

SETTINGS = {"mode": "bilinear", "padding_mode": "border", "align_corners": True, "scale_extent": True}


def _slice(hw_px, sizes_mm, channels=1):
    values = np.random.default_rng(0).random((channels, *hw_px), dtype=np.float32)
    return MetaTensor(torch.from_numpy(values), affine=torch.diag(torch.tensor([*sizes_mm, 1.0])))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("pixdim", [(1.0, 1.0), (0.7, 1.3)])
@pytest.mark.parametrize(
    ("hw_px", "sizes_mm"),
    [
        ((64, 80), (0.8, 0.8)),
        ((80, 31), (0.35, 2.5)),
        ((2, 97), (3.0, 0.61)),
        ((50, 40), (1.0004, 1.0)),  # within MONAI's tolerance of 1 mm
        ((50, 40), (1.0008, 0.5)),
        ((7, 5), (1.0, 1.0)),
    ],
)
def test_monai_agrees(hw_px, sizes_mm, pixdim, channels):
    ours, theirs = (
        transform("image", pixdim, **SETTINGS)({"image": _slice(hw_px, sizes_mm, channels)})["image"]
        for transform in (Spacingd, monai.transforms.Spacingd)
    )
    assert ours.shape == theirs.shape and type(ours) is MetaTensor and ours.dtype == torch.float32
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-5)
    np.testing.assert_allclose(ours.affine.diagonal(), theirs.affine.diagonal(), atol=1e-6)


def test_square_pixels_of_the_wanted_size_stay_untouched():
    picture = _slice((9, 8), (1.0, 1.0))
    assert Spacingd("image", (1.0, 1.0), **SETTINGS)({"image": picture})["image"] is picture


@pytest.mark.parametrize("changed", [{"mode": "nearest"}, {"padding_mode": "zeros"}, {"scale_extent": False}])
def test_other_settings_are_monai_s_own(changed):
    item = {"image": _slice((20, 30), (0.8, 1.7))}
    options = {**SETTINGS, **changed}
    ours, theirs = (
        transform("image", (1.0, 1.0), **options)(item)["image"] for transform in (Spacingd, monai.transforms.Spacingd)
    )
    assert torch.equal(ours.as_tensor(), theirs.as_tensor())
