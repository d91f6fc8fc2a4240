"""Volumes: NIfTI-1 and -2 through nibabel, in stored order, with the affine the file states."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from prsmed.data.readers.files import require_file
from prsmed.data.readers.voxels import plain_voxels, voxel_sizes_mm
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
            no stated orientation (both form codes zero), or an affine without an inverse or without right angles.
    """
    path = Path(path)
    require_file(path)
    try:
        # an uncompressed file is mapped, so that only the slices that are looked at are read
        volume = nib.load(path, mmap="c")
        if not isinstance(volume, nib.Nifti1Image):
            raise ValueError(f"the header is that of a {type(volume).__name__}")
        affine_ijk_to_ras = _stated_affine(volume.header)
        array = np.asanyarray(volume.dataobj)
    # nibabel, gzip and zlib raise many kinds of errors on damaged files.
    except Exception as error:
        raise DataError(f"{path}: cannot be decoded as NIfTI ({error}); export or download it again") from error
    if affine_ijk_to_ras is None:
        raise DataError(f"{path}: states no orientation (sform and qform codes are 0); set the qform or sform")
    unit = volume.header.get_xyzt_units()[0]
    if unit not in ("mm", "unknown"):
        raise DataError(f"{path}: lengths are in {unit}, expected mm; rewrite the header in mm")
    spacing_mm = voxel_sizes_mm(affine_ijk_to_ras, path)
    array_ijk = plain_voxels(array, path)
    return SourceImage(array=array_ijk, affine_ijk_to_ras=affine_ijk_to_ras, spacing_mm=spacing_mm, path=str(path))


def _stated_affine(header: nib.Nifti1Header) -> np.ndarray | None:
    """The affine the file states, (4, 4) float64; None where both codes are zero and nibabel would invent one."""
    if header["sform_code"] > 0:
        return header.get_sform()
    return header.get_qform() if header["qform_code"] > 0 else None
