"""The grid of a DICOM volume: slices put in order by where they lie, never by file name or number, and checked.

ITK's series reader, which is also MONAI's ITKReader, orders by position, too, but at most warns of missing, doubled,
shifted or tilted slices and then states an affine that is wrong; MONAI's PydicomReader invents an identity where tags
are missing. So the grid is computed and checked here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from prsmed.data.planes import Plane, planes_of
from prsmed.data.readers.dicom_files import is_localizer
from prsmed.errors import DataError
from prsmed.types import MODALITY_OF_DICOM

_SAME_POSITION_MM = 0.01
_UNEVEN_SHARE = 0.01  # of the step between slices
_SHEAR = 0.01  # sideways per millimetre forward: 0.6 degrees
_SHIFT_PX = 0.1
_SAME_GRID = 1e-3  # difference of pixel steps, as a share of the pixel


@dataclass(frozen=True)
class Slice:
    """A frame (0-based) of an instance, and where it lies."""

    header: Dataset
    frame: int
    plane: Plane

    @property
    def rescale(self) -> tuple[float, float]:
        """Slope and intercept to the modality's values."""
        return rescale_of(self.header, self.frame)

    @property
    def thickness_mm(self) -> float | None:
        """Slice Thickness (0018,0050), None where not stated."""
        thickness = numbers(_stated(self.header, self.frame, "PixelMeasuresSequence", "SliceThickness"), 1)
        return thickness[0] if thickness and thickness[0] > 0 else None


def slices_of(header: Dataset) -> list[Slice]:
    """Every frame with its plane; none where a frame states no usable one, or in projections (X-ray, CT scout)."""
    modality = header.get("Modality", "")
    if MODALITY_OF_DICOM.get(modality) == "x-ray" or (modality == "CT" and is_localizer(header)):
        return []
    try:
        planes = planes_of(header)
    except DataError:
        return []
    is_placed = len(planes) == frame_count(header) and all(map(_is_usable, planes))
    return [Slice(header, frame, plane) for frame, plane in enumerate(planes)] if is_placed else []


def frame_count(header: Dataset) -> int:
    """Number of Frames (0028,0008), 1 where absent."""
    return int(header.get("NumberOfFrames") or 1)


def numbers(value: Any, count: int) -> tuple[float, ...] | None:
    """A DICOM value as so many finite numbers; None where it is something else."""
    values = [] if value is None or isinstance(value, str) else value if np.iterable(value) else [value]
    try:
        parsed = tuple(float(item) for item in values)
    except (TypeError, ValueError):
        return None
    return parsed if len(parsed) == count and np.isfinite(parsed).all() else None


def rescale_of(header: Dataset, frame: int) -> tuple[float, float]:
    """Slope and intercept of a frame (PS3.3 C.11.1, C.7.6.16.2.9); 1 and 0 where not stated."""
    slope = numbers(_stated(header, frame, "PixelValueTransformationSequence", "RescaleSlope"), 1)
    intercept = numbers(_stated(header, frame, "PixelValueTransformationSequence", "RescaleIntercept"), 1)
    return (slope or (1.0,))[0], (intercept or (0.0,))[0]


def lay_out(slices: Sequence[Slice], who: str) -> tuple[list[Slice], np.ndarray]:
    """Slices in the order of their positions along the normal, and the grid they form.

    Returns:
        The slices, and affine_ijk_to_ras (4, 4) float64: I from column to column, J from row to row, K from slice to
        slice. A single slice is as thick as it states, or 1 mm.

    Raises:
        DataError: slices of several shapes, pixel sizes or orientations, rows and columns that are not at right
            angles, several images at one position, a missing slice, or a sheared stack (gantry tilt).
    """
    first = slices[0].plane
    _check_alike([item.plane for item in slices], who)
    # LPS and RAS differ by half a turn, which keeps the hand: the product points as DICOM's normal does
    normal_ras = np.cross(first.column_step_ras, first.row_step_ras)
    normal_ras /= np.linalg.norm(normal_ras)
    distances_mm = np.array([item.plane.origin_ras @ normal_ras for item in slices])
    ordered = [slices[index] for index in np.argsort(distances_mm, kind="stable")]
    origins_ras = np.array([item.plane.origin_ras for item in ordered])
    if len(slices) == 1:
        step_ras = normal_ras * (slices[0].thickness_mm or 1.0)
    else:
        _check_steps(np.diff(np.sort(distances_mm)), who)
        step_ras = (origins_ras[-1] - origins_ras[0]) / (len(slices) - 1)
        _check_straight(origins_ras, step_ras, normal_ras, first, who)
    affine_ijk_to_ras = np.eye(4)
    affine_ijk_to_ras[:3] = np.stack([first.column_step_ras, first.row_step_ras, step_ras, origins_ras[0]], axis=1)
    return ordered, affine_ijk_to_ras


