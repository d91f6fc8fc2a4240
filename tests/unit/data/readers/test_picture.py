"""Pictures are written with Pillow, SimpleITK or by hand, and must come back as they were meant."""

import struct

import numpy as np
import pytest
import SimpleITK
from PIL import Image

from prsmed.data.readers.picture import picture_hw_px, read_picture
from prsmed.errors import DataError


def _ramp(*shape: int, high: int, dtype: str) -> np.ndarray:
    return np.linspace(0, high, int(np.prod(shape))).reshape(shape).astype(dtype)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_8_bit_pictures_keep_every_value(tmp_path, suffix, shape):
    array = _ramp(*shape, high=255, dtype="uint8")
    Image.fromarray(array).save(tmp_path / f"a{suffix}")
    read = read_picture(tmp_path / f"a{suffix}")
    assert read.array.dtype == np.uint8
    np.testing.assert_array_equal(read.array, array.reshape(5, 7, -1))
    assert read.affine_ijk_to_ras is None and read.spacing_mm is None and not read.is_volume


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_and_colour_keep_16_bits(tmp_path, suffix):
    grey = _ramp(5, 7, high=65535, dtype="uint16")
    colour = _ramp(5, 7, 3, high=65535, dtype="uint16")
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(grey), str(tmp_path / f"grey{suffix}"))
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(colour, isVector=True), str(tmp_path / f"colour{suffix}"))
    np.testing.assert_array_equal(read_picture(tmp_path / f"grey{suffix}").array[..., 0], grey)
    np.testing.assert_array_equal(read_picture(tmp_path / f"colour{suffix}").array, colour)


def test_jpeg_is_close_and_has_three_channels(tmp_path):
    array = np.full((16, 24, 3), (200, 40, 90), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "a.jpg", quality=95)
    read = read_picture(tmp_path / "a.jpg").array.astype(int)
    assert read.shape == (16, 24, 3) and np.abs(read - array).max() <= 4


def test_alpha_is_laid_over_black_and_opaque_pixels_stay(tmp_path):
    rgba = np.array([[[200, 100, 50, 255], [200, 100, 50, 0], [200, 100, 50, 51]]], dtype=np.uint8)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    # 51 of 255 is one fifth
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png").array, [[[200, 100, 50], [0, 0, 0], [40, 20, 10]]])


def test_palette_becomes_colour_and_one_bit_becomes_grey(tmp_path):
    palette = Image.fromarray(np.array([[0, 1], [1, 0]], dtype=np.uint8), mode="L").convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(tmp_path / "palette.png")
    Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1").save(tmp_path / "bit.png")
    read = read_picture(tmp_path / "palette.png").array
    np.testing.assert_array_equal(read[0], [[10, 20, 30], [40, 50, 60]])
    np.testing.assert_array_equal(read_picture(tmp_path / "bit.png").array[..., 0], [[0, 255]])


def test_float_and_signed_tiffs_become_float32(tmp_path):
    values = np.array([[0.25, -1000.5]], dtype=np.float32)
    Image.fromarray(values).save(tmp_path / "float.tif")
    SimpleITK.WriteImage(
        SimpleITK.GetImageFromArray(np.array([[-1024, 3000]], dtype=np.int16)), str(tmp_path / "signed.tif")
    )
    np.testing.assert_array_equal(read_picture(tmp_path / "float.tif").array[..., 0], values)
    signed = read_picture(tmp_path / "signed.tif").array
    assert signed.dtype == np.float32
    np.testing.assert_array_equal(signed[..., 0], [[-1024, 3000]])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_exif_rotation_is_applied(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6  # EXIF 2.3: the stored row 0 is the visual right side, so turn by 90 degrees clockwise
    array = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / f"a{suffix}", exif=exif)
    np.testing.assert_array_equal(read_picture(tmp_path / f"a{suffix}").array[..., 0], [[4, 1], [5, 2], [6, 3]])
    assert picture_hw_px(tmp_path / f"a{suffix}") == (3, 2)


def test_the_grid_needs_no_pixels(tmp_path):
    Image.new("L", (30, 20)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: content.index(b"IDAT") + 8])  # the header is whole, the pixels are not
    assert picture_hw_px(tmp_path / "a.png") == (20, 30)
    with pytest.raises(DataError, match=r"a\.png: cannot be decoded"):
        read_picture(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes(content[:20])
    with pytest.raises(DataError, match=r"a\.png: cannot be decoded"):
        picture_hw_px(tmp_path / "a.png")


def test_several_frames_are_refused(tmp_path):
    frames = [Image.new("L", (4, 4), value) for value in (0, 9)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=r"a\.tif: has 2 frames.*; save each frame"):
        read_picture(tmp_path / "a.tif")


def test_a_decompression_bomb_is_refused(tmp_path):
    header = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 54, 0, 0, 54, 40, 30000, 30000, 1, 24, 0, 0, 0, 0, 0, 0)
    (tmp_path / "bomb.bmp").write_bytes(header)
    with pytest.raises(DataError, match=r"bomb\.bmp: cannot be decoded .*decompression bomb"):
        read_picture(tmp_path / "bomb.bmp")


def test_the_array_can_be_written_to(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").array.flags.writeable
