"""A predicted mask as a DICOM SEG that points back to the images it was made on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
from pydicom.sr.codedict import codes

import prsmed
from prsmed.data.codes import Code, read_codes
from prsmed.data.planes import planes_of, voxels_of
from prsmed.errors import DataError
from prsmed.types import NOT_A_MEDICAL_DEVICE, SourceImage

SHORT_NOTICE = NOT_A_MEDICAL_DEVICE.split(":")[0]  # fits the 64 characters of an LO
_MAY_BE_EMPTY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
)
_SERIES_NUMBER = 9001  # far from a scanner's own; the standard asks for a number, not for an order


def write_dicom_seg(
    path: str | Path,
    mask_ijk: np.ndarray,
    image: SourceImage,
    *,
    target: str,
    kind: str,
    model: Mapping[str, Any] | None,
    is_corrected: bool = False,
) -> Path | None:
    """Write one segment, BINARY, on the pixels of the source images (PS3.3 A.51).

    Patient and study are copied from the source, as the standard asks; every new UID is random. Empty frames are left
    out.

    Args:
        path: the file; its folder is made where missing.
        mask_ijk: bool, (I, J, K) on the stored grid of a volume, or (H, W) for a picture.
        image: what the mask was made on, read from DICOM.
        target, kind: what was asked for; codes.json says how it is coded.
        model: its `name` and `version`; None where a person drew the mask alone.
        is_corrected: a person changed, or could change, what the model drew.

    Returns:
        The path; None for an empty mask, which is no valid SEG: "not visible" is said by the report, not by pixels.

    Raises:
        DataError: an image that is not from DICOM, a mask of another shape, slices that are not the source's own, or a
            folder that cannot be written.
    """
    expected = image.array.shape if image.is_volume else image.array.shape[:2]
    if mask_ijk.shape != expected or mask_ijk.dtype != bool:
        raise DataError(f"{path}: mask is {mask_ijk.dtype} {mask_ijk.shape}, expected bool {expected}; resample it")
    sources = source_headers(image)
    if not mask_ijk.any():
        return None
    frames_NRC = _source_frames(mask_ijk, image, sources)
    made = "drawn" if model is None else "corrected" if is_corrected else "predicted"
    segmentation = build_quietly(
        hd.seg.Segmentation,
        image,
        source_images=sources,
        pixel_array=frames_NRC,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_description(target, kind, model, is_corrected)],
        series_instance_uid=hd.UID(),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="prsmed",
        manufacturer_model_name=str(model["name"] if model else "prsmed")[:64],
        software_versions=prsmed.__version__,
        device_serial_number="none",  # type 1 in the standard, and software has none
        content_description=SHORT_NOTICE,
        series_description=f"prsmed: {made} segmentation",
    )
    if not image.is_volume:
        segmentation.PatientOrientation = sources[0].get("PatientOrientation")  # type 2C without a plane orientation
    return save_dicom(segmentation, Path(path))


def source_headers(image: SourceImage) -> list[pydicom.Dataset]:
    """The headers of an image's DICOM files, in their order, without pixels.

    Raises:
        DataError: the image is not from DICOM, its files are gone, or they do not name themselves.
    """
    if image.series is None:
        raise DataError(f"{image.path}: is not DICOM; results as DICOM need the DICOM images they belong to")
    try:
        with warnings.catch_warnings(action="ignore"):  # pydicom's quote the values they are about
            sources: list[pydicom.Dataset] = [
                pydicom.dcmread(file, stop_before_pixels=True) for file in image.series.files
            ]
    except (OSError, pydicom.errors.InvalidDicomError) as error:
        raise DataError(
            f"{image.path}: the source cannot be read again ({type(error).__name__}); restore its files"
        ) from error
    if not all(source.get("SOPClassUID") and source.get("SOPInstanceUID") for source in sources):
        raise DataError(
            f"{image.path}: its files do not say which DICOM objects they are (SOP Class or Instance UID is empty), so"
            " nothing can refer to them; leave --dicom away, the mask is written as NIfTI or PNG"
        )
    for source in sources:  # scanners write 0 for "unknown", which is invalid and would be copied
        if "PixelSpacing" in source and not all(source.PixelSpacing or [0]):
            del source.PixelSpacing
        is_slice = image.is_volume and "ImagePositionPatient" in source
        if (
            is_slice and image.spacing_mm and not source.get("SliceThickness")
        ):  # may be empty: what the reader takes it for
            source.SliceThickness = image.spacing_mm[-1]
        for keyword in _MAY_BE_EMPTY:  # type 2; anonymisers take them out
            if keyword not in source:
                setattr(source, keyword, None)
    return sources


def coded(code: Code) -> hd.sr.CodedConcept:
    """A code of our table in highdicom's type."""
    return hd.sr.CodedConcept(code.value, code.scheme, code.meaning)


