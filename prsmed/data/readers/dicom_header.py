"""What a DICOM file says about itself before its pixels: enough to list a data set, and no name of a patient."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import pydicom

from prsmed.data.readers.dicom_files import is_dicom
from prsmed.errors import DataError

_TAGS = [
    "Modality",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "PatientID",
    "IssuerOfPatientID",
    "ReferencedSeriesSequence",
    "SegmentSequence",
    "ReferencedFrameOfReferenceSequence",
    "StructureSetROISequence",
]


@dataclass(frozen=True)
class DicomHeader:
    """Facts of one DICOM file.

    Attributes:
        modality: (0008,0060), "" where not stated.
        series_uid: (0020,000E), "" where not stated.
        patient: a pseudonym, "patient-" and 16 hexadecimal digits of a SHA-256 over issuer and Patient ID; of the study
            where the ID is empty, "" where that is empty too. It hides IDs from readers, not from somebody who tries
            out all IDs: keep a manifest as safe as its data.
        source_series: the series that a SEG or an RTSTRUCT was drawn on.
        regions: selector and name of each segment (its number) or region of interest (its name).
    """

    modality: str
    series_uid: str
    patient: str
    source_series: tuple[str, ...] = ()
    regions: tuple[tuple[int | str, str], ...] = ()

    @property
    def is_of_slices(self) -> bool:
        """Whether such files are slices of a volume, so that their folder is the image."""
        return self.modality in ("CT", "MR", "PT", "NM")

    @property
    def mask_kind(self) -> str | None:
        """ "seg" or "rtstruct" for files that hold masks, as in a manifest."""
        return {"SEG": "seg", "RTSTRUCT": "rtstruct"}.get(self.modality)


def read_dicom_header(path: str | Path) -> DicomHeader | None:
    """The facts of a DICOM file, or of the first one below a folder; None where there is none.

    Raises:
        DataError: a damaged header.
    """
    path = Path(path)
    if path.is_dir():
        inside = (read_dicom_header(file) for file in sorted(path.rglob("*")) if file.is_file())
        return next((header for header in inside if header), None)
    if not is_dicom(path):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd values of tags, which reading the image reports
            dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=_TAGS)
            return DicomHeader(
                modality=str(dataset.get("Modality", "")),
                series_uid=str(dataset.get("SeriesInstanceUID", "")),
                patient=_pseudonym(dataset),
                source_series=tuple(sorted(_source_series(dataset))),
                regions=tuple(_regions(dataset)),
            )
    # pydicom raises many kinds of errors on damaged files, some of which quote what they found
    except Exception:
        raise DataError(f"{path}: the DICOM header cannot be parsed; export the file again") from None


def _pseudonym(dataset: pydicom.Dataset) -> str:
    identity = dataset.get("PatientID")
    facts = [dataset.get("IssuerOfPatientID"), identity] if identity else [dataset.get("StudyInstanceUID")]
    if not facts[-1]:
        return ""
    text = "\x1f".join(str(fact or "").strip() for fact in facts)
    return f"patient-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _source_series(dataset: pydicom.Dataset) -> set[str]:
    named = list(dataset.get("ReferencedSeriesSequence") or [])
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or []:
        for study in frame.get("RTReferencedStudySequence") or []:
            named += study.get("RTReferencedSeriesSequence") or []
    return {str(series.SeriesInstanceUID) for series in named if "SeriesInstanceUID" in series}


def _regions(dataset: pydicom.Dataset) -> list[tuple[int | str, str]]:
    segments = [(int(s.SegmentNumber), str(s.get("SegmentLabel", ""))) for s in dataset.get("SegmentSequence") or []]
    regions = [
        (str(r.ROIName), str(r.ROIName)) for r in dataset.get("StructureSetROISequence") or [] if r.get("ROIName")
    ]
    return [*segments, *regions]
