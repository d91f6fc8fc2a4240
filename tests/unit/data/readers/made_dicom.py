"""Small DICOM files, written by pydicom. Tags: PS3.3 C.7.6.2 (plane), C.7.6.3 (pixels), C.11.1 (rescale)."""

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

PATIENT = "DOE^JOHN"
"""In every file, so that tests can look for it in messages."""

SERIES_UID = "1.2.826.0.1.3680043.8.498.1"
STUDY_UID = "1.2.826.0.1.3680043.8.498.2"
FRAME_UID = "1.2.826.0.1.3680043.8.498.3"


def picture(pixels_HW: np.ndarray, **tags: Any) -> FileDataset:
    """A single-frame image without a place in the patient; a tag given as None is left out."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPInstanceUID = ExplicitVRLittleEndian, generate_uid()
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    stored = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": generate_uid(),
        "StudyInstanceUID": STUDY_UID,
        "SeriesInstanceUID": SERIES_UID,
        "FrameOfReferenceUID": FRAME_UID,
        "PatientName": PATIENT,
        "PatientID": PATIENT,
        "Modality": "OT",
        "SamplesPerPixel": 1 if pixels_HW.ndim == 2 else pixels_HW.shape[-1],
        "PhotometricInterpretation": "MONOCHROME2" if pixels_HW.ndim == 2 else "RGB",
        "PlanarConfiguration": None if pixels_HW.ndim == 2 else 0,
        "Rows": pixels_HW.shape[0],
        "Columns": pixels_HW.shape[1],
        "BitsAllocated": pixels_HW.dtype.itemsize * 8,
        "BitsStored": pixels_HW.dtype.itemsize * 8,
        "HighBit": pixels_HW.dtype.itemsize * 8 - 1,
        "PixelRepresentation": int(pixels_HW.dtype.kind == "i"),
    }
    for keyword, value in (stored | tags).items():
        if value is not None:
            setattr(dataset, keyword, value)
    dataset.PixelData = pixels_HW.tobytes() + b"\0" * (pixels_HW.nbytes % 2)
    return dataset


def slice_of(index: int, pixels_HW: np.ndarray | None = None, **tags: Any) -> FileDataset:
    """An axial CT slice: 4 rows of 3 mm, 5 columns of 2 mm, at z = 2.5 mm times its index; every pixel is its index."""
    pixels_HW = np.full((4, 5), index, np.int16) if pixels_HW is None else pixels_HW
    stored = {
        "Modality": "CT",
        "InstanceNumber": index + 1,
        "ImagePositionPatient": [-10, 20, 2.5 * index],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [3, 2],
        "SliceThickness": 2.5,
    }
    return picture(pixels_HW, **(stored | tags))


def enhanced(pixels_KHW: np.ndarray, positions: list[list[float]], slopes: list[float], **tags: Any) -> FileDataset:
    """An enhanced image with a position and a slope for each frame, the rest shared (PS3.3 C.7.6.16)."""
    dataset = picture(pixels_KHW[0], Modality="MR", NumberOfFrames=len(pixels_KHW), **tags)
    dataset.PixelData = pixels_KHW.tobytes()
    plane, measures = Dataset(), Dataset()
    plane.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing, measures.SliceThickness = [3, 2], 4
    shared = Dataset()
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Sequence([plane]), Sequence([measures])
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for position, slope in zip(positions, slopes, strict=True):
        frame, place, transformation = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = position
        transformation.RescaleSlope, transformation.RescaleIntercept = slope, 0
        frame.PlanePositionSequence = Sequence([place])
        frame.PixelValueTransformationSequence = Sequence([transformation])
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    return dataset


def save(folder: Path, *datasets: Dataset, names: list[str] | None = None) -> Path:
    """Write each data set to a file of its own and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, dataset in enumerate(datasets):
        dataset.save_as(folder / (names[index] if names else f"{index}.dcm"), enforce_file_format=True)
    return folder


def save_compressed(path: Path, dataset: FileDataset, syntax: UID) -> Path:
    """Write a data set with its pixels compressed."""
    dataset.compress(syntax)
    dataset.save_as(path, enforce_file_format=True)
    return path


def jpeg_lossless(pixels_HW: np.ndarray) -> bytes:
    """A lossless JPEG of 16 bits (ITU-T T.81 annex H, predictor 1: the pixel to the left), Huffman codes of 5 bits."""
    height, width = pixels_HW.shape
    values = pixels_HW.astype(np.int64)
    predicted = np.full((height, width), 1 << 15)
    predicted[:, 1:] = values[:, :-1]
    predicted[1:, 0] = values[:-1, 0]
    # differences are taken modulo 2^16; a negative one is stored as its ones' complement
    differences = ((values - predicted + (1 << 15)) % (1 << 16) - (1 << 15)).ravel().tolist()
    bits = ""
    for difference in differences:
        length = abs(difference).bit_length()
        bits += f"{length:05b}"
        if 0 < length < 16:
            bits += f"{difference if difference > 0 else difference + (1 << length) - 1:0{length}b}"
    bits += "1" * (-len(bits) % 8)
    scan = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)).replace(b"\xff", b"\xff\x00")
    frame = b"\xff\xc3\x00\x0b\x10" + height.to_bytes(2) + width.to_bytes(2) + b"\x01\x01\x11\x00"
    table = b"\xff\xc4\x00\x24\x00" + bytes([0, 0, 0, 0, 17] + [0] * 11) + bytes(range(17))
    start = b"\xff\xda\x00\x08\x01\x01\x00\x01\x00\x00"
    return b"\xff\xd8" + frame + table + start + scan + b"\xff\xd9"
