"""Writing NIfTI volumes."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np


def write_nifti(path: str | Path, array_ijk: np.ndarray, affine_ijk_to_ras: np.ndarray) -> None:
    """Write a volume with its orientation stated twice, as scanner qform and sform, in millimetres.

    Args:
        path: a file that ends in .nii or .nii.gz, in a folder that exists.
        array_ijk: (I, J, K), of a type that NIfTI knows.
        affine_ijk_to_ras: (4, 4), without shear.

    Raises:
        OSError: the file cannot be written.
    """
    volume = nib.Nifti1Image(array_ijk, affine_ijk_to_ras)
    volume.header.set_xyzt_units("mm")
    volume.set_qform(affine_ijk_to_ras, code="scanner")
    volume.set_sform(affine_ijk_to_ras, code="scanner")
    nib.save(volume, path)
