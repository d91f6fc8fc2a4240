"""Where cases come from: each source lists what it has, as facts, and opens no more than a DICOM file's header."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from prsmed.data.containment import file_inside
from prsmed.data.manifest import Refusal
from prsmed.data.readers import image_suffix
from prsmed.data.readers.dicom_files import DICOM_SUFFIXES
from prsmed.data.readers.dicom_header import DicomHeader, read_dicom_header
from prsmed.data.readers.picture import PICTURE_SUFFIXES
from prsmed.errors import DataError
from prsmed.types import Case, MaskRef

MAYBE_DICOM = (None, *DICOM_SUFFIXES)
"""What a DICOM file's name ends with: often nothing."""


@dataclass(frozen=True)
class Defaults:
    """What holds for a source where its rows say nothing.

    Attributes:
        name: the source's own name: the data set, and the prefix of its ids and groups, so that two sources with
            equal file names stay apart.
        root: the root its paths are relative to.
        modality: the model's word, or None where it is not known.
        target: the name of what is asked for, or None.
        kind: "lesion" or "organ".
    """

    name: str
    root: str
    modality: str | None = None
    target: str | None = None
    kind: str = "lesion"


@dataclass(frozen=True)
class Found:
    """One case as its source states it.

    Attributes:
        rows: the line of each target, None where there are no lines.
        check_mask: what the source demands of a mask file beyond what its reader does; it raises DataError.
    """

    case: Case
    rows: tuple[int | None, ...]
    check_mask: Callable[[Path], None] | None = None


@dataclass
class Listing:
    """What a source holds, and what it had to leave out."""

    found: list[Found] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)


def dicom_header(folder: Path, path: str) -> DicomHeader | None:
    """The header of a DICOM file or folder that lies inside `folder`; None for other formats, which stay closed.

    None also where nothing is there: that is refused when the image or mask is opened.

    Raises:
        DataError: the path leaves the folder, or a damaged header.
    """
    if image_suffix(path) not in MAYBE_DICOM or not (folder / path).exists():
        return None
    return read_dicom_header(file_inside(folder, path, path))


def mask_ref(folder: Path, path: str, region: str = "") -> MaskRef:
    """The reference to a mask file, by its format.

    Args:
        path: relative to `folder`.
        region: which part of the file: a label (volumes), a segment's number (SEG), a region's name (RTSTRUCT); ""
            for the only one. A volume's only label is found when it is opened: its selector is None until then.

    Raises:
        DataError: a format that holds no mask, or a region that the file does not have or that was not chosen.
    """
    header = dicom_header(folder, path)
    if header is not None and header.mask_kind:
        return MaskRef(header.mask_kind, path, _choose_region(path, header, region))
    suffix = image_suffix(path)
    if suffix in MAYBE_DICOM and not (folder / path).exists():
        raise DataError(f"{path}: there is no file {folder / path}; restore it or drop the entry")
    if suffix in MAYBE_DICOM:
        raise DataError(f"{path}: masks of this format are not read; convert the mask to PNG, NIfTI or DICOM SEG")
    if suffix not in PICTURE_SUFFIXES:
        if region and (not region.isdecimal() or int(region) < 1):
            raise DataError(f"{path}: label is {region!r}; write a whole number from 1, or nothing")
        return MaskRef("nifti", path, int(region) if region else None)
    if region:
        raise DataError(f"{path}: a picture mask is binary, label {region} cannot be chosen; clear the label")
    return MaskRef("png", path)


def _choose_region(path: str, header: DicomHeader, region: str) -> int | str:
    fitting = [selector for selector, _ in header.regions if not region or str(selector) == region]
    if len(fitting) != 1:
        there_are = ", ".join(f"{selector} ({name})" for selector, name in header.regions) or "none"
        wanted = f"no single region {region!r}" if region else "not one region"
        raise DataError(f"{path}: holds {wanted} but {there_are}; say which is meant in a table, with --label-column")
    return fitting[0]
