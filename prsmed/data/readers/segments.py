"""Masks from DICOM: SEG objects, and the contours of RTSTRUCT files, on the grid of the image they belong to.

Frames and contours are placed by the positions they state in the patient, never by their order in the file.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom

from prsmed.data.planes import planes_of, voxels_of
from prsmed.data.readers.dicom_grid import frame_count
from prsmed.data.readers.files import require_file
from prsmed.errors import DataError
from prsmed.geometry import lps_ras
from prsmed.types import MaskRef, SourceImage

if TYPE_CHECKING:
    from highdicom.seg import Segmentation

_log = logging.getLogger(__name__)

_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_HALF_A_SLICE = 0.5


def read_seg_mask(path: str | Path, ref: MaskRef, image: SourceImage) -> np.ndarray:
    """Read one segment of a DICOM SEG (PS3.3 A.51; BINARY, FRACTIONAL from one half up, or LABELMAP).

    A segment that is declared but has no frame, or only empty ones, is an empty mask: SEG leaves empty frames out.

    Args:
        ref: its selector is the segment number.
        image: a volume with an affine, or a DICOM picture that the SEG names as its source.

    Returns:
        bool, (I, J, K) on the volume's stored grid, or (H, W) for a picture.

    Raises:
        DataError: an unreadable file, no such segment, another frame of reference or source image, or frames that do
            not fall on the image's voxels within a tenth of a voxel.
    """
    segmentation = _open_seg(Path(path))
    numbers = [int(number) for number in segmentation.segment_numbers]
    if ref.selector not in numbers:
        labels = ", ".join(
            f"{number} ({segmentation.get_segment_description(number).segment_label})" for number in numbers
        )
        raise DataError(f"{path}: has no segment {ref.selector!r}; choose one of {labels}")
    try:
        if not image.is_volume:
            return _picture_segment(segmentation, int(ref.selector), image)
        _check_frame_of_reference(segmentation.get("FrameOfReferenceUID"), image)
        return _volume_segment(segmentation, int(ref.selector), image)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def read_rtstruct_mask(path: str | Path, ref: MaskRef, image: SourceImage) -> np.ndarray:
    """Rasterise one region of interest of an RTSTRUCT (PS3.3 A.19, C.8.8.6) on a volume's grid.

    A voxel is inside where its centre is, by the even-odd rule over all closed contours of its slice: inner contours
    and keyholes are holes. A centre exactly on an outline counts on the outline's low-index side only, so that two
    regions that touch share no voxel. Parts beyond the edge of a slice are cut off.

    Args:
        ref: its selector is the ROI's name, or its number.
        image: a volume with an affine.

    Returns:
        bool, (I, J, K) on the stored grid.

    Raises:
        DataError: an unreadable file, no such ROI or an ambiguous name, an ROI without closed contours, a contour of
            another series or frame of reference, beyond the image's slices, or not in the plane of a slice.
    """
    if image.affine_ijk_to_ras is None:
        raise DataError(f"{path}: contours need a volume, {image.path} is a picture; use the series they were drawn on")
    structures = _open_rtstruct(Path(path))
    try:
        roi = _region(structures, ref.selector)
        _check_frame_of_reference(roi.get("ReferencedFrameOfReferenceUID"), image)
        _check_series(_rtstruct_series(structures), image)
        contours = _closed_contours(structures, int(roi.ROINumber))
        return _rasterise([_to_ijk(contour, image.affine_ijk_to_ras) for contour in contours], image.array.shape)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def even_odd(polygons: Sequence[np.ndarray], shape_HW: tuple[int, int]) -> np.ndarray:
    """Fill polygons by the even-odd rule, pixel centres at whole numbers.

    Each edge turns over all pixels to its right, in the rows whose centre it crosses (upper end in, lower end out).

    Args:
        polygons: each (N, 2), row and column of its corners; the last is joined to the first.

    Returns:
        bool (H, W).
    """
    height, width = shape_HW
    turns = np.zeros((height, width + 1), dtype=bool)
    for polygon in polygons:
        for one, other in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            # a keyhole's two equal edges have to give equal numbers, whichever way they run
            (top, at_top), (bottom, at_bottom) = sorted((tuple(one), tuple(other)))
            rows = np.arange(max(0, int(np.ceil(top))), min(height, int(np.ceil(bottom))))
            if rows.size:
                crossings = at_top + (rows - top) * (at_bottom - at_top) / (bottom - top)
                turns[rows, np.clip(np.ceil(crossings), 0, width).astype(int)] ^= True
    return np.logical_xor.accumulate(turns, axis=1)[:, :width]


def _open_seg(path: Path) -> Segmentation:
    from highdicom.seg import segread  # half a second to import, and most masks are no SEG

    require_file(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # they quote values, and what matters is checked below
            segmentation = segread(path)
            pixels = len(segmentation.PixelData)
    # highdicom and pydicom raise many kinds of errors on other and on damaged objects, and may quote a patient's name
    except Exception as error:
        raise DataError(
            f"{path}: cannot be read as DICOM SEG ({type(error).__name__}); export or download it again"
        ) from error
    bits = segmentation.NumberOfFrames * segmentation.Rows * segmentation.Columns * segmentation.BitsAllocated
    if not segmentation.transfer_syntax_uid.is_compressed and pixels < bits // 8:
        raise DataError(f"{path}: is cut short, {pixels} of {bits // 8} bytes of pixels; export or download it again")
    return segmentation


def _volume_segment(segmentation: Segmentation, number: int, image: SourceImage) -> np.ndarray:
    mask_ijk = np.zeros(image.array.shape, dtype=bool)
    planes = planes_of(segmentation)
    assert image.affine_ijk_to_ras is not None
    for index, frame_RC in _frames(segmentation, number):
        indices = voxels_of(planes[index], image.affine_ijk_to_ras)
        voxels = np.stack([axis[frame_RC] for axis in indices])
        if (voxels < 0).any() or (voxels >= np.array(mask_ijk.shape)[:, None]).any():
            raise DataError("the segment reaches beyond the image; read the whole series it was made on")
        mask_ijk[tuple(voxels)] = True
    return mask_ijk


def _picture_segment(segmentation: Segmentation, number: int, image: SourceImage) -> np.ndarray:
    """Frames of a picture have no place in the patient: the SEG has to name the picture itself as its source."""
    if image.series is None:
        raise DataError(f"{image.path} is no DICOM image, it cannot be the source of a SEG; use a PNG mask")
    with warnings.catch_warnings(action="ignore"):
        header = pydicom.dcmread(image.series.files[0], stop_before_pixels=True)
    named = {
        item.ReferencedSOPInstanceUID
        for series in segmentation.get("ReferencedSeriesSequence", [])
        for item in series.ReferencedInstanceSequence
    }
    mask_HW = np.zeros(image.array.shape[:2], dtype=bool)
    if header.SOPInstanceUID not in named:
        raise DataError(f"does not name {image.path} as its source; use the image it was made on")
    if len(named) > 1 or frame_count(header) > 1 or mask_HW.shape != (segmentation.Rows, segmentation.Columns):
        raise DataError(
            f"has {segmentation.Rows} x {segmentation.Columns} pixels of {len(named)} images, the image has "
            f"{mask_HW.shape} and {frame_count(header)} frames; save a PNG mask for each picture"
        )
    for _, frame_RC in _frames(segmentation, number):
        mask_HW |= frame_RC
    return mask_HW


def _frames(segmentation: Segmentation, number: int) -> Iterator[tuple[int, np.ndarray]]:
    """Index and bool (rows, columns) of every frame that shows a segment."""
    kind = str(segmentation.SegmentationType)
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    for index, groups in enumerate(segmentation.PerFrameFunctionalGroupsSequence):
        if kind != "LABELMAP":
            owner = groups.get("SegmentIdentificationSequence") or shared.SegmentIdentificationSequence
            if owner[0].ReferencedSegmentNumber != number:
                continue
        stored_RC = np.asarray(segmentation.get_stored_frame(index + 1))
        if kind == "LABELMAP":
            frame_RC = stored_RC == number
        elif kind == "FRACTIONAL":
            frame_RC = stored_RC >= 0.5 * segmentation.MaximumFractionalValue
        else:
            frame_RC = stored_RC > 0
        if frame_RC.any():
            yield index, frame_RC


def _check_frame_of_reference(stated_uid: str | None, image: SourceImage) -> None:
    """One frame of reference is one system of coordinates (PS3.3 C.7.4.1): between two, positions mean nothing."""
    if image.series is None:
        _log.warning("%s states no frame of reference; the mask is placed by coordinates alone", image.path)
    elif stated_uid != image.series.frame_of_reference_uid or not stated_uid:
        raise DataError(
            f"frame of reference is {stated_uid or 'not stated'}, the image's is "
            f"{image.series.frame_of_reference_uid or 'not stated'}; use the series it was made on, or register them"
        )


def _check_series(named_uids: set[str], image: SourceImage) -> None:
    if image.series is not None and named_uids and image.series.series_uid not in named_uids:
        raise DataError(
            f"was drawn on series {', '.join(sorted(named_uids))}, the image is series {image.series.series_uid}; "
            f"use the series it was drawn on, or resample the mask and save it as NIfTI"
        )


def _open_rtstruct(path: Path) -> pydicom.Dataset:
    require_file(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # they quote values
            structures = pydicom.dcmread(path)
        modality = structures.Modality
        complete = "StructureSetROISequence" in structures and "ROIContourSequence" in structures
    # pydicom raises many kinds of errors on damaged files, and may quote a patient's name
    except Exception as error:
        raise DataError(
            f"{path}: cannot be read as DICOM RTSTRUCT ({type(error).__name__}); export or download it again"
        ) from error
    if modality != "RTSTRUCT" or not complete:
        raise DataError(f"{path}: is a {modality} object or has no contours, expected RTSTRUCT; correct the path")
    return structures


def _region(structures: pydicom.Dataset, selector: int | str | None) -> Any:
    """The ROI's item of the structure set, by its name or else its number."""
    regions = list(structures.StructureSetROISequence)
    found = [region for region in regions if region.get("ROIName") == selector]
    found = found or [region for region in regions if str(region.ROINumber) == str(selector)]
    if len(found) != 1:
        names = ", ".join(f"{region.ROINumber} ({region.get('ROIName', '')})" for region in regions)
        problem = "has several ROIs" if found else "has no ROI"
        raise DataError(f"{problem} {selector!r}; choose the name or the number of one of {names or 'none'}")
    return found[0]


