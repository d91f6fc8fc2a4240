"""Square pixels for slices: MONAI's `Spacingd`, with its commonest case done axis by axis."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import monai.transforms
import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import compute_shape_offset

_SEPARABLE = {"mode": "bilinear", "padding_mode": "border", "align_corners": True, "scale_extent": True}
_SAME = 1e-3  # millimetres and pixels that MONAI takes for equal

Taps = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Spacingd(monai.transforms.Spacingd):
    """MONAI's `Spacingd`; slices with the settings of the configs take a fraction of its time.

    A slice has rows and columns of one size each, so that bilinear interpolation is one of rows and one of columns:
    no grid of points is needed. The values are MONAI's to 1e-5 of the range, and all others are its own.
    """

    def __init__(self, keys: str, pixdim: Sequence[float], **options: Any):
        super().__init__(keys, pixdim, **options)
        self._pixdim_mm = tuple(float(size) for size in pixdim)
        self._is_separable = options == _SEPARABLE and len(self._pixdim_mm) == 2

    def __call__(self, data: Mapping[Hashable, Any], lazy: bool | None = None) -> dict[Hashable, Any]:
        item = dict(data)
        if not self._is_separable or any(not _is_slice(item[key]) for key in self.key_iterator(item)):
            return super().__call__(data, lazy)
        for key in self.key_iterator(item):
            picture_CHW = item[key]
            sizes_mm = tuple(picture_CHW.affine.diagonal()[:2].tolist())
            plan = _plan(tuple(picture_CHW.shape[1:]), sizes_mm, self._pixdim_mm)
            if plan is None:
                continue
            square_mm, (above, below, down), (left, right, across) = plan
            values_CHW = picture_CHW.as_tensor()
            rows_CHW = torch.lerp(values_CHW[:, above], values_CHW[:, below], down[:, None])
            square_CHW = torch.lerp(rows_CHW[:, :, left], rows_CHW[:, :, right], across)
            item[key] = MetaTensor(square_CHW, affine=torch.diag(torch.tensor([*square_mm, 1.0])))
        return item


def _is_slice(picture: Any) -> bool:
    """Whether rows and columns have a size each and nothing is turned, as `SliceByAxisd` leaves slices."""
    if not isinstance(picture, MetaTensor) or picture.ndim != 3 or picture.dtype != torch.float32:
        return False
    affine = np.asarray(picture.affine)
    return (
        affine.shape == (3, 3) and not (affine - np.diag(np.diag(affine))).any() and bool((np.diag(affine) > 0).all())
    )


@lru_cache(maxsize=64)
def _plan(
    hw_px: tuple[int, int], sizes_mm: tuple[float, float], pixdim_mm: tuple[float, float]
) -> tuple[list[float], Taps, Taps] | None:
    """The new sizes, and what each row and column is made of, as MONAI places them; None where nothing changes."""
    old = np.array(sizes_mm)
    new = np.where(np.abs(old - pixdim_mm) <= _SAME, old, pixdim_mm)
    shape, offset_mm = compute_shape_offset(hw_px, np.diag([*old, 1.0]), np.diag([*new, 1.0]), scale_extent=True)
    steps_px, starts_px = new / old, offset_mm / old
    if tuple(shape) == hw_px and np.allclose([steps_px, starts_px], [[1.0, 1.0], [0.0, 0.0]], atol=_SAME):
        return None
    rows, columns = (_taps(*axis) for axis in zip(hw_px, shape, steps_px, starts_px, strict=True))
    return new.tolist(), rows, columns


def _taps(sides_px: int, count: int, step_px: float, start_px: float) -> Taps:
    """The two neighbours of each new row or column, and the share of the second; the border goes on outside."""
    places_px = np.clip(start_px + step_px * np.arange(count), 0, sides_px - 1)
    first = np.floor(places_px).astype(np.int64)
    second = np.minimum(first + 1, sides_px - 1)
    return torch.from_numpy(first), torch.from_numpy(second), torch.from_numpy((places_px - first).astype(np.float32))
