"""How large an image says it is, before any of it is unpacked: a small file can hold a very large volume."""

from __future__ import annotations

import math
from pathlib import Path

import nibabel as nib
from PIL import Image

from prsmed.data.readers.files import require_file
from prsmed.data.readers.itk_volume import ITK_SUFFIXES, header_size
from prsmed.data.readers.nifti import NIFTI_SUFFIXES
from prsmed.data.readers.picture import PICTURE_SUFFIXES
from prsmed.errors import DataError

MAX_VOXELS = 2**29
"""A volume of 812 voxels a side; as float32 it takes 2 GiB."""


def require_modest(path: Path, *, max_voxels: int = MAX_VOXELS) -> None:
    """Check what the header of an image that somebody sent promises.

    DICOM files and folders pass: a frame is as large as its file, or a codec has limits of its own.

    Raises:
        DataError: no file, no readable header, or more voxels than `max_voxels`.
    """
    if path.is_dir():
        return
    require_file(path)
    name = path.name.lower()
    try:
        if name.endswith(NIFTI_SUFFIXES):
            volume = nib.load(path)
            if not isinstance(volume, nib.Nifti1Image):  # NIfTI-2 is one too
                raise ValueError("another format under the name of NIfTI")
            voxels = math.prod(volume.shape)
        elif name.endswith(ITK_SUFFIXES):
            voxels = math.prod(header_size(path))
        elif name.endswith(PICTURE_SUFFIXES):
            with Image.open(path) as picture:
                voxels = math.prod(picture.size)
        else:
            return
    # nibabel, gzip and Pillow raise many kinds of errors on damaged files
    except Exception as error:
        raise DataError(f"{path}: has no readable header ({type(error).__name__}); export it again") from error
    if not 0 < voxels <= max_voxels:
        raise DataError(f"{path}: promises {voxels} voxels, at most {max_voxels} are read; crop or resample it")