def _rtstruct_series(structures: pydicom.Dataset) -> set[str]:
    return {
        str(series.SeriesInstanceUID)
        for frame in structures.get("ReferencedFrameOfReferenceSequence", [])
        for study in frame.get("RTReferencedStudySequence", [])
        for series in study.get("RTReferencedSeriesSequence", [])
    }


def _closed_contours(structures: pydicom.Dataset, number: int) -> list[np.ndarray]:
    """The closed contours of an ROI, each (N, 3) in RAS mm; points and open lines enclose nothing."""
    contours = [
        lps_ras(np.asarray(contour.ContourData, dtype=float).reshape(-1, 3))
        for roi in structures.ROIContourSequence
        if int(roi.ReferencedROINumber) == number
        for contour in roi.get("ContourSequence", [])
        if contour.ContourGeometricType in _CLOSED
    ]
    if not contours:
        raise DataError(f"ROI {number} is listed but has no closed contour; draw it, or drop the target's mask")
    return contours


def _to_ijk(points_ras: np.ndarray, affine_ijk_to_ras: np.ndarray) -> np.ndarray:
    to_ijk = np.linalg.inv(affine_ijk_to_ras)
    # outlines often run through voxel centres: float noise must not decide on which side
    return np.round(points_ras @ to_ijk[:3, :3].T + to_ijk[:3, 3], 6)


