"""The values of DICOM images: decoded, in colour where they are colour, rescaled without overflow.

pydicom decodes, with pylibjpeg-openjpeg (JPEG 2000), pyjpegls (JPEG-LS), Pillow (JPEG baseline) and its own RLE.
Lossless and 12-bit JPEG go through the GDCM inside SimpleITK: pydicom's decoder of them, pylibjpeg-libjpeg, is GPL.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, iter_pixels, pixel_array

from prsmed.data.readers.dicom_files import instance_name
from prsmed.errors import DataError

_PIXEL_TAGS = [
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData",
    "ModalityLUTSequence",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "FloatPixelData",
    "DoubleFloatPixelData",
    "PixelData",
]
_PIXEL_DATA = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_BY_GDCM = (uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGExtended12Bit)
VOXEL_TYPES = (np.dtype(np.int16), np.dtype(np.int32), np.dtype(np.float32))
"""What slices of a volume may be, narrowest first."""


def decode(header: Dataset, who: str, frame: int | None = None) -> np.ndarray:
    """The frames (F, H, W, C) of an instance, or one of them; stored values, C 1 or 3 (YBR and palettes become RGB).

    Raises:
        DataError: no pixel data, truncated or damaged pixel data, NaN or infinity, or neither grey nor RGB.
    """
    source = pydicom.dcmread(str(header.filename), force=True, specific_tags=_PIXEL_TAGS)
    if not any(source.get(keyword) for keyword in _PIXEL_DATA):
        raise DataError(f"{who}: {instance_name(header)} has no pixel data, or it is cut off; export it again")
    syntax = _transfer_syntax(source)
    try:
        if syntax in _BY_GDCM:
            array = _decode_by_gdcm(source).reshape(-1, source.Rows, source.Columns, source.SamplesPerPixel)
            array = array if frame is None else array[frame]
        else:
            array = pixel_array(source, index=frame)
            array = array if syntax.is_compressed else _drop_unused_bits(array, source)
        if source.PhotometricInterpretation == "PALETTE COLOR":
            array = apply_color_lut(array, source)
            # 16-bit palettes are 8-bit colours in the high byte (PS3.3 C.7.6.3.1.5)
            array = (array >> 8).astype(np.uint8) if array.dtype == np.uint16 else array
        if "ModalityLUTSequence" in source:
            array = apply_modality_lut(array, source)
        array_FHWC = array.reshape(-1, source.Rows, source.Columns, array.size // _pixel_count(source, frame))
    # decoders raise many kinds of errors on damaged streams
    except Exception as error:
        raise _undecodable(header, syntax, who) from error
    _check_finite(array_FHWC, header, who)
    if array_FHWC.shape[3] not in (1, 3):
        raise DataError(f"{who}: has {array_FHWC.shape[3]} values a pixel, expected grey or RGB; convert it to RGB")
    return array_FHWC


def decode_frames(header: Dataset, who: str, frames: Sequence[int]) -> Iterator[np.ndarray]:
    """Grey frames (H, W) of an instance, in the order asked for; of a file of many, one at a time is in memory.

    Only lossless and 12-bit JPEG, deflated files and those without File Meta Information are unpacked as a whole.

    Raises:
        DataError: as `decode`.
    """
    source = pydicom.dcmread(str(header.filename), force=True, specific_tags=_PIXEL_TAGS, stop_before_pixels=True)
    syntax = source.file_meta.get("TransferSyntaxUID", "")
    count = int(source.get("NumberOfFrames") or 1)
    as_a_whole = syntax in (*_BY_GDCM, uid.DeflatedExplicitVRLittleEndian, "") or "ModalityLUTSequence" in source
    if count == 1 or as_a_whole:
        array_FHWC = decode(header, who)
        yield from (array_FHWC[frame, ..., 0] for frame in frames)
        return
    in_order = list(frames) == list(range(count))  # without a list of frames pydicom goes through the file once
    try:
        for frame_HW in iter_pixels(str(header.filename), indices=None if in_order else frames):
            stored_HW = frame_HW if syntax.is_compressed else _drop_unused_bits(frame_HW, source)
            _check_finite(stored_HW, header, who)
            yield stored_HW
    except DataError:
        raise
    # decoders raise many kinds of errors on damaged streams
    except Exception as error:
        raise _undecodable(header, syntax, who) from error


def rescale(stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Values of the modality (HU for CT): the narrowest of int16, int32 where whole numbers, else float32."""
    if stored.dtype.kind not in "iub" or not slope.is_integer() or not intercept.is_integer():
        return (stored * np.float64(slope) + intercept).astype(np.float32)
    whole = stored.astype(np.int64) * int(slope) + int(intercept)
    low, high = int(whole.min()), int(whole.max())
    for dtype in VOXEL_TYPES[:2]:
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return whole.astype(dtype)
    return whole.astype(np.float32)


def _check_finite(values: np.ndarray, header: Dataset, who: str) -> None:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError(f"{who}: {instance_name(header)} holds NaN or infinity; replace them by numbers")


def _undecodable(header: Dataset, syntax: uid.UID, who: str) -> DataError:
    return DataError(
        f"{who}: the pixel data of {instance_name(header)} ({syntax.name}) cannot be decoded, it is truncated or "
        f"damaged; export it again"
    )


def _pixel_count(source: Dataset, frame: int | None) -> int:
    frames = int(source.get("NumberOfFrames") or 1) if frame is None else 1
    return frames * source.Rows * source.Columns


def _transfer_syntax(source: Dataset) -> uid.UID:
    """As stated, else as the data set was parsed (a file without the File Meta Information of PS3.10 7.1)."""
    if "TransferSyntaxUID" not in source.file_meta:
        implicit, little = source.original_encoding
        explicit = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
        source.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else explicit
    return source.file_meta.TransferSyntaxUID


def _drop_unused_bits(array: np.ndarray, source: Dataset) -> np.ndarray:
    """Clear what is beside the stored bits, where old files keep overlays (PS3.5 8.1.1), and extend the sign."""
    allocated, stored = array.dtype.itemsize * 8, int(source.get("BitsStored", source.BitsAllocated))
    if array.dtype.kind not in "iu" or source.BitsAllocated != allocated or stored == allocated:
        return array
    return (array << (allocated - 1 - int(source.get("HighBit", stored - 1)))) >> (allocated - stored)


def _decode_by_gdcm(source: Dataset) -> np.ndarray:
    """Stored values of an encapsulated image, from a file that holds its pixel module and nothing else."""
    bare = Dataset()
    bare.update({element.tag: element for element in source if element.keyword in _PIXEL_TAGS})
    # ITK inverts MONOCHROME1 without a word
    if source.PhotometricInterpretation == "MONOCHROME1":
        bare.PhotometricInterpretation = "MONOCHROME2"
    bare.SOPClassUID, bare.SOPInstanceUID = uid.SecondaryCaptureImageStorage, uid.generate_uid()
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = source.file_meta.TransferSyntaxUID
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pixels.dcm"
        content = io.BytesIO()
        bare.save_as(content, enforce_file_format=True)
        file.write_bytes(content.getvalue())
        return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file), imageIO="GDCMImageIO"))
