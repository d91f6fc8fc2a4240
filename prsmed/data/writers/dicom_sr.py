"""An answer as a DICOM structured report: TID 1500 "Measurement Report" of PS3.16, in a Comprehensive 3D SR."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
from pydicom.sr.codedict import codes

import prsmed
from prsmed.data.codes import TargetCodes, read_codes
from prsmed.data.readers.dicom_grid import frame_count
from prsmed.data.slicing import volume_frame
from prsmed.data.writers.dicom_seg import build_quietly, coded, save_dicom, source_headers
from prsmed.errors import DataError
from prsmed.geometry import VolumeFrame, lps_ras
from prsmed.types import NOT_A_MEDICAL_DEVICE, Finding, SliceRef, SourceImage

_SERIES_NUMBER = 9002
_ABSENT, _UNDETERMINED = codes.cid240.Absent, hd.sr.CodedConcept("373068000", "SCT", "Undetermined")
# Row 12 of TID 1500: the home of texts and codes that belong to the whole report.
_QUALITATIVE_EVALUATIONS = hd.sr.CodedConcept("C0034375", "UMLS", "Qualitative Evaluations")


def write_dicom_sr(
    path: str | Path,
    image: SourceImage,
    *,
    findings: Sequence[Finding],
    target: str,
    kind: str,
    sentence: str,
    question: str,
    contradictions: Sequence[str],
    warnings: Sequence[str],
    model: Mapping[str, Any],
    states_absence: bool = True,
    side: str | None = None,
    key_slice: SliceRef | None = None,
    volume_ml: float | None = None,
    seg_path: str | Path | None = None,
) -> Path:
    """Write what was found, one measurement group for each finding, and the words as text.

    A group holds the finding's code and site, its area where that is known, and its box: SCOORD on a picture, SCOORD3D
    in the patient for the key slice of a volume. Nothing found is a group that states "Absent", or "Undetermined". The
    report is neither complete nor verified: a person has to do that.

    Args:
        path: the file; its folder is made where missing.
        image: what was asked about, read from DICOM.
        findings: those of the picture, or of the key slice; empty for "not visible".
        target, kind: what was asked for; codes.json says how it is coded.
        sentence: the answer as it is shown.
        contradictions: where words and mask disagree.
        warnings: what else the reader has to know.
        model: its `name` and `version`.
        states_absence: whether nothing found means that nothing is there: not where one slice was looked at, or where
            the model contradicts itself. Then its presence is undetermined.
        side: of the patient, where only one was asked about.
        key_slice: the slice that the findings' boxes are on; without it a volume's findings have no region.
        volume_ml: of the whole mask, where known; it is written with the reference to the SEG.
        seg_path: the SEG of the same answer, if there is one.

    Raises:
        DataError: an image that is not from DICOM, an unreadable SEG, or a folder that cannot be written.
    """
    sources = source_headers(image)
    evidence = list(sources)
    entry = read_codes().of(target, kind)
    common = {
        "finding_type": coded(entry.type),
        "algorithm_id": hd.sr.AlgorithmIdentification(name=str(model["name"]), version=str(model["version"])),
    }
    groups = [
        _finding_group(finding, n, image, sources, entry, key_slice, common) for n, finding in enumerate(findings, 1)
    ]
    if not findings:
        groups = [_absence_group(entry, common, side, _ABSENT if states_absence else _UNDETERMINED)]
    if seg_path is not None:
        segmentation = _read_seg(seg_path)
        evidence.append(segmentation)
        groups.append(_mask_group(segmentation, image, sources[0], entry, volume_ml, common))
    report = hd.sr.MeasurementReport(
        observation_context=_observer(model),
        procedure_reported=codes.SCT.ImagingProcedure,
        imaging_measurements=groups,
    )
    report[0].ContentSequence.append(_texts(sentence, question, contradictions, warnings))
    document = build_quietly(
        hd.sr.Comprehensive3DSR,
        image,
        evidence=evidence,
        content=report,
        series_instance_uid=hd.UID(),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="prsmed",
        series_description="prsmed: answer to a question",
    )
    return save_dicom(document, Path(path))


def _finding_group(
    finding: Finding,
    number: int,
    image: SourceImage,
    sources: Sequence[pydicom.Dataset],
    entry: TargetCodes,
    key_slice: SliceRef | None,
    common: Mapping[str, Any],
) -> Any:
    group = dict(
        common, tracking_identifier=_tracking(f"finding {number}"), finding_sites=_sites(entry, finding.patient_side)
    )
    if finding.area_mm2 is not None:
        group["measurements"] = [hd.sr.Measurement(codes.SCT.Area, finding.area_mm2, codes.UCUM.SquareMillimeter)]
    region = _box_region(finding, image, sources, key_slice)
    if region is None:
        return hd.sr.MeasurementsAndQualitativeEvaluations(**group)
    return hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        referenced_region=region,
        geometric_purpose=codes.SCT.BoundedBy,  # CID 219: the region is the box, the area is the mask's
        **group,
    )


def _absence_group(entry: TargetCodes, common: Mapping[str, Any], side: str | None, presence: Any) -> Any:
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking("not visible"),
        finding_sites=_sites(entry, side),
        qualitative_evaluations=[hd.sr.QualitativeEvaluation(codes.DCM.PresenceOfProperty, presence)],
        **common,
    )


def _mask_group(
    segmentation: hd.seg.Segmentation,
    image: SourceImage,
    source: pydicom.Dataset,
    entry: TargetCodes,
    volume_ml: float | None,
    common: Mapping[str, Any],
) -> Any:
    group = dict(common, tracking_identifier=_tracking("mask"), finding_sites=_sites(entry, None))
    if not image.is_volume:
        frame = hd.sr.ReferencedSegmentationFrame(
            segmentation.SOPClassUID,
            segmentation.SOPInstanceUID,
            frame_number=1,
            segment_number=1,
            source_image=hd.sr.SourceImageForSegmentation(source.SOPClassUID, source.SOPInstanceUID),
        )
        # forbidden beside a frame number (PS3.3 table 10-3), and highdicom asks for both
        del frame[0].ReferencedSOPSequence[0].ReferencedSegmentNumber
        return hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(referenced_segment=frame, **group)
    if volume_ml is not None:
        group["measurements"] = [hd.sr.Measurement(codes.SCT.Volume, volume_ml * 1000, codes.UCUM.CubicMillimeter)]
    segment = hd.sr.ReferencedSegment(
        segmentation.SOPClassUID,
        segmentation.SOPInstanceUID,
        segment_number=1,
        source_series=hd.sr.SourceSeriesForSegmentation(source.SeriesInstanceUID),
    )
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=segment, **group)


def _box_region(
    finding: Finding, image: SourceImage, sources: Sequence[pydicom.Dataset], key_slice: SliceRef | None
) -> hd.sr.ImageRegion | hd.sr.ImageRegion3D | None:
    """The box of a finding as a closed line; in both, the edge of a pixel lies on a whole number (PS3.3 C.18.6.1)."""
    x0, y0, x1, y1 = finding.box_xyxy_px
    corners_xy_px = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)], dtype=float)
    if not image.is_volume:
        if frame_count(sources[0]) > 1:
            return None  # which frame was read is not known here
        source = hd.sr.SourceImageForRegion(sources[0].SOPClassUID, sources[0].SOPInstanceUID)
        return hd.sr.ImageRegion(hd.sr.GraphicTypeValues.POLYLINE, corners_xy_px, source)
    frame_uid = image.series.frame_of_reference_uid if image.series else None
    if key_slice is None or frame_uid is None:
        return None
    corners_lps = lps_ras(_display_to_ras(corners_xy_px, volume_frame(image, key_slice)))
    return hd.sr.ImageRegion3D(hd.sr.GraphicTypeValues3D.POLYGON, corners_lps, frame_uid)


def _display_to_ras(points_xy_px: np.ndarray, frame: VolumeFrame) -> np.ndarray:
    """Points (N, 2) of a displayed slice, in continuous pixels, in the patient: (N, 3) RAS mm."""
    axes = np.ogrid[tuple(slice(side) for side in frame.shape_ijk)]
    first_ijk = [frame.take(np.broadcast_to(axis, frame.shape_ijk))[0, 0] for axis in axes]
    first_ras = (np.asarray(frame.affine_ijk_to_ras) @ [*first_ijk, 1])[:3]
    whole_width, whole_height, _ = np.asarray(frame.patient_axes().steps_ras_mm)
    rows, columns = frame.take(np.broadcast_to(np.zeros(()), frame.shape_ijk)).shape
    from_first = points_xy_px - 0.5  # pixel centres lie at half-integers
    return first_ras + from_first[:, :1] * whole_width / columns + from_first[:, 1:] * whole_height / rows


def _sites(entry: TargetCodes, patient_side: str | None) -> list[hd.sr.FindingSite] | None:
    """Where in the body, with the side that the target has by its name, or else that of the finding or the question."""
    place = entry.region or (entry.type if entry.laterality else None)
    if place is None:
        return None
    laterality = entry.laterality or read_codes().laterality.get(patient_side or "")
    return [hd.sr.FindingSite(coded(place), laterality=coded(laterality) if laterality else None)]


def _tracking(name: str) -> hd.sr.TrackingIdentifier:
    return hd.sr.TrackingIdentifier(uid=hd.UID(), identifier=name)


def _observer(model: Mapping[str, Any]) -> hd.sr.ObservationContext:
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=hd.UID(), name="prsmed", manufacturer_name="prsmed", model_name=f"{model['name']} {model['version']}"
    )
    return hd.sr.ObservationContext(
        observer_device_context=hd.sr.ObserverContext(codes.DCM.Device, observer_identifying_attributes=device)
    )


def _texts(
    sentence: str, question: str, contradictions: Sequence[str], warnings: Sequence[str]
) -> hd.sr.ContainerContentItem:
    comments = [
        f"Question: {question}",
        *(f"Contradiction: {text}" for text in contradictions),
        *(f"Note: {text}" for text in warnings),
        NOT_A_MEDICAL_DEVICE,
        f"Written by prsmed {prsmed.__version__}; not reviewed by a person.",
    ]
    texts = [(codes.DCM.Finding, sentence), *((codes.DCM.Comment, comment) for comment in comments)]
    container = hd.sr.ContainerContentItem(_QUALITATIVE_EVALUATIONS, relationship_type="CONTAINS")
    container.ContentSequence = hd.sr.ContentSequence(
        [hd.sr.TextContentItem(name, text, relationship_type="CONTAINS") for name, text in texts if text]
    )
    return container


def _read_seg(path: str | Path) -> hd.seg.Segmentation:
    try:
        return hd.seg.segread(path)
    # highdicom and pydicom raise many kinds of errors on other and on damaged objects, and may quote a patient's name
    except Exception as error:
        raise DataError(f"{path}: cannot be read as DICOM SEG ({type(error).__name__}); write it again") from error