def _rasterise(contours_ijk: Sequence[np.ndarray], shape_ijk: tuple[int, ...]) -> np.ndarray:
    """Fill contours slice by slice, along the array axis that they are flat in."""
    axis = int(np.argmin(np.max([np.ptp(contour, axis=0) for contour in contours_ijk], axis=0)))
    in_plane = [other for other in range(3) if other != axis]
    by_slice: dict[int, list[np.ndarray]] = {}
    heights: dict[int, float] = {}
    for contour in contours_ijk:
        height = float(contour[:, axis].mean())
        index = round(height)
        if np.abs(contour[:, axis] - index).max() > _HALF_A_SLICE:
            raise DataError("a contour runs across slices; draw it in the plane of the image's slices")
        if not 0 <= index < shape_ijk[axis]:
            raise DataError(
                f"a contour lies at slice {height:.1f}, the image has 0 to {shape_ijk[axis] - 1}; read the whole series"
            )
        if abs(heights.setdefault(index, height) - height) > 0.1:
            raise DataError(f"contours of two planes fall on slice {index}; resample the image to their distance")
        by_slice.setdefault(index, []).append(contour[:, in_plane])
    mask_ijk = np.zeros(shape_ijk, dtype=bool)
    slices = np.moveaxis(mask_ijk, axis, 0)
    for index, polygons in by_slice.items():
        slices[index] = even_odd(polygons, (slices.shape[1], slices.shape[2]))
    return mask_ijk
