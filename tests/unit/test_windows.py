"""Windows of pictures: the same part of label and maps, whatever the aspect ratio."""

import numpy as np
import pytest
import torch

from prsmed.geometry import Frame
from prsmed.windows import WHOLE, label_window, map_windows, random_window

FRAME = Frame(64, "pad")
HW_PX = (48, 64)


def _ramps(hw_px: tuple[int, int]) -> torch.Tensor:
    """x and y as shares of a picture, (2, H, W)."""
    height, width = hw_px
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    return torch.stack([x, y])


@pytest.mark.parametrize("window", [WHOLE, (0.25, 0.1, 0.85, 0.7), (0.85, 0.1, 0.25, 0.7), (0.2, 0.9, 0.7, 0.4)])
def test_label_and_maps_show_the_same_part(window):
    x0, y0, x1, y1 = window
    whole = _ramps(HW_PX)
    expected = torch.stack([x0 + (x1 - x0) * whole[0], y0 + (y1 - y0) * whole[1]])
    label = label_window(whole, torch.tensor(window))
    assert (label - expected).abs().max() <= 0.5 / min(HW_PX) + 1e-6  # nearest neighbour: half a pixel

    maps = torch.full((1, 2, 16, 16), -7.0)
    maps[0, :, :12] = _ramps((12, 16))  # stride 4; the frame's lower quarter is padding
    moved = map_windows(maps, torch.tensor([window]), FRAME, [HW_PX])
    coarse = _ramps((12, 16))
    expected = torch.stack([x0 + (x1 - x0) * coarse[0], y0 + (y1 - y0) * coarse[1]])
    assert (moved[0, :, :12] - expected).abs().max() < 1e-4
    assert (moved[0, :, 12:] == -7).all()


def test_a_mirrored_whole_is_a_flip():
    label = torch.rand(1, 5, 8).round()
    assert torch.equal(label_window(label, torch.tensor([1.0, 0.0, 0.0, 1.0])), label.flip(2))


def test_random_windows_lie_inside_and_keep_to_their_limits():
    rng = np.random.default_rng(0)
    windows = torch.stack([random_window(rng, min_side=0.6, mirror=True) for _ in range(300)])
    sides = windows[:, 2:] - windows[:, :2]
    assert windows.min() >= 0 and windows.max() <= 1
    assert torch.allclose(sides[:, 0].abs(), sides[:, 1].abs(), atol=1e-6)
    assert sides.abs().min() >= 0.6 - 1e-6 and sides.abs().max() <= 1
    for axis in range(2):
        assert 0.4 < (sides[:, axis] < 0).float().mean() < 0.6
    unmirrored = torch.stack([random_window(rng, min_side=0.6, mirror=False) for _ in range(50)])
    assert (unmirrored[:, 2:] > unmirrored[:, :2]).all()
