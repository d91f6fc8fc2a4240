"""Volumes that arrive in pieces: the same values in memory and in a file, no copy of the volume, nothing left."""

import errno
import gc
import gzip
import tempfile
import tracemalloc

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from pydicom.uid import JPEG2000Lossless, RLELossless

from prsmed.data.readers import read_image, scratch
from prsmed.data.readers.dicom import find_series
from prsmed.data.readers.dicom_pixels import decode, decode_frames
from prsmed.data.readers.nifti import read_nifti
from prsmed.data.readers.scratch import Stack
from prsmed.errors import DataError
from tests.unit.data.readers.made_dicom import enhanced, save, save_compressed, slice_of

AFFINE = np.diag([2.0, 3.0, 4.0, 1.0])
INT16, INT32, FLOAT32 = map(np.dtype, (np.int16, np.int32, np.float32))


@pytest.fixture(params=["in memory", "in a file"])
def place(request, monkeypatch, tmp_path):
    """Both ways, with the temporary folder to look into."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    if request.param == "in a file":
        monkeypatch.setattr(scratch, "IN_MEMORY_BYTES", 0)
    return folder


def _nifti(path, array, slope=None, inter=None):
    volume = nib.Nifti1Image(array, AFFINE)
    volume.header.set_data_dtype(array.dtype)
    volume.header.set_slope_inter(slope, inter)
    nib.save(volume, path)
    return path


@pytest.mark.parametrize("slope", [None, 2.5])
@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i2", "<u4", "<f4", ">f4", "<f8"])
def test_nifti_compressed_or_not(tmp_path, place, dtype, slope):
    """nibabel's own reading of the whole file is the reference; without a scaling integers stay integers."""
    array = np.random.default_rng(0).integers(0, 200, (7, 5, 6)).astype(dtype)
    plain = _nifti(tmp_path / "a.nii", array, slope, None if slope is None else -3)
    packed = tmp_path / "a.nii.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    expected = np.asanyarray(nib.load(plain, mmap=False).dataobj)
    expected = expected.astype(expected.dtype.newbyteorder("=") if expected.dtype.kind in "iu" else np.float32)
    for path in (plain, packed):
        read = read_nifti(path).array
        assert read.dtype == expected.dtype and read.flags.f_contiguous and read.flags.writeable
        np.testing.assert_array_equal(read, expected)
    del read
    gc.collect()
    assert not list(place.iterdir())


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.float32, np.float64])
def test_nrrd_and_metaimage_are_read_past_itk(tmp_path, monkeypatch, suffix, dtype, is_packed):
    """What SimpleITK wrote; in front of the voxels' own bytes lie those of the header."""
    monkeypatch.setattr(scratch, "IN_MEMORY_BYTES", 0)
    array = np.random.default_rng(0).integers(0, 200, (7, 5, 6)).astype(dtype)
    path = tmp_path / f"a{suffix}"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array.transpose()), str(path), useCompression=is_packed)
    by_itk = SimpleITK.ImageFileReader.Execute
    monkeypatch.setattr(SimpleITK.ImageFileReader, "Execute", None)
    read = read_image(path).array
    assert read.dtype == (np.float32 if np.dtype(dtype).kind == "f" else dtype)
    np.testing.assert_array_equal(read, array)
    path.write_bytes(path.read_bytes()[:-40])
    monkeypatch.setattr(SimpleITK.ImageFileReader, "Execute", by_itk)
    with pytest.raises(DataError, match=rf"a{suffix}: cannot be decoded"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_big_endian_voxels_of_nrrd_and_metaimage(tmp_path, monkeypatch, suffix):
    """Headers by the two formats' definitions; SimpleITK's reading of the same bytes is the reference."""
    array = (np.arange(24).reshape(2, 3, 4, order="F") * 300).astype(">i2")
    nrrd = (
        "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 2 3 4\n"
        "space directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\nendian: big\nencoding: raw\n\n"
    )
    mha = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = True\n"
        "TransformMatrix = 1 0 0 0 1 0 0 0 1\nDimSize = 2 3 4\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    )
    path = tmp_path / f"a{suffix}"
    path.write_bytes((nrrd if suffix == ".nrrd" else mha).encode() + array.tobytes(order="F"))
    by_itk = read_image(path).array
    monkeypatch.setattr(scratch, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(SimpleITK.ImageFileReader, "Execute", None)
    for read in (by_itk, read_image(path).array):
        assert read.dtype == np.dtype(np.int16)
        np.testing.assert_array_equal(read, array)


def test_a_damaged_gzip_is_refused_where_only_its_sum_tells(tmp_path, place):
    content = bytearray(gzip.compress(_nifti(tmp_path / "a.nii", np.zeros((9, 9, 9), np.int16)).read_bytes()))
    content[-8] ^= 1  # RFC 1952: the last eight bytes are CRC32 and length
    (tmp_path / "a.nii.gz").write_bytes(content)
    with pytest.raises(DataError, match="cannot be decoded as NIfTI"):
        read_nifti(tmp_path / "a.nii.gz")


@pytest.mark.parametrize(("last", "widest"), [(np.int16, np.int32), (np.float32, np.float32)])
def test_a_stack_takes_the_widest_type(tmp_path, place, last, widest):
    stack = Stack(4, (INT16, INT32, FLOAT32), tmp_path)
    for value, dtype in zip((1, -5, 70_000, 2), (np.int16, np.int16, np.int32, last), strict=True):
        stack.add(np.full((2, 3), value, dtype))
    volume = stack.volume()
    assert volume.dtype == widest and volume.shape == (3, 2, 4)
    assert volume[0, 0].tolist() == volume[2, 1].tolist() == [1, -5, 70_000, 2]


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: open("/dev/full", "w+b"))  # noqa: SIM115
    packed = _nifti(tmp_path / "a.nii.gz", np.zeros((9, 9, 9), np.int16))
    save(tmp_path / "series", slice_of(0), slice_of(1))
    for path in (packed, tmp_path / "series"):
        with pytest.raises(DataError, match=rf"{path.name}: cannot be unpacked .*\(No space left.*TMPDIR") as caught:
            read_image(path)
        assert caught.value.__cause__.errno == errno.ENOSPC


def test_a_folder_of_slices_is_mapped_like_one_in_memory(tmp_path, place):
    slices = [slice_of(index, np.full((4, 5), 300 * index, np.int16)) for index in (2, 0, 1)]
    slices[0].RescaleSlope, slices[0].RescaleIntercept = 100, 0  # 60,000: beyond int16
    array = read_image(save(tmp_path / "series", *slices)).array
    assert array.dtype == np.int32 and array[0, 0].tolist() == [0, 300, 60_000]


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEG2000Lossless])
def test_frames_one_by_one_are_those_of_the_file(tmp_path, syntax):
    """12 of 16 bits, with an overlay in an unused one where nothing is compressed; any order."""
    stored_KHW = np.random.default_rng(0).integers(0, 4096, (5, 40, 32)).astype(np.uint16)
    positions = [[0.0, 0.0, float(index)] for index in range(5)]
    dataset = enhanced(stored_KHW, positions, [1.0] * 5, BitsStored=12, HighBit=11)
    if syntax:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4.1"
        save_compressed(tmp_path / "0.dcm", dataset, syntax)
    else:
        dataset.PixelData = (stored_KHW | 0x8000).tobytes()
        save(tmp_path, dataset)
    (header,), _ = find_series(tmp_path / "0.dcm", None)
    whole_KHW = decode(header, "who")[..., 0]
    np.testing.assert_array_equal(whole_KHW, stored_KHW)
    for order in ([0, 1, 2, 3, 4], [4, 3, 1]):
        np.testing.assert_array_equal(list(decode_frames(header, "who", order)), whole_KHW[order])


