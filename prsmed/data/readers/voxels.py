"""What every volume must be, whatever its format: numbers on a grid with right angles."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prsmed.errors import DataError

_SHEAR = 0.01  # cosine between two axes: 0.6 degrees


def plain_voxels(array: np.ndarray, path: Path) -> np.ndarray:
    """Voxels in the machine's byte order, (I, J, K); integers as they are, floats as float32.

    A fourth dimension of one is dropped.

    Raises:
        DataError: not three dimensions, colour or complex voxels, NaN or infinity.
    """
    array_ijk = array.reshape(array.shape[:3]) if array.ndim > 3 and set(array.shape[3:]) == {1} else array
    if array_ijk.ndim != 3 or 0 in array_ijk.shape:
        raise DataError(f"{path}: has shape {array.shape}, expected three dimensions; save one volume a file")
    if array_ijk.dtype.kind not in "iuf":
        raise DataError(f"{path}: voxels are {array_ijk.dtype}, expected numbers; convert colour or complex to grey")
    if array_ijk.dtype.kind == "f":
        array_ijk = array_ijk.astype(np.float32, copy=False)
        if not all(np.isfinite(array_ijk[..., index]).all() for index in range(array_ijk.shape[2])):
            raise DataError(f"{path}: holds NaN or infinite voxels; replace them by numbers and save it again")
    return array_ijk.astype(array_ijk.dtype.newbyteorder("="), copy=False)


def voxel_sizes_mm(affine_ijk_to_ras: np.ndarray, path: Path) -> tuple[float, float, float]:
    """Voxel sizes in mm along I, J, K of an affine that can be trusted with positions.

    Raises:
        DataError: NaN, a voxel size of zero, axes that coincide, or axes that are not at right angles.
    """
    directions = affine_ijk_to_ras[:3, :3]
    sizes_mm = np.linalg.norm(directions, axis=0)
    is_finite = bool(np.isfinite(affine_ijk_to_ras).all() and (sizes_mm > 0).all())
    # the determinant of the unit directions is 1 for right angles and 0 where two axes coincide
    if not is_finite or abs(np.linalg.det(directions / sizes_mm)) < 1e-3:
        raise DataError(
            f"{path}: the affine is not invertible ({affine_ijk_to_ras.tolist()}); repair sform, qform or directions"
        )
    units = directions / sizes_mm
    cosine = float(np.abs(units.T @ units - np.eye(3)).max())
    if cosine > _SHEAR:
        raise DataError(
            f"{path}: the axes are {np.degrees(np.arcsin(cosine)):.1f} degrees from right angles (a sheared grid, such "
            f"as gantry tilt); resample the volume to a grid with right angles"
        )
    i_mm, j_mm, k_mm = sizes_mm.tolist()
    return i_mm, j_mm, k_mm
