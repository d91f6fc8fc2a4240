"""Where one object of a picture lies relative to others: yes, no, or not clear enough to ask about.

All in the picture as displayed, on boxes and centroids in its pixels. None is the answer between a clear yes and a
clear no: a question is only asked where one object says yes and all the others of its group say no.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prsmed.types import LATERALITIES, Finding

DIRECTIONS = ("left", "right", "above", "below")
QUARTERS = ("upper left", "upper right", "lower left", "lower right")

_LARGER_BY = 1.5
"""How many times as large the largest has to be as the next."""
_BETWEEN_ALONG = (0.2, 0.8)
"""Which part of the line between two centroids is between them."""
_BETWEEN_AWAY = (0.25, 0.5)
"""How far from that line still is between, and from where on it clearly is not; in lengths of the line."""


@dataclass(frozen=True)
class Place:
    """A relation to up to two other objects; `holds` says of a finding yes (True), no (False) or unclear (None).

    Attributes:
        kind: "direction", "between", "size", "quarter" or "patient".
        word: which of its kind: "left", "largest", "upper left", ...
        reference_ids: the targets it speaks of, in the order of the sentence.
    """

    kind: str
    word: str
    reference_ids: tuple[str, ...]
    holds: Callable[[Finding], bool | None]


def beside(word: str, reference_id: str, reference: Finding) -> Place:
    """Wholly on one side of another object: "left", "right", "above" or "below" in the picture.

    No is said of what has its centroid on the other side of the reference's centroid.
    """
    axis = 0 if word in ("left", "right") else 1
    is_lower = word in ("left", "above")
    edge_px = reference.box_xyxy_px[axis if is_lower else axis + 2]
    middle_px = reference.centroid_xy_px[axis]

    def holds(finding: Finding) -> bool | None:
        low_px, high_px = finding.box_xyxy_px[axis], finding.box_xyxy_px[axis + 2]
        if high_px <= edge_px if is_lower else low_px >= edge_px:
            return True
        centroid_px = finding.centroid_xy_px[axis]
        return False if (centroid_px >= middle_px if is_lower else centroid_px <= middle_px) else None

    return Place("direction", word, (reference_id,), holds)


def between(first_id: str, first: Finding, second_id: str, second: Finding) -> Place:
    """Near the middle of the straight line between the centroids of two objects."""
    (x0, y0), (x1, y1) = first.centroid_xy_px, second.centroid_xy_px
    length_px = math.hypot(x1 - x0, y1 - y0)

    def holds(finding: Finding) -> bool | None:
        if length_px == 0:
            return None
        x, y = finding.centroid_xy_px[0] - x0, finding.centroid_xy_px[1] - y0
        along = (x * (x1 - x0) + y * (y1 - y0)) / length_px**2
        away = abs(x * (y1 - y0) - y * (x1 - x0)) / length_px**2
        if _BETWEEN_ALONG[0] <= along <= _BETWEEN_ALONG[1] and away <= _BETWEEN_AWAY[0]:
            return True
        return False if along <= 0 or along >= 1 or away >= _BETWEEN_AWAY[1] else None

    return Place("between", "between", (first_id, second_id), holds)


def largest(areas_px: Sequence[int]) -> Place:
    """The largest of a group of at least two, by a clear margin; `areas_px` are those of the group."""
    limit_px = _LARGER_BY * sorted(areas_px)[-2]
    return Place("size", "largest", (), lambda finding: finding.area_px >= limit_px)


def in_quarter(word: str, image_hw_px: tuple[int, int]) -> Place:
    """Wholly inside one quarter of the picture, "upper left" and so on; no is said of what lies wholly outside."""
    height_px, width_px = image_hw_px
    level, side = word.split()
    low_y_px, high_y_px = (0.0, height_px / 2) if level == "upper" else (height_px / 2, height_px)
    low_x_px, high_x_px = (0.0, width_px / 2) if side == "left" else (width_px / 2, width_px)

    def holds(finding: Finding) -> bool | None:
        x0, y0, x1, y1 = finding.box_xyxy_px
        if low_x_px <= x0 and x1 <= high_x_px and low_y_px <= y0 and y1 <= high_y_px:
            return True
        is_outside = x1 <= low_x_px or x0 >= high_x_px or y1 <= low_y_px or y0 >= high_y_px
        return False if is_outside else None

    return Place("quarter", word, (), holds)


def on_patient_side(word: str) -> Place:
    """On the patient's "left" or "right", where the file itself says how the picture lies in the patient."""

    def holds(finding: Finding) -> bool | None:
        return finding.patient_side == word if finding.patient_side in LATERALITIES else None

    return Place("patient", word, (), holds)


def singles_out(place: Place, target: Finding, others: Sequence[Finding]) -> bool:
    """Whether a relation holds for the target, and clearly for none of the others."""
    return place.holds(target) is True and all(place.holds(other) is False for other in others)