@pytest.mark.parametrize("kind", ["nii.gz", "nii of float64", "nrrd", "mha", "series", "enhanced"])
def test_no_volume_is_copied_while_it_is_read(tmp_path, monkeypatch, kind):
    """24 slices of 512 x 512 and 2 bytes; what NumPy, gzip and pydicom allocate is traced, what is mapped is not."""
    monkeypatch.setattr(scratch, "IN_MEMORY_BYTES", 1 << 16)
    voxels_KHW = np.arange(24 * 512 * 512, dtype=np.int32).reshape(24, 512, 512).astype(np.int16)
    path = tmp_path / "series"
    if kind == "series":
        save(path, *(slice_of(index, pixels_HW) for index, pixels_HW in enumerate(voxels_KHW)))
    elif kind == "enhanced":
        save(path, enhanced(voxels_KHW, [[0.0, 0.0, float(index)] for index in range(24)], [1.0] * 24))
    elif kind in ("nrrd", "mha"):
        path = tmp_path / f"a.{kind}"
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels_KHW), str(path), useCompression=True)
    else:
        dtype, path = (np.float64, tmp_path / "a.nii") if "float64" in kind else (np.int16, tmp_path / "a.nii.gz")
        _nifti(path, voxels_KHW.transpose(2, 1, 0).astype(dtype))
    expected, nbytes = voxels_KHW[-1].T.copy(), voxels_KHW.nbytes
    del voxels_KHW
    read_image(path)  # what is imported once is there
    tracemalloc.start()
    array = read_image(path).array
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(array[:, :, -1], expected)
    assert peak_bytes < nbytes / 2
