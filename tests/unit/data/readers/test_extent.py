"""A header that promises too much is refused before anything is unpacked."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from prsmed.data.readers.extent import require_modest
from prsmed.data.writers.nifti import write_nifti
from prsmed.errors import DataError
from tests.unit.data.readers.made_dicom import picture, save


def test_a_modest_image_passes(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii.gz", np.zeros((4, 5, 6), np.uint8), np.eye(4))
    Image.new("L", (30, 20)).save(tmp_path / "a.png")
    for name in ("a.nii.gz", "a.png"):
        require_modest(tmp_path / name, max_voxels=600)
    with pytest.raises(DataError, match="promises 120 voxels, at most 119"):
        require_modest(tmp_path / "a.nii.gz", max_voxels=119)
    with pytest.raises(DataError, match="promises 600 voxels"):
        require_modest(tmp_path / "a.png", max_voxels=599)


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """Fields as nifti1.h has them: 4000 voxels a side of uint8, 64 GB, in some kilobytes."""
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, 4000, 4000, 4000, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 2, 8)
    struct.pack_into("<f", header, 108, 352.0)
    header[344:348] = b"n+1\0"
    bomb = tmp_path / "a.nii.gz"
    bomb.write_bytes(gzip.compress(bytes(header) + bytes(1_000_000)))
    with pytest.raises(DataError, match="promises 64000000000 voxels"):
        require_modest(bomb)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.png"])
def test_rubbish_has_no_readable_header(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04." * 400)
    with pytest.raises(DataError):
        require_modest(tmp_path / name)


def test_a_size_in_words_of_another_format_or_behind_a_long_gap_counts_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.mha").write_bytes(
        b"NDims = 3\nDimSize = 4000 4000 4000\nElementType = MET_UCHAR\ndimsize = 1 1 1\nElementDataFile = LOCAL\n"
    )
    with pytest.raises(DataError, match="promises 64000000000 voxels"):
        require_modest(tmp_path / "a.mha")
    write_nifti(tmp_path / "b.nii.gz", np.zeros((8, 8, 8), np.uint8), np.eye(4))
    header = bytearray(gzip.decompress((tmp_path / "b.nii.gz").read_bytes()))
    struct.pack_into("<f", header, 108, 2.0**27)  # vox_offset
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(bytes(header)))
    with pytest.raises(DataError, match="promises 133"):
        require_modest(tmp_path / "b.nii.gz", max_voxels=2**26)


def test_a_dicom_file_says_how_large_it_is(tmp_path: Path) -> None:
    save(tmp_path, picture(np.zeros((30, 20), np.uint8), NumberOfFrames=7))
    require_modest(tmp_path / "0.dcm", max_voxels=4200)
    with pytest.raises(DataError, match="promises 4200 voxels"):
        require_modest(tmp_path / "0.dcm", max_voxels=4199)
    packed = picture(np.zeros((30, 20), np.uint8))
    packed.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    save(tmp_path, packed)
    with pytest.raises(DataError, match="is a deflated DICOM file; save it without"):
        require_modest(tmp_path / "0.dcm")
    bare = picture(np.zeros((30, 20), np.uint8))
    bare.preamble, bare.file_meta = None, FileMetaDataset()
    bare.save_as(tmp_path / "1.dcm", enforce_file_format=False, implicit_vr=True, little_endian=True)
    assert (tmp_path / "1.dcm").read_bytes()[:2] == b"\x08\x00"
    with pytest.raises(DataError, match="promises 600 voxels"):
        require_modest(tmp_path / "1.dcm", max_voxels=599)
