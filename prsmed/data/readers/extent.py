"""How large an image says it is, before any of it is unpacked: a small file can hold a very large volume."""

from __future__ import annotations

import math
from pathlib import Path

import nibabel as nib
import pydicom
from nibabel.arrayproxy import ArrayProxy
from PIL import Image
from pydicom.filereader import read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian

from prsmed.data.readers.dicom_files import is_dicom
from prsmed.data.readers.files import require_file
from prsmed.data.readers.itk_volume import ITK_SUFFIXES, header_size
from prsmed.data.readers.nifti import NIFTI_SUFFIXES
from prsmed.data.readers.picture import PICTURE_SUFFIXES
from prsmed.errors import DataError

MAX_VOXELS = 2**29
"""A volume of 812 voxels a side; as float32 it takes 2 GiB."""

_HEADER_BYTES = 2**20  # what NIfTI extensions may take before the voxels; the rest counts as voxels
_EXTENT = ["Rows", "Columns", "SamplesPerPixel", "NumberOfFrames"]


def require_modest(path: Path, *, max_voxels: int = MAX_VOXELS) -> None:
    """Check what the header of an image that somebody sent promises.

    Folders pass: they are not sent.

    Raises:
        DataError: no file, no readable header, or more voxels than `max_voxels`.
    """
    if path.is_dir():
        return
    require_file(path)
    name = path.name.lower()
    if _is_deflated(path):  # it may hold any amount, and its header cannot be read alone
        raise DataError(f"{path}: is a deflated DICOM file; save it without compression, or with one of its pixels")
    try:
        if name.endswith(NIFTI_SUFFIXES):
            volume = nib.load(path)
            if not isinstance(volume, nib.Nifti1Image):  # NIfTI-2 is one too
                raise ValueError("another format under the name of NIfTI")
            assert isinstance(volume.dataobj, ArrayProxy)  # read from a file
            voxels = math.prod(volume.shape) + max(0, int(volume.dataobj.offset) - _HEADER_BYTES)
        elif name.endswith(ITK_SUFFIXES):
            voxels = math.prod(header_size(path))
        elif name.endswith(PICTURE_SUFFIXES):
            with Image.open(path) as picture:
                voxels = math.prod(picture.size)
        elif is_dicom(path):
            header = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=_EXTENT)
            voxels = math.prod(int(header.get(keyword) or 1) for keyword in _EXTENT)
        else:
            return
    # nibabel, gzip, pydicom and Pillow raise many kinds of errors on damaged files
    except Exception as error:
        raise DataError(f"{path}: has no readable header ({type(error).__name__}); export it again") from error
    if not 0 < voxels <= max_voxels:
        raise DataError(f"{path}: promises {voxels} voxels, at most {max_voxels} are read; crop or resample it")


def _is_deflated(path: Path) -> bool:
    if not is_dicom(path):
        return False
    try:
        return read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
    except Exception:  # a bare data set has no such part; what is damaged is met when it is read
        return False
