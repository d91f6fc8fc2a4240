"""Pictures: PNG, JPEG, TIFF and BMP, at the depth their file has.

Pillow decodes, because MONAI's PILReader hands on palette indices, alpha and the camera's rotation as they are, and
leaves the file open. Pillow cuts 16-bit colour to 8 bits without a word; those files go through SimpleITK.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import SimpleITK
from PIL import Image, ImageOps

from prsmed.data.readers.files import read_file
from prsmed.errors import DataError
from prsmed.types import SourceImage

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
_PLAIN_MODE = {
    "1": "L",
    "P": "RGBA",
    "PA": "RGBA",
    "La": "LA",
    "RGBa": "RGBA",
    "RGBX": "RGB",
    "CMYK": "RGB",
    "YCbCr": "RGB",
}
_GREY_16_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_EXIF_ORIENTATION = 0x0112
_EXIF_QUARTER_TURNS = (5, 6, 7, 8)
_PNG_ROTATION_CHUNKS = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")


def read_picture(path: str | Path) -> SourceImage:
    """Read one picture upright (EXIF orientation applied), without transparency.

    Transparent pixels are laid over black, the background of medical pictures: what was hidden stays hidden, and a
    fully opaque picture keeps every value. Palettes become RGB, 1-bit pictures 0 and 255, wider integers float32.

    Returns:
        SourceImage with array (H, W, C), C 1 or 3, uint8, uint16 or float32; no affine, no spacing.

    Raises:
        DataError: missing, empty, damaged or oversized file, several frames, an unsupported depth, NaN or infinity.
    """
    colour_HWC, alpha_HW = decode_picture(path)
    if alpha_HW is not None:
        opacity_HW1 = alpha_HW[..., None] / np.iinfo(alpha_HW.dtype).max
        colour_HWC = np.rint(colour_HWC * opacity_HW1).astype(colour_HWC.dtype)
    return SourceImage(array=colour_HWC, path=str(path))


def picture_hw_px(path: str | Path) -> tuple[int, int]:
    """Rows and columns of a picture that `read_picture` would give, from its header: no pixel is decoded, but in TIFF.

    Raises:
        DataError: missing or empty file, or a damaged header.
    """
    path = Path(path)
    content = read_file(path)
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
            width, height = picture.size
            is_tiff = picture.format == "TIFF"  # whose size Pillow 13 states as turned, and older ones as stored
            # a PNG may state its rotation behind its pixels, and Pillow decodes them all to look there
            may_be_turned = picture.format != "PNG" or any(name in content for name in _PNG_ROTATION_CHUNKS)
            turned = may_be_turned and picture.getexif().get(_EXIF_ORIENTATION, 1) in _EXIF_QUARTER_TURNS
    except Exception as error:  # as in `_open`
        raise _undecodable(path, error) from error
    if is_tiff:
        height, width = decode_picture(path)[0].shape[:2]
        return height, width
    return (width, height) if turned else (height, width)


def decode_picture(path: str | Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The colours (H, W, C) of one picture, and its alpha (H, W) where any pixel is not fully opaque.

    Raises:
        DataError: as `read_picture`.
    """
    path = Path(path)
    picture, is_deep_colour = _open(read_file(path), path)
    array_HWC = _read_deep_colour(path) if is_deep_colour else _to_array(picture, path)
    if array_HWC.dtype == np.float32 and not np.isfinite(array_HWC).all():
        raise DataError(f"{path}: holds NaN or infinite values; replace them by numbers and save it again")
    channels = array_HWC.shape[2]
    if channels in (1, 3):
        return array_HWC, None
    alpha_HW = array_HWC[..., -1]
    is_opaque = bool((alpha_HW == np.iinfo(alpha_HW.dtype).max).all())
    return np.ascontiguousarray(array_HWC[..., :-1]), None if is_opaque else alpha_HW


def exif_orientation(path: Path) -> int:
    """How a picture lies in its file (EXIF, tag 0112): 1 as it is shown, anything else turned or mirrored."""
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            return int(picture.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception as error:  # as in `_open`
        raise _undecodable(path, error) from error


def _open(content: bytes, path: Path) -> tuple[Image.Image, bool]:
    """The decoded picture, upright, and whether it has 16 bits a colour (which Pillow has then cut to 8)."""
    try:
        # from a path Pillow 13.0 maps uncompressed TIFFs and scrambles the rotated ones
        with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
            # MPO is what many cameras write into a .jpg: its first frame is the picture, the others are previews
            frames = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
            is_deep_colour = ";16" in str(picture.tile) and picture.mode in ("RGB", "RGBA", "LA")
            is_rotated = picture.getexif().get(_EXIF_ORIENTATION, 1) != 1
            picture.load()
            upright = ImageOps.exif_transpose(picture)
    # Pillow's decoders raise OSError, SyntaxError, ValueError, struct and zlib errors, ... on damaged files.
    except Exception as error:
        raise _undecodable(path, error) from error
    if frames > 1:
        raise DataError(f"{path}: has {frames} frames, expected one; save each frame as a picture of its own")
    if is_deep_colour and is_rotated:
        raise DataError(f"{path}: 16-bit colour with an EXIF rotation is not supported; save it upright")
    return upright, is_deep_colour


def _undecodable(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path}: cannot be decoded as PNG, JPEG, TIFF or BMP ({error}); export it again, as 8 or 16-bit PNG"
    )


def _to_array(picture: Image.Image, path: Path) -> np.ndarray:
    picture = picture.convert(_PLAIN_MODE.get(picture.mode, picture.mode))
    array = np.array(picture)
    if picture.mode in _GREY_16_BIT:
        array = array.astype(np.uint16)
    elif picture.mode == "I":
        # int16 and 32-bit TIFFs: every whole number up to 2**24 has its own float32
        if np.abs(array.astype(np.int64)).max() > 2**24:
            raise DataError(f"{path}: 32-bit values beyond 2**24 do not fit; save it as 16-bit integers or float32")
        array = array.astype(np.float32)
    elif picture.mode not in ("L", "LA", "RGB", "RGBA", "F"):
        raise DataError(f"{path}: colour mode {picture.mode} is not supported; save it as grey or RGB")
    return array[..., None] if array.ndim == 2 else array


def _read_deep_colour(path: Path) -> np.ndarray:
    try:
        array = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    except RuntimeError as error:
        raise DataError(f"{path}: this kind of 16-bit picture cannot be decoded; save it without alpha") from error
    if array.dtype != np.uint16 or array.ndim != 3 or array.shape[2] not in (3, 4):
        raise DataError(f"{path}: {array.dtype} of shape {array.shape}, expected 16-bit RGB; save it without alpha")
    return array
