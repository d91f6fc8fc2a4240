"""From a mask to its findings: the connected regions and the slots of their sentences."""

from __future__ import annotations

import numpy as np
from skimage import measure

from prsmed.errors import DataError
from prsmed.geometry import PatientAxes, box_center_px, mask_to_box
from prsmed.text.patient import patient_slots
from prsmed.text.positions import border_ambiguous, get_rule, is_central, side_and_level, zone_of
from prsmed.types import Finding


def find(
    mask_HW: np.ndarray,
    *,
    zone_rule: str = "posmed",
    per_component: bool = True,
    min_area_px: int | None = None,
    spacing_hw_mm: tuple[float, float] | None = None,
    prob_HW: np.ndarray | None = None,
    patient_axes: PatientAxes | None = None,
) -> list[Finding]:
    """The findings of a mask, largest first; an empty mask has none, so it has no position and no box.

    Components are 8-connected. Those below the minimum area are dropped, but the largest is always kept: a truth that
    is not empty never turns into a negative.

    Args:
        mask_HW: bool, on the unpadded picture whose sides the words are about.
        zone_rule: name of a zone rule (`prsmed.text.positions.ZONE_RULES`).
        per_component: False gives one finding for all components that were kept (two lungs are one answer).
        min_area_px: smallest component in pixels; by default `default_min_area_px`.
        spacing_hw_mm: size of a pixel, rows then columns; without it pixels are square, and nothing is given in mm.
        prob_HW: float, the same grid; a finding's score is its mean over the finding's pixels.
        patient_axes: how the picture lies in the patient; without it every patient word is "unknown".

    Raises:
        DataError: the mask is not a bool picture, or the probabilities lie on another grid.
        RequestError: the zone rule is unknown.
    """
    if mask_HW.ndim != 2 or mask_HW.dtype != np.bool_:
        raise DataError(f"mask is {mask_HW.dtype} {mask_HW.shape}; expected bool (H, W): threshold it first")
    if prob_HW is not None and prob_HW.shape != mask_HW.shape:
        raise DataError(f"probabilities are {prob_HW.shape}, the mask is {mask_HW.shape}; bring them to one grid")
    rule_id = get_rule(zone_rule).id
    if min_area_px is None:
        min_area_px = default_min_area_px(mask_HW.shape)
    labels_HW, kept = components(mask_HW, min_area_px)
    if kept and not per_component:
        return [_finding(np.isin(labels_HW, kept), rule_id, spacing_hw_mm, prob_HW, patient_axes)]
    return [_finding(labels_HW == label, rule_id, spacing_hw_mm, prob_HW, patient_axes) for label in kept]


def default_min_area_px(image_hw_px: tuple[int, ...]) -> int:
    """Smallest component that counts in a picture of this size: 8 px, or 0.01 % of the picture if that is more."""
    return max(8, round(1e-4 * image_hw_px[0] * image_hw_px[1]))


def components(mask_HW: np.ndarray, min_area_px: int) -> tuple[np.ndarray, list[int]]:
    """Every pixel's component, and the components that count: largest first, equal ones in reading order."""
    labels_HW = np.zeros(mask_HW.shape, dtype=np.int32)
    window = _window(mask_HW)
    labels_HW[window] = measure.label(mask_HW[window], connectivity=2)
    areas_px = np.bincount(labels_HW[window].ravel(), minlength=1)
    largest_first = (np.argsort(-areas_px[1:], kind="stable") + 1).tolist()
    return labels_HW, [label for label in largest_first if areas_px[label] >= min_area_px] or largest_first[:1]


def _window(mask_HW: np.ndarray) -> tuple[slice, slice]:
    """The rows and columns of a mask's box: most of a picture is outside, and looking at it again and again costs."""
    x0, y0, x1, y1 = mask_to_box(mask_HW) or (0, 0, 0, 0)
    return slice(y0, y1), slice(x0, x1)


def _finding(
    region_HW: np.ndarray,
    rule_id: str,
    spacing_hw_mm: tuple[float, float] | None,
    prob_HW: np.ndarray | None,
    patient_axes: PatientAxes | None,
) -> Finding:
    hw_px = region_HW.shape
    box = mask_to_box(region_HW)
    assert box is not None, "a component has at least one pixel"
    x0, y0, x1, y1 = box
    rows, columns = np.nonzero(region_HW[y0:y1, x0:x1])
    side, level = side_and_level(*box_center_px(box), hw_px)
    aspect = spacing_hw_mm[0] / spacing_hw_mm[1] if spacing_hw_mm else 1.0
    area_mm2 = box_mm = None
    if spacing_hw_mm is not None:
        row_mm, column_mm = spacing_hw_mm
        area_mm2 = float(rows.size * row_mm * column_mm)
        box_mm = (box[0] * column_mm, box[1] * row_mm, box[2] * column_mm, box[3] * row_mm)
    return Finding(
        zone=zone_of(box, hw_px, rule=rule_id, mask=region_HW, aspect=aspect),
        zone_rule=rule_id,
        picture_side=side,
        picture_level=level,
        central=is_central(box, hw_px, rule=rule_id, mask=region_HW, aspect=aspect),
        border_ambiguous=border_ambiguous(box, hw_px, rule_id, mask=region_HW, aspect=aspect),
        box_xyxy_px=box,
        centroid_xy_px=(float((columns + x0).mean()) + 0.5, float((rows + y0).mean()) + 0.5),
        area_px=int(rows.size),
        area_mm2=area_mm2,
        box_xyxy_mm=box_mm,
        **patient_slots(patient_axes, box, hw_px),
        score=None if prob_HW is None else float(prob_HW[region_HW].mean()),
    )
