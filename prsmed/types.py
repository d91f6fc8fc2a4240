"""The shared vocabulary: shape legend, fixed word lists, and the records that travel between layers.

Shape legend, used as name suffixes: B batch, K objects, C channels, H W rows and columns, T tokens,
N image tokens, V positions of the fusion map, D hidden width. Frames and units, used as name suffixes:
`_px` pixels, `_mm` millimetres, `_norm` 0 to 1, `_ijk` stored array indices, `_ras` patient millimetres with
axes right, anterior, superior. Boxes are half-open `(x0, y0, x1, y1)`: x along columns, y along rows.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

SCHEMA_VERSION = 1

MODALITIES = ("ct", "mri", "x-ray", "ultrasound", "endoscopy", "dermoscopy")
MODALITY_OF_DICOM = {
    "CT": "ct",
    "MR": "mri",
    **dict.fromkeys(("CR", "DX", "MG", "IO", "PX", "RF", "RG", "XA"), "x-ray"),
    **dict.fromkeys(("US", "IVUS"), "ultrasound"),
    "ES": "endoscopy",
    "DMS": "dermoscopy",
}
"""Our modality of a DICOM Modality (0008,0060) (PS3.3 C.7.3.1.1.1); codes that are absent, such as PT, have none."""
TARGET_KINDS = ("lesion", "organ")
SPLITS = ("train", "val", "test")
LATERALITIES = ("left", "right")
QUERY_KINDS = ("position", "naming", "attribute", "location", "choice")
QUERY_LENGTHS = ("short", "long")
SLICE_AXES = ("axial", "coronal", "sagittal")
ZONES = ("top-left", "top-right", "bottom-left", "bottom-right", "center")
EVIDENCE_STATES = ("none", *ZONES, "several")
"""What can be said of one kind of target in a picture: that there is none, its zone, or that there are several."""

NOT_A_MEDICAL_DEVICE = "Research software, not a medical device: do not use it for diagnosis or treatment."


@dataclass(frozen=True)
class MaskRef:
    """Where one mask of a target is stored.

    `kind` is the manifest key (`png`, `nifti`, `seg`, `rtstruct`), `path` is relative to the case's root, and
    `selector` is the label value (nifti), the segment number (seg) or the ROI name (rtstruct); None for png.
    """

    kind: str
    path: str
    selector: int | str | None = None


@dataclass(frozen=True)
class Target:
    """What can be asked for in one case. The union of `masks` is the truth; an empty union is a negative."""

    id: str
    name: str
    kind: str
    laterality: str | None = None
    masks: tuple[MaskRef, ...] = ()

    @property
    def side(self) -> str | None:
        """The side of the body it has, as stated, or as its name says: "left kidney"."""
        named = [word for word in self.name.casefold().split() if word in LATERALITIES]
        return self.laterality or (named[0] if named else None)


@dataclass(frozen=True)
class Query:
    """A question that belongs to a case, optionally with its answer and who made and reviewed it."""

    id: str
    target_ids: tuple[str, ...]
    kind: str
    question: str
    length: str = "short"
    answer: str | None = None
    made_by: str | None = None
    review: Any = None


@dataclass(frozen=True)
class SliceRef:
    """One slice of a volume: the anatomical axis, and the index along the nearest axis of the stored array."""

    axis: str
    index: int


@dataclass(frozen=True)
class Case:
    """One manifest row: one image, volume or slice, facts only (schema_version 1)."""

    id: str
    image: str
    modality: str | None
    group: str
    split: str | None = None
    root: str = "."
    dataset: str = ""
    dicom_modality: str | None = None
    series_uid: str | None = None
    slice: SliceRef | None = None
    targets: tuple[Target, ...] = ()
    queries: tuple[Query, ...] = ()
    source: dict[str, Any] = field(default_factory=dict)

    def target(self, target_id: str) -> Target:
        """The target with this id; KeyError where the case has none."""
        for target in self.targets:
            if target.id == target_id:
                return target
        raise KeyError(f"case {self.id} has no target {target_id}")


@dataclass(frozen=True)
class SeriesRef:
    """The DICOM series an image was read from, so that results can point back to it.

    Attributes:
        files: the instances, in the order of the volume's slices (one file for a multi-frame or single image).
        frame_of_reference_uid: None for pictures without one.
    """

    study_uid: str
    series_uid: str
    frame_of_reference_uid: str | None
    files: tuple[str, ...]


@dataclass
class SourceImage:
    """One image as its file holds it, before any change of intensity or orientation.

    Attributes:
        array: a picture is (H, W, C) with C 1 or 3, uint8, uint16 or float32; a volume is (I, J, K), stored order.
        affine_ijk_to_ras: (4, 4) float64, or None where the file does not say how the array lies in the patient.
        spacing_mm: size of a voxel along each array axis (rows, columns for a picture), or None where unknown.
        path: where it was read from, for messages.
        dicom_modality: the DICOM (0008,0060) code where the file has one.
        patient_axes: for a picture, the patient directions (one letter of L R A P H F each) towards which columns and
            rows increase, as its file states them (0020,0020); None where it does not, and for volumes.
        view_position: (0018,5101), for example "PA"; None where not stated.
        laterality: "left" or "right" where the file says that it shows one side of a paired body part.
        is_inverted: True for MONOCHROME1: high values are dark. The array is as stored; a preprocessing step inverts.
        series: for DICOM.
        notes: what a reader had to decide or could not know, in plain English, for the answer's warnings.
    """

    array: np.ndarray
    affine_ijk_to_ras: np.ndarray | None = None
    spacing_mm: tuple[float, ...] | None = None
    path: str = ""
    dicom_modality: str | None = None
    patient_axes: tuple[str, str] | None = None
    view_position: str | None = None
    laterality: str | None = None
    is_inverted: bool = False
    series: SeriesRef | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_volume(self) -> bool:
        """True for (I, J, K) volumes; pictures always carry a channel axis and no affine."""
        return self.affine_ijk_to_ras is not None


@dataclass(frozen=True)
class Finding:
    """One connected region of a mask and the slots of its sentence (specs: position conventions).

    Picture words describe the displayed picture. Patient words (`patient_side`, `ap`, `si`) are "unknown" unless
    the file's own geometry states them. `zone_rule` names the rule that chose `zone`.
    """

    zone: str
    zone_rule: str
    picture_side: str
    picture_level: str
    central: bool
    border_ambiguous: bool
    box_xyxy_px: tuple[int, int, int, int]
    centroid_xy_px: tuple[float, float]
    area_px: int
    area_mm2: float | None = None
    box_xyxy_mm: tuple[float, float, float, float] | None = None
    patient_side: str = "unknown"
    ap: str = "unknown"
    si: str = "unknown"
    frame: str = "picture"
    score: float | None = None


@dataclass
class AnswerObject:
    """One thing asked for: its mask on the source picture's grid, its box, whether it is there, where it is.

    `box_xyxy_px` is drawn around the mask; `detected_box_xyxy_px` is what a box decoder said (MediSee), continuous.
    """

    mask: np.ndarray
    box_xyxy_px: tuple[int, int, int, int] | None
    present: bool
    presence_prob: float
    findings: list[Finding]
    detected_box_xyxy_px: tuple[float, float, float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """Everything but the pixels."""
        return {
            "present": self.present,
            "presence_prob": round(self.presence_prob, 4),
            "box_xyxy_px": self.box_xyxy_px,
            "detected_box_xyxy_px": self.detected_box_xyxy_px,
            "area_px": int(self.mask.sum()),
            "findings": [asdict(finding) for finding in self.findings],
        }


_OUTSIDE_JSON = ("objects", "target", "kind")


@dataclass
class Answer:
    """The answer to one question (schema_version 1).

    `model_text` is the language model's own greedy sentence, never rewritten. `rule_text` is made from the mask's
    findings. `text` is the one of the two that is shown, named by `text_source` ("model" or "rule"). `target` and
    `kind` say what the mask is taken for.
    """

    question: str
    model_text: str
    rule_text: str
    text: str
    text_source: str
    objects: list[AnswerObject]
    contradictions: list[str]
    modality: str
    modality_source: str
    timings_s: dict[str, float]
    model: dict[str, Any]
    key_slice: SliceRef | None = None
    volume_statistics: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)
    target: str = ""
    kind: str = "lesion"

    def to_json(self) -> dict[str, Any]:
        """Plain data for answer.json; masks are written beside it as images."""
        record = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in _OUTSIDE_JSON}
        record["key_slice"] = asdict(self.key_slice) if self.key_slice else None
        record["objects"] = [item.to_json() for item in self.objects]
        return {"schema_version": SCHEMA_VERSION, **record, "notice": NOT_A_MEDICAL_DEVICE}
