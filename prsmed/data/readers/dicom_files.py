"""DICOM files: which of a folder's files belong to the image asked for. Headers only, without the patient's module."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID

from prsmed.data.readers.files import require_file
from prsmed.errors import DataError

DICOM_SUFFIXES = (".dcm",)

# Only these are parsed: names and numbers of patients never enter the memory, so no message can repeat them.
_HEADER_TAGS = [
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "ImageLaterality",
    "Laterality",
    "ViewPosition",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "InstanceNumber",
    "PatientOrientation",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "PixelSpacingCalibrationType",
    "ImagerPixelSpacing",
    "SliceThickness",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "RescaleSlope",
    "RescaleIntercept",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]
_RESULTS = ("SEG", "RTDOSE")  # they have pixels, but are made from an image; other results have no rows
_SERIES_NAMED_AT_MOST = 10


def is_dicom(path: str | Path) -> bool:
    """Whether a file begins like DICOM: `DICM` behind the preamble (PS3.10 7.1), or a bare data set's group 0008."""
    try:
        with Path(path).open("rb") as stream:
            start = stream.read(132)
    except OSError:
        return False
    return start[128:] == b"DICM" or (start[:2] == b"\x08\x00" and len(start) == 132)


def find_series(path: Path, series_uid: str | None) -> tuple[list[Dataset], list[str]]:
    """The headers of one series' images, and notes on what was set aside.

    Args:
        path: a file, or a folder that is searched with its subfolders.
        series_uid: which series is meant where there are several.

    Raises:
        DataError: no DICOM image, a damaged header, several series, or not the one asked for.
    """
    headers, notes = _read_headers(path)
    images = [header for header in headers if _is_image(header)]
    others = ", ".join(sorted({str(header.get("Modality", "unknown")) for header in headers if not _is_image(header)}))
    if not images:
        found = f"DICOM objects of the kind {others}" if others else "no DICOM file"
        raise DataError(f"{path}: holds {found}, expected an image; name the file or folder of the image series")
    if others:
        notes.append(f"{len(headers) - len(images)} DICOM objects that are no images ({others}) were ignored")
    chosen = _choose(images, series_uid, path)
    once = list({_identity(header): header for header in chosen}.values())
    if len(once) < len(chosen):
        notes.append(f"{len(chosen) - len(once)} further copies of instances of the series were ignored")
    slices = [header for header in once if not is_localizer(header)]
    if slices and len(slices) < len(once):
        notes.append(f"{len(once) - len(slices)} localizers in the series were ignored")
    return slices or once, notes


def is_localizer(header: Dataset) -> bool:
    """Whether Image Type (0008,0008) value 3 calls it a localizer (PS3.3 C.8.2.1.1.1 for CT, C.8.3.1.1.1 for MR)."""
    return "LOCALIZER" in (header.get("ImageType") or ())


def instance_name(header: Dataset) -> str:
    """How messages call one file of a series: not by its file name, which may hold a patient's name."""
    number = header.get("InstanceNumber")
    return f"instance {number}" if number is not None else f"instance {header.get('SOPInstanceUID', 'without number')}"


def _read_headers(path: Path) -> tuple[list[Dataset], list[str]]:
    if not path.is_dir():
        require_file(path)
        if not is_dicom(path):
            raise DataError(f"{path}: is not a DICOM file (no DICM after the preamble); export it again as DICOM")
        return _parse([path], path), []
    files = sorted(file for file in path.rglob("*") if file.is_file())
    begins = {file: is_dicom(file) for file in files}
    ours, others = [[file for file in files if begins[file] is wanted] for wanted in (True, False)]
    unnamed = sum(map(_has_no_suffix, ours)) > len(ours) / 2
    headers = _parse(ours, path, cut_off=sum(_is_cut_off(file, unnamed=unnamed) for file in others))
    return headers, [f"{len(others)} files in the folder that are not DICOM were ignored"] if others else []


def _has_no_suffix(file: Path) -> bool:
    """Also where the name ends with a UID."""
    return not file.suffix or file.suffix[1:].isdecimal()


def _is_cut_off(file: Path, *, unnamed: bool) -> bool:
    """Whether a file that does not begin like DICOM should: by its name, or as an empty one among DICOM without suffix.

    Hidden files are none of the series: macOS puts one beside each file that it copies.
    """
    if file.name.startswith("."):
        return False
    if file.suffix.lower() in DICOM_SUFFIXES:
        return True
    try:
        return unnamed and _has_no_suffix(file) and file.stat().st_size == 0
    except OSError:
        return True


def _parse(files: list[Path], path: Path, *, cut_off: int = 0) -> list[Dataset]:
    headers: list[Dataset] = []
    damaged = cut_off
    for file in files:
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=_HEADER_TAGS)
            header.walk(lambda _, element: None)  # decodes every value now, where damage is expected
            headers.append(header)
            damaged += _lost_its_end(header)
        # pydicom raises many kinds of errors on damaged files, some of which quote what they found
        except Exception:
            damaged += 1
    if damaged:
        raise DataError(
            f"{path}: the headers of {damaged} of {len(files) + cut_off} DICOM files are truncated or damaged; export"
            " them again"
        )
    return headers


def _choose(images: list[Dataset], series_uid: str | None, path: Path) -> list[Dataset]:
    counts = Counter(_series_of(header) for header in images)
    chosen = [header for header in images if series_uid in (None, _series_of(header))]
    if chosen and (series_uid is not None or len(counts) == 1):
        return chosen
    modalities = {_series_of(header): str(header.get("Modality", "unknown")) for header in images}
    listed = [f"{modalities[uid]} with {count} instances: {uid}" for uid, count in counts.most_common()]
    rest = f", and {len(listed) - _SERIES_NAMED_AT_MOST} more" if len(listed) > _SERIES_NAMED_AT_MOST else ""
    series = ", ".join(listed[:_SERIES_NAMED_AT_MOST]) + rest
    wanted = "expected one" if series_uid is None else f"series_uid {series_uid} is not among them"
    raise DataError(
        f"{path}: holds {len(counts)} series ({series}), {wanted}; choose one by its UID (series, or series_uid)"
    )


def _is_image(header: Dataset) -> bool:
    return "Rows" in header and header.get("Modality") not in _RESULTS


def _lost_its_end(header: Dataset) -> bool:
    """Whether an image's header stops before its rows: pydicom parses truncated headers without a word."""
    meta = getattr(header, "file_meta", None) or Dataset()
    kind = UID(meta.get("MediaStorageSOPClassUID") or header.get("SOPClassUID") or "")
    return "Rows" not in header and "Image Storage" in kind.name


def _identity(header: Dataset) -> tuple[str, ...]:
    """What two copies of an instance share; its file where it has no UID of its own, as anonymisers leave it."""
    uid = str(header.get("SOPInstanceUID") or header.filename)
    # some give all instances one UID
    return uid, *(str(header.get(keyword)) for keyword in ("InstanceNumber", "ImagePositionPatient"))


def _series_of(header: Dataset) -> str:
    return str(header.get("SeriesInstanceUID") or "unknown")
