"""Volumes: NIfTI-1 and -2 through nibabel, in stored order, with the affine the file states."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy

from prsmed.data.readers.files import require_file
from prsmed.data.readers.scratch import Scratch, Stack
from prsmed.data.readers.voxels import plain_voxels, voxel_sizes_mm
from prsmed.errors import DataError
from prsmed.types import SourceImage

NIFTI_SUFFIXES = (".nii", ".nii.gz")

_PIECE_BYTES = 1 << 20


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
        # mapped, so that only the slices that are looked at are read
        volume = nib.load(path, mmap="c")
        if not isinstance(volume, nib.Nifti1Image):
            raise ValueError(f"the header is that of a {type(volume).__name__}")
        affine_ijk_to_ras = _stated_affine(volume.header)
        array = _voxels(_unpacked(volume, path) if path.name.lower().endswith(".gz") else volume, path)
    except DataError:
        raise
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


def _unpacked(volume: nib.Nifti1Image, path: Path) -> nib.Nifti1Image:
    """The same volume over its unpacked bytes: as many as its header promises, whatever else the file holds."""
    stored = volume.dataobj
    assert isinstance(stored, ArrayProxy)
    missing = int(stored.offset) + math.prod(volume.shape) * stored.dtype.itemsize
    scratch = Scratch(missing, path)
    with gzip.open(path) as packed:
        while missing and (content := packed.read(min(missing, _PIECE_BYTES))):
            scratch.write(content)
            missing -= len(content)
        packed.read(1)  # at its end gzip compares the sum
    if missing:
        raise EOFError(f"{missing} bytes of voxels are missing")
    return type(volume).from_file_map({"image": nib.FileHolder(fileobj=scratch.stream)}, mmap="c")


def _voxels(volume: nib.Nifti1Image, path: Path) -> np.ndarray:
    """The voxels as they are where that is their final type, else converted slice by slice."""
    stored, shape = volume.dataobj, volume.shape
    assert isinstance(stored, ArrayProxy)
    is_plain = (stored.slope, stored.inter) == (1, 0)
    final = stored.dtype.newbyteorder("=") if is_plain and stored.dtype.kind in "iu" else np.dtype(np.float32)
    is_odd = stored.dtype.kind not in "iuf" or len(shape) < 3 or math.prod(shape[:3]) != math.prod(shape)
    if is_odd or 0 in shape or (is_plain and stored.dtype == final):
        return np.asanyarray(stored)
    stack = Stack(shape[2], (final,), path)
    for index in range(shape[2]):
        stack.add(np.asanyarray(stored[:, :, index]).reshape(shape[:2]).T.astype(final, copy=False))
    return stack.volume()
