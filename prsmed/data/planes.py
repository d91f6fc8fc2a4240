"""Where the frames of a DICOM object lie in the patient and on an image's grid: for reading and for results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from prsmed.errors import DataError
from prsmed.geometry import lps_ras

_TOLERANCE_VOXELS = 0.1
_GROUPS = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")


@dataclass(frozen=True)
class Plane:
    """One frame in the patient (DICOM PS3.3 C.7.6.2.1.1), in RAS mm.

    Attributes:
        origin_ras: centre of the first pixel, (3,).
        row_step_ras, column_step_ras: from one row to the next, and from one column to the next, (3,).
        hw_px: rows and columns.
    """

    origin_ras: np.ndarray
    row_step_ras: np.ndarray
    column_step_ras: np.ndarray
    hw_px: tuple[int, int]


def planes_of(dataset: Any) -> list[Plane]:
    """The planes of a DICOM object, one for a single-frame image, one per frame for a multi-frame one, in its order.

    Args:
        dataset: a pydicom Dataset; its pixels are not needed.

    Raises:
        DataError: position, orientation or pixel spacing of a frame is missing.
    """
    hw_px = (int(dataset.Rows), int(dataset.Columns))
    if "PerFrameFunctionalGroupsSequence" not in dataset:
        return [_plane(dataset, dataset, dataset, hw_px)]
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [{}])[0]
    planes = []
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        position, orientation, measures = (_functional_group(frame, shared, keyword) for keyword in _GROUPS)
        planes.append(_plane(position, orientation, measures, hw_px))
    return planes


def voxels_of(plane: Plane, affine_ijk_to_ras: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The stored voxel that each pixel of a plane is.

    Args:
        plane: of an image or of a segmentation.
        affine_ijk_to_ras: (4, 4) of the image.

    Returns:
        Indices along I, J and K, each int (rows, columns); some may lie outside the image.

    Raises:
        DataError: a pixel lies further than a tenth of a voxel from the nearest one, or pixels are not as far apart as
            voxels are.
    """
    to_ijk = np.linalg.inv(affine_ijk_to_ras)
    start = to_ijk[:3, :3] @ plane.origin_ras + to_ijk[:3, 3]
    row_step, column_step = to_ijk[:3, :3] @ plane.row_step_ras, to_ijk[:3, :3] @ plane.column_step_ras
    rows, columns = plane.hw_px
    # what every pixel is off, and what each step adds to it up to the last row and column
    shift = (_to_whole(start) + _to_whole(row_step) * (rows - 1) + _to_whole(column_step) * (columns - 1)).max()
    is_one_voxel = np.abs(np.rint(row_step)).sum() == 1 == np.abs(np.rint(column_step)).sum()
    if shift > _TOLERANCE_VOXELS or not is_one_voxel:
        raise DataError(
            f"a frame lies up to {shift:.2f} voxels beside the image's own voxels; "
            f"resample it onto the image (nearest neighbour), or use the series it was made on"
        )
    r, c = np.arange(rows)[:, None], np.arange(columns)[None, :]
    whole = (np.rint(step).astype(int) for step in (start, row_step, column_step))
    i, j, k = (first + down * r + right * c for first, down, right in zip(*whole, strict=True))
    return i, j, k


def _functional_group(frame: Any, shared: Any, keyword: str) -> Any:
    """The item of one functional group of a frame, its own or the shared one (PS3.3 C.7.6.16)."""
    sequence = frame.get(keyword) or shared.get(keyword)
    if not sequence:
        raise DataError(f"a frame has no {keyword}; export the object again with plane positions")
    return sequence[0]


def _plane(position: Any, orientation: Any, measures: Any, hw_px: tuple[int, int]) -> Plane:
    try:
        along_row, along_column = np.asarray(orientation.ImageOrientationPatient, dtype=float).reshape(2, 3)
        row_mm, column_mm = (float(size) for size in measures.PixelSpacing)
        origin_lps = np.asarray(position.ImagePositionPatient, dtype=float).reshape(3)
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError("position, orientation or pixel spacing is missing; export it again with them") from error
    return Plane(
        origin_ras=lps_ras(origin_lps),
        row_step_ras=lps_ras(along_column * row_mm),
        column_step_ras=lps_ras(along_row * column_mm),
        hw_px=hw_px,
    )


def _to_whole(values: np.ndarray) -> np.ndarray:
    return np.abs(values - np.rint(values))
