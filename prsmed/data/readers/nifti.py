"""Volumes: NIfTI-1 and -2 through nibabel, in stored order, with the affine the file states."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from prsmed.data.readers.files import require_file
from prsmed.errors import DataError
from prsmed.types import SourceImage

NIFTI_SUFFIXES = (".nii", ".nii.gz")


def read_nifti(path: str | Path) -> SourceImage:
    """Read one volume.

    Integers stay as stored where the header asks for no scaling (scl_slope, scl_inter); everything else is float32.

    Returns:
        SourceImage with array (I, J, K) in stored order, affine_ijk_to_ras of the sform, or else of the qform, and
        spacing_mm along I, J and K.

    Raises:
        DataError: missing, empty or damaged file, not three dimensions, colour or complex voxels, NaN or infinity,
            no stated orientation (both form codes zero), or an affine that is not invertible.
    """
    path = Path(path)
    require_file(path)
    try:
        volume = nib.load(path, mmap=False)
        if not isinstance(volume, nib.Nifti1Image):
            raise ValueError(f"the header is that of a {type(volume).__name__}")
        affine_ijk_to_ras = _stated_affine(volume.header)
        array = np.asanyarray(volume.dataobj)
    # nibabel, gzip and zlib raise many kinds of errors on damaged files.
    except Exception as error:
        raise DataError(f"{path}: cannot be decoded as NIfTI ({error}); export or download it again") from error
    if affine_ijk_to_ras is None:
        raise DataError(f"{path}: states no orientation (sform and qform codes are 0); set the qform or sform")
    spacing_mm = _check_affine(affine_ijk_to_ras, volume.header.get_xyzt_units()[0], path)
    array_ijk = array.reshape(array.shape[:3]) if array.ndim > 3 and set(array.shape[3:]) == {1} else array
    if array_ijk.ndim != 3 or 0 in array_ijk.shape:
        raise DataError(f"{path}: has shape {array.shape}, expected three dimensions; save one volume a file")
    if array_ijk.dtype.kind not in "iuf":
        raise DataError(f"{path}: voxels are {array_ijk.dtype}, expected numbers; convert colour or complex to grey")
    if array_ijk.dtype.kind == "f":
        array_ijk = array_ijk.astype(np.float32)
        if not np.isfinite(array_ijk).all():
            raise DataError(f"{path}: holds NaN or infinite voxels; replace them by numbers and save it again")
    native = array_ijk.astype(array_ijk.dtype.newbyteorder("="), copy=False)
    return SourceImage(array=native, affine_ijk_to_ras=affine_ijk_to_ras, spacing_mm=spacing_mm, path=str(path))


def read_labels(path: str | Path) -> SourceImage:
    """Read a label volume: as `read_nifti`, with int64 labels.

    Raises:
        DataError: as `read_nifti`, or voxels that are not whole numbers from 0.
    """
    labels = read_nifti(path)
    whole = labels.array.astype(np.int64)
    if (whole != labels.array).any() or (whole < 0).any():
        raise DataError(f"{path}: a mask's labels must be whole numbers from 0; threshold it and save it as uint8")
    labels.array = whole
    return labels


def sole_label(path: str | Path) -> int:
    """The one label above 0 of a mask, 1 where the mask is empty.

    Raises:
        DataError: as `read_labels`, or several labels, so that somebody has to say which is meant.
    """
    present = [int(label) for label in np.unique(read_labels(path).array) if label]
    if len(present) > 1:
        raise DataError(
            f"{path}: holds the labels {present}, not one; say which is meant in a table, with --label-column"
        )
    return present[0] if present else 1


def _stated_affine(header: nib.Nifti1Header) -> np.ndarray | None:
    """The affine the file states, (4, 4) float64; None where both codes are zero and nibabel would invent one."""
    if header["sform_code"] > 0:
        return header.get_sform()
    return header.get_qform() if header["qform_code"] > 0 else None


def _check_affine(affine_ijk_to_ras: np.ndarray, unit: str, path: Path) -> tuple[float, float, float]:
    """Voxel sizes in mm along I, J, K of an affine that can be trusted with positions."""
    if unit not in ("mm", "unknown"):
        raise DataError(f"{path}: lengths are in {unit}, expected mm; rewrite the header in mm")
    directions = affine_ijk_to_ras[:3, :3]
    sizes_mm = np.linalg.norm(directions, axis=0)
    is_finite = bool(np.isfinite(affine_ijk_to_ras).all() and (sizes_mm > 0).all())
    # the determinant of the unit directions is 1 for right angles and 0 where two axes coincide
    if not is_finite or abs(np.linalg.det(directions / sizes_mm)) < 1e-3:
        raise DataError(
            f"{path}: the affine is not invertible ({affine_ijk_to_ras.tolist()}); repair the sform or qform"
        )
    i_mm, j_mm, k_mm = sizes_mm.tolist()
    return i_mm, j_mm, k_mm
