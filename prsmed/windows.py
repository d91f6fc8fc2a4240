"""Windows: a part of a picture, perhaps mirrored, taken as if it were the whole picture.

Training with a frozen encoder keeps each picture's maps, so that a picture can have few looks. A window cut from those
maps and from the label gives another size and place of the target for nothing; what the encoder itself would make of
the cut-out differs somewhat (docs/decisions/windows_of_kept_maps.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from prsmed.geometry import Frame, in_image

WHOLE = (0.0, 0.0, 1.0, 1.0)


def random_window(rng: np.random.Generator, *, min_side: float, mirror: bool) -> torch.Tensor:
    """A window of the picture's aspect ratio.

    Args:
        min_side: the least share of each side; 1 gives the whole picture.
        mirror: whether it may be turned over, left to right and top to bottom.

    Returns:
        (4,) x and y of its first and of its last corner, as shares of the picture; where the last comes before the
        first, the window is mirrored.
    """
    side = rng.uniform(min_side, 1)
    starts = rng.uniform(0, 1 - side, size=2)
    low_high = np.stack([starts, starts + side])  # rows: first and last corner; columns: x and y
    for axis in range(2):
        if mirror and rng.random() < 0.5:
            low_high[:, axis] = low_high[::-1, axis]
    return torch.from_numpy(low_high.reshape(4).astype(np.float32))


def label_window(label_CHW: torch.Tensor, window_xyxy_norm: torch.Tensor) -> torch.Tensor:
    """A label of the window alone, at the size of the whole, nearest neighbour."""
    height, width = label_CHW.shape[-2:]
    sides = torch.tensor([width, height])
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    source = _source_norm((torch.stack([x, y], dim=-1) + 0.5) / sides, window_xyxy_norm)
    x, y = torch.minimum((source * sides).long(), sides - 1).unbind(dim=-1)
    return label_CHW[:, y, x]


def map_windows(
    map_BCHW: torch.Tensor, windows_xyxy_norm: torch.Tensor, frame: Frame, canonical_hw_px: Sequence[tuple[int, int]]
) -> torch.Tensor:
    """The same of an encoder's maps (B, C, h, w) of a frame, bilinear; cells of the padding stay as they are.

    Args:
        windows_xyxy_norm: (B, 4).
        canonical_hw_px: rows and columns of each image.
    """
    cells = map_BCHW.shape[-1]
    centers = frame.patch_centers_norm(cells, canonical_hw_px).to(map_BCHW).unflatten(1, (cells, cells))
    content = frame.content_xyxy_px(canonical_hw_px)[:, None, None, :2].to(map_BCHW) / frame.size_px
    source = _source_norm(centers, windows_xyxy_norm[:, None, None].to(map_BCHW)) * content
    edge = 0.5 / cells
    source = torch.minimum(source.clamp(min=edge), content - edge)
    moved = F.grid_sample(map_BCHW, source * 2 - 1, mode="bilinear", padding_mode="border", align_corners=False)
    return torch.where(in_image(centers)[:, None], moved, map_BCHW)


def _source_norm(points_norm: torch.Tensor, window_xyxy_norm: torch.Tensor) -> torch.Tensor:
    """Where points of the window lie in the whole picture, both (…, x and y) as shares."""
    first, last = window_xyxy_norm[..., :2], window_xyxy_norm[..., 2:]
    return first + (last - first) * points_norm
