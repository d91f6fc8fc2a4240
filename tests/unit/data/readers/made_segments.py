"""Small DICOM SEG (by highdicom) and RTSTRUCT (by pydicom, PS3.3 C.8.8.5 and C.8.8.6) files on made images."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage

from tests.unit.data.readers.made_dicom import FRAME_UID, SERIES_UID, picture, slice_of

# Type 2 in every image, so highdicom asks for them.
STUDY = {
    "StudyDate": "20200102",
    "StudyTime": "030405",
    "StudyID": "7",
    "AccessionNumber": "",
    "PatientBirthDate": "",
    "PatientSex": "",
    "ReferringPhysicianName": "",
    "Manufacturer": "maker",
    "PositionReferenceIndicator": "",
}


def ct_slices(count: int = 3, **tags: Any) -> list[Dataset]:
    """Axial CT slices at z = 0, 2.5, 5 mm; voxel centres at x = -10 + 2 i and y = 20 + 3 j (LPS)."""
    return [slice_of(index, **(STUDY | tags)) for index in range(count)]


def save_seg(
    path: Path,
    sources: Sequence[Dataset],
    segments_NRCS: np.ndarray,
    *,
    kind: str = "BINARY",
    omit_empty_frames: bool = True,
) -> Path:
    """A SEG whose frames are those of the sources, in their order; segment 1 is "first", 2 is "second"."""
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Liver,
            algorithm_type="MANUAL",
        )
        for number, label in enumerate(("first", "second")[: segments_NRCS.shape[-1]], 1)
    ]
    with warnings.catch_warnings(action="ignore"):
        segmentation = hd.seg.Segmentation(
            source_images=sources,
            pixel_array=segments_NRCS,
            segmentation_type=kind,
            segment_descriptions=descriptions,
            series_instance_uid=hd.UID(),
            series_number=1,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="maker",
            manufacturer_model_name="model",
            software_versions="1",
            device_serial_number="1",
            omit_empty_frames=omit_empty_frames,
        )
        segmentation.save_as(path)
    return path


def box_contour(x: tuple[float, float], y: tuple[float, float], z: float) -> list[float]:
    """The corners of a rectangle in an axial plane, as Contour Data (LPS mm)."""
    return [x[0], y[0], z, x[1], y[0], z, x[1], y[1], z, x[0], y[1], z]


def save_rtstruct(
    path: Path,
    rois: dict[str, Sequence[Sequence[float]]],
    *,
    contour_type: str = "CLOSED_PLANAR",
    frame_uid: str = FRAME_UID,
    series_uid: str = SERIES_UID,
) -> Path:
    """An RTSTRUCT with these ROIs, numbered from 1, each a list of Contour Data."""
    structures = picture(np.zeros((1, 1), np.uint8), SOPClassUID=RTStructureSetStorage, Modality="RTSTRUCT")
    del structures.PixelData
    structures.StructureSetROISequence, structures.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(rois.items(), 1):
        region, drawn = Dataset(), Dataset()
        region.ROINumber, region.ROIName, region.ReferencedFrameOfReferenceUID = number, name, frame_uid
        drawn.ReferencedROINumber, drawn.ContourSequence = number, [_contour(data, contour_type) for data in contours]
        structures.StructureSetROISequence.append(region)
        structures.ROIContourSequence.append(drawn)
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = series_uid
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = frame_uid, [study]
    structures.ReferencedFrameOfReferenceSequence = [frame]
    structures.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    structures.save_as(path, enforce_file_format=True)
    return path


def _contour(data: Sequence[float], contour_type: str) -> Dataset:
    contour = Dataset()
    contour.ContourGeometricType = contour_type
    contour.NumberOfContourPoints, contour.ContourData = len(data) // 3, list(data)
    return contour
