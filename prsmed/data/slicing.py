"""Volumes to slices: which slices to look at, and the dictionary transform that takes one as displayed."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform

from prsmed.errors import DataError, RequestError
from prsmed.geometry import DISPLAY_AXIS_OF, VolumeFrame
from prsmed.types import SLICE_AXES, SliceRef, SourceImage

SLICE_CHOICES = ("spread", "all", "largest", "every")


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
    image: SourceImage,
    mask_ijk: np.ndarray,
    *,
    axis: str,
    choice: str = "spread",
    with_target: int = 1,
    without_target: int = 0,
    every: int = 1,
) -> list[SliceRef]:
    """Slices along an anatomical axis, evenly spread or by what they show.

    Args:
        mask_ijk: the target's mask on the stored grid.
        axis: axial, coronal or sagittal.
        choice: which slices that show the target: "spread", at most `with_target` of them; "all"; "largest", the one
            with most of it. Or "every": each `every`-th slice of the volume, whatever it shows.
        with_target: also how many empty slices a volume without the target gives.
        without_target: at most how many slices that do not show it are added (not for "every").

    Returns:
        Indices along the stored array's nearest axis, ascending.

    Raises:
        RequestError: an unknown axis or choice, or a number that is too small.
    """
    if axis not in SLICE_AXES or choice not in SLICE_CHOICES or min(with_target, every) < 1 or without_target < 0:
        raise RequestError(
            f"slices: got axis {axis!r}, choice {choice!r}, with_target {with_target}, without_target {without_target},"
            f" every {every}; use an axis of {', '.join(SLICE_AXES)}, a choice of {', '.join(SLICE_CHOICES)} and"
            " numbers from 1 (without_target from 0)"
        )
    array_axis = volume_frame(image, SliceRef(axis, 0)).array_axis
    area_px = np.count_nonzero(mask_ijk, axis=tuple(other for other in range(3) if other != array_axis))
    shows = np.flatnonzero(area_px)
    if choice == "every":
        chosen = list(range((len(area_px) - 1) % every // 2, len(area_px), every))
    elif not len(shows):
        chosen = _spread(np.arange(len(area_px)), with_target)
    else:
        of_target = {
            "spread": _spread(shows, with_target),
            "all": shows.tolist(),
            "largest": [int(area_px.argmax())],
        }
        chosen = [*of_target[choice], *_spread(np.flatnonzero(area_px == 0), without_target)]
    return [SliceRef(axis, index) for index in sorted(chosen)]


def _spread(indices: np.ndarray, count: int) -> list[int]:
    if len(indices) <= count:
        return [int(index) for index in indices]
    positions = (np.arange(count) + 0.5) * len(indices) / count
    return [int(indices[int(position)]) for position in positions]


class SliceByAxisd(MapTransform):
    """From a slab to its slice as displayed: rows down, columns right.

    The slab is one slice thick and brought to LPI by `Orientationd`. Reads `volume_frame` (a `VolumeFrame`) from the
    item; (C, X, Y, Z) becomes a `MetaTensor` (C, H, W) whose affine holds the pixel size in mm (rows, columns).
    """

    def __call__(self, data: Mapping[Hashable, object]) -> dict[Hashable, object]:
        item = dict(data)
        frame = item["volume_frame"]
        assert isinstance(frame, VolumeFrame)
        rows_mm, columns_mm = frame.spacing_hw_mm
        for key in self.key_iterator(item):
            slab = torch.as_tensor(np.asarray(item[key]))
            picture = slab.squeeze(1 + DISPLAY_AXIS_OF[frame.axis]).transpose(1, 2)
            item[key] = MetaTensor(picture.contiguous(), affine=torch.diag(torch.tensor([rows_mm, columns_mm, 1.0])))
        return item
