"""Reading images and masks: one function for any image, one for any mask, one for the truth of a target."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prsmed.data.manifest import Manifest
from prsmed.data.readers.dicom import DICOM_SUFFIXES, is_dicom, read_dicom
from prsmed.data.readers.files import require_file
from prsmed.data.readers.itk_volume import ITK_SUFFIXES, read_itk_volume
from prsmed.data.readers.labels import VOLUME_SUFFIXES, read_labels, read_volume, sole_label
from prsmed.data.readers.nifti import NIFTI_SUFFIXES, read_nifti
from prsmed.data.readers.picture import PICTURE_SUFFIXES, decode_picture, picture_hw_px, read_picture
from prsmed.data.readers.segments import read_rtstruct_mask, read_seg_mask
from prsmed.errors import DataError
from prsmed.types import Case, MaskRef, SourceImage, Target

__all__ = [
    "DICOM_SUFFIXES",
    "IMAGE_SUFFIXES",
    "ITK_SUFFIXES",
    "NIFTI_SUFFIXES",
    "PICTURE_SUFFIXES",
    "VOLUME_SUFFIXES",
    "image_suffix",
    "is_dicom",
    "read_dicom",
    "read_grid",
    "read_image",
    "read_itk_volume",
    "read_mask",
    "read_nifti",
    "read_picture",
    "read_target",
    "read_volume",
    "sole_label",
]

IMAGE_SUFFIXES = (*PICTURE_SUFFIXES, *VOLUME_SUFFIXES, *DICOM_SUFFIXES)

_GRID_TOLERANCE_VOXELS = 0.1


def image_suffix(path: str | Path) -> str | None:
    """The supported suffix that a file name ends with, in lower case; None where it ends with no such suffix.

    DICOM files often have none, and folders never: `read_image` looks into those (`is_dicom`).
    """
    name = Path(path).name.lower()
    return max((suffix for suffix in IMAGE_SUFFIXES if name.endswith(suffix)), key=len, default=None)


def read_image(path: str | Path, *, series_uid: str | None = None, frame: int | None = None) -> SourceImage:
    """Read a picture or a volume: a folder as DICOM, a file by the suffix of its name, or as DICOM by how it begins.

    Args:
        path: a file, or a folder that holds one DICOM series.
        series_uid: the DICOM series meant, where a folder holds several.
        frame: which frame of a DICOM video to read, counted from 1.

    Returns:
        See `read_picture`, `read_nifti`, `read_itk_volume` and `read_dicom`.

    Raises:
        DataError: an unsupported format, or whatever the format's reader finds wrong.
    """
    suffix = image_suffix(path)
    if Path(path).is_dir() or suffix in DICOM_SUFFIXES or (suffix is None and is_dicom(path)):
        return read_dicom(path, series_uid=series_uid, frame=frame)
    if suffix is None:
        require_file(Path(path))
        raise DataError(f"{path}: this format is not read; convert it to one of {', '.join(IMAGE_SUFFIXES)}")
    if series_uid is not None or frame is not None:
        raise DataError(f"{path}: is no DICOM, it has no series_uid and no frames to choose; leave them out")
    return read_volume(path) if suffix in VOLUME_SUFFIXES else read_picture(path)


def read_grid(path: str | Path, *, series_uid: str | None = None) -> SourceImage:
    """As `read_image`, where only the grid is wanted: of a picture the header is read, and every pixel is 0."""
    if image_suffix(path) not in PICTURE_SUFFIXES or Path(path).is_dir():
        return read_image(path, series_uid=series_uid)
    return SourceImage(array=np.broadcast_to(np.uint8(0), (*picture_hw_px(path), 1)), path=str(path))


def read_mask(path: str | Path, ref: MaskRef, image: SourceImage) -> np.ndarray:
    """Read one mask on the stored grid of its image.

    A picture mask is binary: black, and one other value or colour. A NIfTI mask is one label of a volume that has the
    image's shape and, within a tenth of a voxel, its affine; NRRD and MetaImage label volumes are read alike. For SEG
    and RTSTRUCT see `read_seg_mask` and `read_rtstruct_mask`.

    Args:
        path: the file `ref` stands for.
        ref: its kind, and for a volume its label, segment number or ROI name.
        image: what the mask belongs to.

    Returns:
        bool, (H, W) for a picture or (I, J, K) for a volume.

    Raises:
        DataError: an unreadable mask, another grid, grey values, or a kind that does not fit the image.
    """
    if ref.kind == "seg":
        return read_seg_mask(path, ref, image)
    if ref.kind == "rtstruct":
        return read_rtstruct_mask(path, ref, image)
    if (ref.kind == "nifti") != image.is_volume:
        expected = "a label volume (NIfTI, NRRD), SEG or RTSTRUCT" if image.is_volume else "a picture such as PNG"
        raise DataError(f"{path}: a {ref.kind} mask does not fit {image.path}; its mask must be {expected}")
    return _read_label_mask(path, ref, image) if image.is_volume else _read_picture_mask(path, image)


def read_target(manifest: Manifest, case: Case, target: Target, image: SourceImage) -> np.ndarray:
    """The truth of one target: the union of its masks, bool on the stored grid; empty for a negative.

    Raises:
        DataError: as `read_mask` and `Manifest.resolve`.
    """
    union = np.zeros(image.array.shape if image.is_volume else image.array.shape[:2], dtype=bool)
    for ref in target.masks:
        union |= read_mask(manifest.resolve(case, ref.path), ref, image)
    return union


def _read_picture_mask(path: str | Path, image: SourceImage) -> np.ndarray:
    colour_HWC, alpha_HW = decode_picture(path)
    if colour_HWC.shape[:2] != image.array.shape[:2]:
        raise DataError(
            f"{path}: mask is {colour_HWC.shape[:2]}, image is {image.array.shape[:2]} (rows, columns); "
            f"resample the mask (nearest neighbour) or drop the case"
        )
    # a mask drawn in the alpha channel would otherwise read as an empty one
    if alpha_HW is not None:
        raise DataError(f"{path}: mask has transparent pixels; save it as black and white without alpha")
    mask_HW = (colour_HWC != 0).any(axis=2)
    foreground_NC = colour_HWC[mask_HW]
    if foreground_NC.size and (foreground_NC != foreground_NC[0]).any():
        raise DataError(
            f"{path}: mask is not binary, it has {len(np.unique(colour_HWC))} levels (a lossy JPEG, soft edges, or "
            f"several labels); threshold it, or split it by label, and save it as PNG with 0 and 255"
        )
    return mask_HW


def _read_label_mask(path: str | Path, ref: MaskRef, image: SourceImage) -> np.ndarray:
    labels = read_labels(path)
    if labels.array.shape != image.array.shape:
        raise DataError(
            f"{path}: mask is {labels.array.shape}, image is {image.array.shape} voxels; "
            f"resample the mask (nearest neighbour) or drop the case"
        )
    assert labels.affine_ijk_to_ras is not None and image.affine_ijk_to_ras is not None
    shift = _grid_shift_voxels(labels.affine_ijk_to_ras, image.affine_ijk_to_ras, image.array.shape)
    if shift > _GRID_TOLERANCE_VOXELS:
        raise DataError(
            f"{path}: mask lies up to {shift:.1f} voxels from its image by their affines; "
            f"resample the mask onto the image, or copy the image's header if the voxels agree"
        )
    return labels.array == ref.selector


def _grid_shift_voxels(mask_to_ras: np.ndarray, image_to_ras: np.ndarray, shape_ijk: tuple[int, ...]) -> float:
    """How far apart two affines put the corners of one grid, at most, in voxels of the image."""
    corners_ijk = np.array(np.meshgrid(*([0, side - 1] for side in shape_ijk))).reshape(3, -1)
    corners = np.vstack([corners_ijk, np.ones(corners_ijk.shape[1])])
    return float(np.abs((np.linalg.inv(image_to_ras) @ mask_to_ras @ corners - corners)[:3]).max())