def _is_usable(plane: Plane) -> bool:
    steps_ras = np.stack([plane.column_step_ras, plane.row_step_ras])
    return bool(np.isfinite([*steps_ras, plane.origin_ras]).all() and np.linalg.norm(steps_ras, axis=1).min() > 0)


def _stated(header: Dataset, frame: int, group: str, keyword: str) -> Any:
    """A value from the frame's own functional group, else from the shared one, else from the image itself."""
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or ()
    shared = header.get("SharedFunctionalGroupsSequence") or ()
    for groups in (*per_frame[frame : frame + 1], *shared[:1]):
        for item in groups.get(group) or ():
            if keyword in item:
                return item[keyword].value
    return header.get(keyword)


def _check_alike(planes: Sequence[Plane], who: str) -> None:
    first = planes[0]
    shapes = {plane.hw_px for plane in planes}
    if len(shapes) > 1:
        raise DataError(f"{who}: slices have {len(shapes)} sizes (rows, columns: {sorted(shapes)}); separate them")
    right_mm, down_mm = float(np.linalg.norm(first.column_step_ras)), float(np.linalg.norm(first.row_step_ras))
    cosine = min(1.0, abs(float(first.column_step_ras @ first.row_step_ras)) / (right_mm * down_mm))
    if cosine > _SHEAR:
        raise DataError(
            f"{who}: rows and columns are {np.degrees(np.arcsin(cosine)):.1f} degrees from a right angle; "
            f"repair Image Orientation (0020,0037) or export the series again"
        )
    for plane in planes:
        right_differs = np.abs(plane.column_step_ras - first.column_step_ras).max() > _SAME_GRID * right_mm
        if right_differs or np.abs(plane.row_step_ras - first.row_step_ras).max() > _SAME_GRID * down_mm:
            raise DataError(
                f"{who}: slices have several orientations or pixel sizes, expected parallel slices of one grid; "
                f"put each stack into a folder of its own"
            )


def _check_steps(steps_mm: np.ndarray, who: str) -> None:
    """Raise DataError unless consecutive slices are one step apart, all the same."""
    # lengths of the runs of slices that share a position
    breaks = np.flatnonzero(steps_mm > _SAME_POSITION_MM) + 1
    runs = np.diff([0, *breaks, len(steps_mm) + 1])
    if runs.min() > 1 and len(set(runs.tolist())) == 1:
        raise DataError(
            f"{who}: holds {runs[0]} images at each of {len(runs)} positions (4D: times, echoes or phases), expected "
            f"one; put each volume into a folder of its own"
        )
    if runs.max() > 1:
        raise DataError(
            f"{who}: {(runs > 1).sum()} positions hold several different images, the first is slice "
            f"{int(np.flatnonzero(runs > 1)[0]) + 1}; remove the duplicates or separate the reconstructions"
        )
    usual_mm = float(np.median(steps_mm))
    uneven = np.abs(steps_mm - usual_mm) > max(_UNEVEN_SHARE * usual_mm, _SAME_POSITION_MM)
    if uneven.any():
        place = int(np.flatnonzero(uneven)[0])
        raise DataError(
            f"{who}: slices are unevenly spaced: {steps_mm[place]:.3f} mm from slice {place + 1} to {place + 2}, "
            f"usually {usual_mm:.3f} mm ({uneven.sum()} such steps), a slice may be missing; export the whole series "
            f"again, or resample it to even steps"
        )


def _check_straight(
    origins_ras: np.ndarray, step_ras: np.ndarray, normal_ras: np.ndarray, plane: Plane, who: str
) -> None:
    """Raise DataError where the stack leans over (gantry tilt) or slices are shifted against each other."""
    forward_mm = float(step_ras @ normal_ras)
    shear = float(np.linalg.norm(step_ras - forward_mm * normal_ras)) / forward_mm
    if shear > _SHEAR:
        raise DataError(
            f"{who}: slices are sheared by {np.degrees(np.arctan(shear)):.1f} degrees (gantry tilt), the grid has no "
            f"right angles; correct the tilt first, for example with dcm2niix"
        )
    offsets_ras = origins_ras - (origins_ras[0] + np.arange(len(origins_ras))[:, None] * step_ras)
    sideways_ras = offsets_ras - np.outer(offsets_ras @ normal_ras, normal_ras)
    sideways_mm = float(np.linalg.norm(sideways_ras, axis=1).max())
    pixel_mm = np.linalg.norm([plane.column_step_ras, plane.row_step_ras], axis=1).min()
    if sideways_mm > _SHIFT_PX * pixel_mm:
        raise DataError(
            f"{who}: slices are shifted sideways against each other by up to {sideways_mm:.2f} mm; "
            f"resample them to one grid"
        )
