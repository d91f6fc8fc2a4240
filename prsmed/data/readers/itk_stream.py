"""The voxels of a large NRRD or MetaImage file, without ever holding them all in memory.

ITK reads NRRD as a whole, and so it does any compressed file. But behind the header lies one stream of voxels, as it is
or packed by zlib (gzip). What is not so simple (text, other packers, bytes to skip) is left to ITK.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK

from prsmed.data.readers.scratch import Scratch
from prsmed.errors import DataError

HEADER_BYTES = 64 * 1024

_TYPES = {
    getattr(SimpleITK, f"sitk{name}"): np.dtype(name.lower())
    for name in ("Int8", "UInt8", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64", "Float32", "Float64")
}
# NRRD closes its header with an empty line, MetaImage with this field
_HEADER_ENDS = {".nrrd": re.compile(rb"\r?\n\r?\n"), ".mha": re.compile(rb"(?m)^ElementDataFile *= *LOCAL\r?\n")}
_ODD_FIELDS = {"lineskip", "byteskip", "headersize"}
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_PIECE_BYTES = 1 << 20


def mapped_voxels(path: Path, fields: Mapping[str, str], info: SimpleITK.ImageFileReader) -> np.ndarray | None:
    """The voxels (I, J, K) as stored, mapped: from the file itself, or unpacked once into a temporary one.

    Args:
        fields: of the header, keys in lower case without spaces.
        info: that has read the file's information.

    Returns:
        None where only ITK can read them.

    Raises:
        DataError: packed voxels are damaged or too few, or the disk is full.
    """
    dtype, shape_kji = _TYPES.get(info.GetPixelID()), tuple(reversed(info.GetSize()))
    packed, is_big_endian = (_nrrd_coding if path.suffix.lower() == ".nrrd" else _metaimage_coding)(fields)
    with path.open("rb") as stream:
        end = _HEADER_ENDS[path.suffix.lower()].search(stream.read(HEADER_BYTES))
    if dtype is None or packed is None or not end or len(shape_kji) != 3 or _ODD_FIELDS & fields.keys():
        return None
    stored = dtype.newbyteorder(">" if is_big_endian else "<")
    if packed:
        return _unpacked(path, end.end(), stored, shape_kji).transpose()
    if path.stat().st_size != end.end() + math.prod(shape_kji) * stored.itemsize:
        return None
    return np.asarray(np.memmap(path, stored, mode="c", offset=end.end(), shape=shape_kji)).transpose()


def _nrrd_coding(fields: Mapping[str, str]) -> tuple[bool | None, bool]:
    """Whether the voxels are packed (None: not in a way known here), and whether their highest byte comes first."""
    packed = {"raw": False, "gzip": True, "gz": True}.get(fields.get("encoding", "").lower())
    return packed, fields.get("endian", "").lower() == "big"


def _metaimage_coding(fields: Mapping[str, str]) -> tuple[bool | None, bool]:
    """As `_nrrd_coding`."""
    orders = (fields.get(name, "").lower() for name in ("binarydatabyteordermsb", "elementbyteordermsb"))
    packed = fields.get("compresseddata", "").lower() == "true" if fields.get("binarydata") == "True" else None
    return packed, "true" in orders


def _unpacked(path: Path, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """As many voxels as the header promises, whatever else the file holds."""
    missing = math.prod(shape) * dtype.itemsize
    scratch = Scratch(missing, path)
    unpacker = zlib.decompressobj(wbits=_GZIP_OR_ZLIB)
    try:
        with path.open("rb") as stream:
            stream.seek(offset)
            while missing and (piece := unpacker.unconsumed_tail or stream.read(_PIECE_BYTES)):
                content = unpacker.decompress(piece, min(missing, _PIECE_BYTES))
                scratch.write(content)
                missing -= len(content)
            rest = unpacker.flush()[:missing]
    except zlib.error as error:
        raise DataError(f"{path}: cannot be decoded ({error}); export or download it again") from error
    scratch.write(rest)
    missing -= len(rest)
    if missing:
        raise DataError(f"{path}: cannot be decoded ({missing} bytes of voxels are missing); export it again")
    return scratch.array(shape, dtype)
