"""Volumes to slices: which slices to look at, and the dictionary transform that takes one as displayed."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform

from prsmed.errors import DataError
from prsmed.geometry import DISPLAY_AXIS_OF, VolumeFrame
from prsmed.types import SliceRef, SourceImage


def volume_frame(image: SourceImage, position: SliceRef) -> VolumeFrame:
    """How one slice of this volume lies in it.

    Raises:
        DataError: the volume has no slice of that index.
    """
    assert image.affine_ijk_to_ras is not None
    affine = tuple(tuple(float(value) for value in row) for row in image.affine_ijk_to_ras)
    shape = (int(image.array.shape[0]), int(image.array.shape[1]), int(image.array.shape[2]))
    frame = VolumeFrame(shape, affine, position.axis, position.index)
    slices = shape[frame.array_axis]
    if not 0 <= position.index < slices:
        raise DataError(
            f"{image.path}: has no slice {position.index} along its {position.axis} axis, it has 0 to {slices - 1};"
            " choose one of these"
        )
    return frame


def choose_slices(
    image: SourceImage, mask_ijk: np.ndarray, *, axis: str, with_target: int, without_target: int
) -> list[SliceRef]:
    """Evenly spread slices along an anatomical axis: some that show the target, some that do not.

    Args:
        mask_ijk: the target's mask on the stored grid.
        with_target, without_target: at most how many of each; a volume without the target gives `with_target`
            empty ones.

    Returns:
        Indices along the stored array's nearest axis, ascending.
    """
    array_axis = volume_frame(image, SliceRef(axis, 0)).array_axis
    others = tuple(other for other in range(3) if other != array_axis)
    shows = np.asarray(mask_ijk.any(axis=others))
    if shows.any():
        chosen = [*_spread(np.flatnonzero(shows), with_target), *_spread(np.flatnonzero(~shows), without_target)]
    else:
        chosen = _spread(np.arange(len(shows)), with_target)
    return [SliceRef(axis, index) for index in sorted(chosen)]


def _spread(indices: np.ndarray, count: int) -> list[int]:
    if len(indices) <= count:
        return [int(index) for index in indices]
    positions = (np.arange(count) + 0.5) * len(indices) / count
    return [int(indices[int(position)]) for position in positions]


class SliceByAxisd(MapTransform):
    """Take one slice of a volume that `Orientationd` has brought to LPI, as displayed: rows down, columns right.

    Reads `volume_frame` (a `VolumeFrame`) from the item; (C, X, Y, Z) becomes a `MetaTensor` (C, H, W) whose affine
    holds the pixel size in mm (rows, columns).
    """

    def __call__(self, data: Mapping[Hashable, object]) -> dict[Hashable, object]:
        item = dict(data)
        frame = item["volume_frame"]
        assert isinstance(frame, VolumeFrame)
        rows_mm, columns_mm = frame.spacing_hw_mm
        for key in self.key_iterator(item):
            volume = torch.as_tensor(np.asarray(item[key]))
            picture = volume.select(1 + DISPLAY_AXIS_OF[frame.axis], frame.display_index).transpose(1, 2)
            item[key] = MetaTensor(picture.contiguous(), affine=torch.diag(torch.tensor([rows_mm, columns_mm, 1.0])))
        return item
