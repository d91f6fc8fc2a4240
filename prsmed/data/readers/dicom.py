"""DICOM: one series of a folder as a volume, one file as a slice or a picture."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from prsmed.data.readers.dicom_files import DICOM_SUFFIXES, find_series, is_dicom, is_localizer
from prsmed.data.readers.dicom_grid import Slice, frame_count, lay_out, numbers, rescale_of, slices_of
from prsmed.data.readers.dicom_pixels import VOXEL_TYPES, decode, decode_frames, rescale
from prsmed.data.readers.scratch import Stack
from prsmed.errors import DataError
from prsmed.types import MODALITY_OF_DICOM, SeriesRef, SourceImage

__all__ = ["DICOM_SUFFIXES", "is_dicom", "read_dicom"]

_SIDES = {"R": "right", "L": "left"}
_PATIENT_LETTERS = set("LRAPHF")


def read_dicom(path: str | Path, *, series_uid: str | None = None, frame: int | None = None) -> SourceImage:
    """Read one DICOM image.

    Slices that state where they lie (Image Position, Image Orientation, Pixel Spacing) become a volume, also a single
    one; so do the frames of an enhanced image. Everything else is a picture. Values are rescaled (HU for CT), never
    inverted or windowed.

    Args:
        path: a file, or a folder of one series; other files in it are ignored, with a note.
        series_uid: the Series Instance UID meant, where a folder holds several.
        frame: which frame of a multi-frame file to read as a picture, counted from 1.

    Returns:
        SourceImage. A volume is (I, J, K), int16, int32 or float32, I along rows, J along columns, K along the
        normal; a picture is (H, W, C), uint8, uint16 or float32.

    Raises:
        DataError: no image or several series, slices that form no regular grid (missing, doubled, sheared, 4D), colour
            volumes, several pictures or frames, no or damaged pixel data.
    """
    path = Path(path)
    headers, notes = find_series(path, series_uid)
    if len(headers) > 1 and frame is not None:
        raise DataError(f"{path}: holds {len(headers)} files, a frame belongs to one; name the file")
    slices = [item for header in headers for item in slices_of(header)] if frame is None else []
    is_colour = any(header.get("SamplesPerPixel") == 3 or _is_palette(header) for header in headers)
    if len(slices) > 1 and is_colour:
        raise DataError(f"{path}: is a colour volume, expected grey values; choose the series it was made from")
    if slices and not is_colour and len(slices) == sum(map(frame_count, headers)):
        image = _read_volume(slices, path)
    elif len(headers) == 1:
        image = _read_picture(headers[0], frame, path)
    else:
        raise DataError(
            f"{path}: {len(headers)} images of one series that are no stack of slices (position, orientation or pixel "
            f"spacing is missing or zero); name one file"
        )
    image.notes = (*notes, *image.notes)
    return image


def _read_volume(slices: list[Slice], path: Path) -> SourceImage:
    ordered, affine_ijk_to_ras = lay_out(slices, str(path))
    header = ordered[0].header
    stack = Stack(len(ordered), VOXEL_TYPES, path)
    for _, neighbours in groupby(ordered, key=lambda item: item.header.filename):
        items = list(neighbours)
        frames = decode_frames(items[0].header, str(path), [item.frame for item in items])
        for item, stored_HW in zip(items, frames, strict=True):
            stack.add(rescale(stored_HW, *item.rescale))
    i_mm, j_mm, k_mm = np.linalg.norm(affine_ijk_to_ras[:3, :3], axis=0).tolist()
    image = _image(header, stack.volume(), path)
    image.affine_ijk_to_ras, image.spacing_mm = affine_ijk_to_ras, (i_mm, j_mm, k_mm)
    image.series = _series_ref([item.header for item in ordered])
    if len(ordered) == 1 and ordered[0].thickness_mm is None:
        image.notes += ("the slice thickness is not stated, 1 mm is assumed: volumes in ml mean nothing",)
    return image


def _read_picture(header: Dataset, frame: int | None, path: Path) -> SourceImage:
    frames = frame_count(header)
    if frame is None and frames > 1:
        raise DataError(
            f"{path}: has {frames} frames without positions (a video?), expected a picture or a volume; choose one "
            f"with frame, from 1 to {frames}"
        )
    if frame is not None and not 1 <= frame <= frames:
        raise DataError(f"{path}: has no frame {frame}; choose one from 1 to {frames}")
    index = (frame or 1) - 1
    picture_HWC = decode(header, str(path), index)[0]
    slope, intercept = rescale_of(header, index)
    if picture_HWC.shape[2] == 1 and (slope, intercept) != (1, 0):
        picture_HWC = rescale(picture_HWC, slope, intercept)
    image = _image(header, _picture_depth(picture_HWC), path)
    image.patient_axes = _patient_axes(header)
    image.spacing_mm, spacing_notes = _picture_spacing(header)
    image.notes += spacing_notes
    if frames > 1:
        image.notes += (f"only frame {index + 1} of {frames} was read",)
    if is_localizer(header):
        image.notes += ("the file is a localizer (scout), not a slice of a volume",)
    return image


def _image(header: Dataset, array: np.ndarray, path: Path) -> SourceImage:
    """What volumes and pictures have in common."""
    laterality, notes = _laterality(header)
    return SourceImage(
        array=array,
        path=str(path),
        dicom_modality=str(header.get("Modality") or "") or None,
        view_position=str(header.get("ViewPosition") or "") or None,
        laterality=laterality,
        is_inverted=header.get("PhotometricInterpretation") == "MONOCHROME1",
        series=_series_ref([header]),
        notes=notes,
    )


def _series_ref(headers: list[Dataset]) -> SeriesRef:
    first = headers[0]
    return SeriesRef(
        study_uid=str(first.get("StudyInstanceUID") or ""),
        series_uid=str(first.get("SeriesInstanceUID") or ""),
        frame_of_reference_uid=str(first.get("FrameOfReferenceUID") or "") or None,
        files=tuple(dict.fromkeys(str(header.filename) for header in headers)),
    )


def _is_palette(header: Dataset) -> bool:
    return header.get("PhotometricInterpretation") == "PALETTE COLOR"


def _picture_depth(values_HWC: np.ndarray) -> np.ndarray:
    """uint8 as it is, other whole numbers uint16 where they fit, everything else float32."""
    if values_HWC.dtype == np.uint8:
        return values_HWC
    fits = values_HWC.dtype.kind in "iu" and values_HWC.min() >= 0 and values_HWC.max() <= np.iinfo(np.uint16).max
    return values_HWC.astype(np.uint16 if fits else np.float32)


def _patient_axes(header: Dataset) -> tuple[str, str] | None:
    """Patient Orientation (PS3.3 C.7.6.1.1.1): its first letters, which name the leading direction of each axis."""
    stated = header.get("PatientOrientation") or ()
    letters = [str(value)[:1] for value in stated] if not isinstance(stated, str) else []
    if len(letters) != 2 or not set(letters) <= _PATIENT_LETTERS:
        return None
    return letters[0], letters[1]


def _laterality(header: Dataset) -> tuple[str | None, tuple[str, ...]]:
    """Image Laterality (0020,0062) or Laterality (0020,0060); nothing where they contradict each other."""
    stated = {header.get("ImageLaterality"), header.get("Laterality")} & set(_SIDES)
    if len(stated) == 2:
        return None, ("the file's two laterality tags contradict each other: neither is used",)
    return (_SIDES[stated.pop()], ()) if stated else (None, ())


def _picture_spacing(header: Dataset) -> tuple[tuple[float, ...] | None, tuple[str, ...]]:
    """Millimetres between rows and columns (PS3.3 10.7.1), and what is to be known of them."""
    is_projection = MODALITY_OF_DICOM.get(header.get("Modality", "")) == "x-ray"
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        spacing_hw_mm = numbers(header.get(keyword), 2)
        if spacing_hw_mm and min(spacing_hw_mm) > 0:
            is_calibrated = keyword == "PixelSpacing" and bool(header.get("PixelSpacingCalibrationType"))
            at_detector = is_projection and not is_calibrated
            note = "millimetres are measured at the detector: structures in the patient are smaller"
            return spacing_hw_mm, (note,) if at_detector else ()
    return None, ("the file states no pixel spacing: no sizes in millimetres",)