def build_quietly(sop_class: Callable[..., pydicom.Dataset], image: SourceImage, **arguments: Any) -> pydicom.Dataset:
    """Build a DICOM object in UTF-8, without highdicom's warnings: they quote the patient's name.

    Raises:
        DataError: the headers of the image it is about do not allow it.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            return sop_class(specific_character_set="ISO_IR 192", **arguments)
    # highdicom's reasons may quote the patient's tags
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(
            f"{image.path}: no DICOM result can refer to it ({type(error).__name__}); leave --dicom away, the mask is"
            " written as NIfTI or PNG"
        ) from error


def save_dicom(dataset: pydicom.Dataset, path: Path) -> Path:
    """Write a DICOM object.

    Raises:
        DataError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings(action="ignore"):
            dataset.save_as(path, enforce_file_format=True)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error}); choose another output folder") from error
    return path


def _source_frames(mask_ijk: np.ndarray, image: SourceImage, sources: list[pydicom.Dataset]) -> np.ndarray:
    """The mask on every frame of the source, uint8 (frames, rows, columns), in the source's order."""
    if image.affine_ijk_to_ras is None:
        return mask_ijk[None].astype(np.uint8)
    frames = []
    for plane in (plane for source in sources for plane in planes_of(source)):
        try:
            indices = voxels_of(plane, image.affine_ijk_to_ras)
            frames.append(mask_ijk[indices].astype(np.uint8))
        except (DataError, IndexError) as error:
            raise DataError(
                f"{image.path}: its slices are not those of its DICOM files ({error}); write the mask as NIfTI"
            ) from error
    frames_NRC = np.stack(frames)
    if frames_NRC.sum(dtype=np.int64) != mask_ijk.sum():
        raise DataError(f"{image.path}: part of the mask lies between the source's slices; write the mask as NIfTI")
    return frames_NRC


def _description(
    target: str, kind: str, model: Mapping[str, Any] | None, is_corrected: bool
) -> hd.seg.SegmentDescription:
    entry = read_codes().of(target, kind)
    types = hd.seg.SegmentAlgorithmTypeValues
    description = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label=target[:64],
        segmented_property_category=coded(entry.category),
        segmented_property_type=coded(entry.type),
        algorithm_type=types.MANUAL if model is None else types.SEMIAUTOMATIC if is_corrected else types.AUTOMATIC,
        algorithm_identification=None
        if model is None
        else hd.AlgorithmIdentificationSequence(
            name=str(model["name"])[:64],
            family=codes.DCM.ArtificialIntelligence,
            version=str(model["version"])[:64],
            source="prsmed",
        ),
        tracking_uid=hd.UID(),
        tracking_id=target[:64],
        anatomic_regions=[coded(entry.region)] if entry.region else None,
    )
    if entry.laterality:  # PS3.3 C.8.20.4; highdicom has no argument for it
        kind_item = description.SegmentedPropertyTypeCodeSequence[0]
        kind_item.SegmentedPropertyTypeModifierCodeSequence = [coded(entry.laterality)]
    return description
