"""The bias field of an MR volume: N4 (Tustison et al. 2010) on a coarse copy, looked up where it is needed."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import SimpleITK
import torch
from monai.transforms import MapTransform
from scipy.ndimage import affine_transform

from prsmed.data.slabs import Slabs
from prsmed.errors import RequestError

_LEAST_SAMPLES = 8
"""An axis is never thinned below this many samples, unless it has fewer."""


class N4BiasFieldCorrectiond(MapTransform):
    """Divide an MR volume by its bias field, estimated by SimpleITK's N4 inside the Otsu mask.

    The field is smooth, so it is estimated on every `shrink_factor`-th voxel of each axis and interpolated linearly.
    Only volumes: the step before slicing measures the field, and each slice is divided by its part of it.

    Args:
        shrink_factor: 4 as in SimpleITK's example; 1 for every voxel.
        iterations: at most so many on each of the fitting levels, coarse to fine.
    """

    def __init__(self, keys: str, shrink_factor: int = 4, iterations: tuple[int, ...] = (50, 50, 30, 20)):
        super().__init__(keys)
        if shrink_factor < 1 or not iterations or min(iterations) < 1:
            raise RequestError(
                f"N4BiasFieldCorrectiond: shrink_factor {shrink_factor} and iterations {iterations} must be at least 1;"
                " correct the preprocessing steps"
            )
        self.shrink_factor = shrink_factor
        self.iterations = tuple(iterations)

    def measured(self, slabs: Slabs) -> MapTransform:
        """The division by this volume's field."""
        steps = [min(self.shrink_factor, max(1, side // _LEAST_SAMPLES)) for side in slabs.shape_ijk]
        thin = [slice(None, None, 1 if axis == slabs.axis else step) for axis, step in enumerate(steps)]
        taken = [slabs[index][tuple(thin)] for index in range(0, len(slabs), steps[slabs.axis])]
        coarse_ijk = np.concatenate(taken, axis=slabs.axis).astype(np.float32)
        field_to_ras = np.asarray(slabs.affine_ijk_to_ras, dtype=np.float64) @ np.diag([*steps, 1.0])
        return DivideByFieldd(self.keys, bias_field(coarse_ijk, field_to_ras, self.iterations), field_to_ras)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        raise RequestError(
            'N4BiasFieldCorrectiond: is for volumes, before SliceByAxisd; give the step "form": "volume" and move it up'
        )


class DivideByFieldd(MapTransform):
    """Divide a slab by a field on another grid, each voxel by the field at its place in the patient."""

    def __init__(self, keys: Any, field_ijk: np.ndarray, field_to_ras: np.ndarray):
        super().__init__(keys)
        self.field_ijk = field_ijk
        self.ras_to_field = np.linalg.inv(field_to_ras)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            slab_CIJK = item[key]
            to_field = self.ras_to_field @ np.asarray(slab_CIJK.affine, dtype=np.float64)
            field = affine_transform(
                self.field_ijk, to_field[:3, :3], to_field[:3, 3], slab_CIJK.shape[1:], order=1, mode="nearest"
            )
            item[key] = slab_CIJK / torch.from_numpy(field)
        return item


def bias_field(array_ijk: np.ndarray, affine_ijk_to_ras: np.ndarray, iterations: tuple[int, ...]) -> np.ndarray:
    """The multiplicative bias field of a volume, float32 on its grid; 1 everywhere where nothing stands out."""
    image = SimpleITK.GetImageFromArray(array_ijk.T)
    image.SetSpacing(np.linalg.norm(affine_ijk_to_ras[:3, :3], axis=0).tolist())
    body = SimpleITK.OtsuThreshold(image, 0, 1)
    if not SimpleITK.GetArrayViewFromImage(body).any():
        return np.ones(array_ijk.shape, np.float32)
    corrector = SimpleITK.N4BiasFieldCorrectionImageFilter()
    corrector.SetMaximumNumberOfIterations(list(iterations))
    corrector.Execute(image, body)
    log_field = SimpleITK.GetArrayFromImage(corrector.GetLogBiasFieldAsImage(image))
    return np.exp(log_field.T).astype(np.float32)
