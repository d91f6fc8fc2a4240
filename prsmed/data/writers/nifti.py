"""Writing NIfTI volumes."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from prsmed.types import SourceImage


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


def write_mask_like(path: str | Path, mask_ijk: np.ndarray, image: SourceImage) -> None:
    """Write a mask as uint8 with its image's grid: for NIfTI with the same header, for other formats the same affine.

    Free text and extensions of the header are left out: they can name the patient.

    Args:
        path: a file that ends in .nii or .nii.gz, in a folder that exists.
        mask_ijk: bool, (I, J, K) on the image's stored grid.

    Raises:
        OSError: the file cannot be written, or the image's header is gone.
    """
    voxels_ijk = mask_ijk.view(np.uint8)
    if not str(image.path).lower().endswith((".nii", ".nii.gz")):
        assert image.affine_ijk_to_ras is not None
        write_nifti(path, voxels_ijk, image.affine_ijk_to_ras)
        return
    source = nib.load(image.path)
    assert isinstance(source, nib.Nifti1Image)
    header = source.header.copy()
    header.extensions.clear()
    header.set_data_dtype(np.uint8)
    for name in ("descrip", "aux_file", "db_name", "intent_name"):
        if name in header:
            header[name] = b""
    header["cal_min"], header["cal_max"] = 0, 1
    # without an affine nibabel keeps both forms of the header as they are
    nib.save(type(source)(voxels_ijk, None, header), path)
