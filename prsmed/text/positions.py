"""Named zone rules: which words say where a box or a mask lies in its picture.

Everything is evaluated on the unpadded picture, in continuous pixels of half-open boxes. A point that lies exactly on
a dividing line counts as right, or bottom; every such finding is border ambiguous. Where pixels are not square (coronal
and sagittal slices), `aspect` says so, and distances are those of the picture as people look at it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prsmed.errors import DataError, RequestError
from prsmed.geometry import box_center_px
from prsmed.types import ZONES

QUADRANTS = ZONES[:4]
BORDER_SHIFT = 0.02


@dataclass(frozen=True)
class ZoneRule:
    """One way to name a position.

    Attributes:
        name: how configurations ask for it.
        version: grows whenever the same mask could get another zone, so that stored labels stay comparable.
        zones: the words it can give; the rules that lack "center" state centrality beside the quadrant instead.
        center_radius: what counts as central, in the unit below.
        radius_unit: "short_side" (share of min(H, W)) or "px".
        by_mask: the quadrant is the one with most of the mask, and the mask's centroid decides about the center;
            otherwise both are decided by the centre of the box.
    """

    name: str
    version: int
    zones: tuple[str, ...]
    center_radius: float
    radius_unit: str
    by_mask: bool

    @property
    def id(self) -> str:
        """Name and version, as records store it: "posmed-2"."""
        return f"{self.name}-{self.version}"

    def center_radius_px(self, image_hw_px: tuple[float, float]) -> float:
        """Radius of the central disc in a picture of this size, with square pixels."""
        return self.center_radius * (min(image_hw_px) if self.radius_unit == "short_side" else 1)


# posmed: the project page's five zones; its released code takes 0.2 of the width, which is wrong on non-square images.
# Version 1 took every pixel for square.
# mmrs: paper A.6, four quadrants with "near the center" (20 units from the centroid) as an addition.
ZONE_RULES: dict[str, ZoneRule] = {
    "posmed": ZoneRule("posmed", 2, ZONES, 0.2, "short_side", by_mask=False),
    "mmrs": ZoneRule("mmrs", 1, QUADRANTS, 20.0, "px", by_mask=True),
}


def get_rule(rule: str) -> ZoneRule:
    """The rule with this name ("posmed") or stored id ("posmed-2"); RequestError where there is none."""
    for known in ZONE_RULES.values():
        if rule in (known.name, known.id):
            return known
    raise RequestError(f"zone rule {rule!r} is unknown; choose one of {', '.join(ZONE_RULES)}")


def zone_of(
    box_xyxy_px: Sequence[float],
    image_hw_px: tuple[int, int],
    *,
    rule: str = "posmed",
    mask: np.ndarray | None = None,
    aspect: float = 1.0,
) -> str:
    """The zone of a box in its picture.

    Args:
        box_xyxy_px: half-open box in pixels of the unpadded picture.
        image_hw_px: rows and columns of that picture.
        rule: name of a zone rule.
        mask: bool (H, W), the finding's own pixels. Only "mmrs" looks at it; without it the filled box stands in.
        aspect: height of a pixel in widths. "mmrs" counts in pixels and does not look at it.

    Raises:
        RequestError: the rule is unknown.
        DataError: the mask has another size than the picture.
    """
    return _zone(get_rule(rule), box_xyxy_px, image_hw_px, mask, (0.0, 0.0), aspect)


def is_central(
    box_xyxy_px: Sequence[float],
    image_hw_px: tuple[int, int],
    *,
    rule: str = "posmed",
    mask: np.ndarray | None = None,
    aspect: float = 1.0,
) -> bool:
    """Whether a box lies within the rule's radius of the picture's centre; arguments and errors as in `zone_of`."""
    return _is_central(get_rule(rule), box_xyxy_px, image_hw_px, mask, (0.0, 0.0), aspect)


def border_ambiguous(
    box_xyxy_px: Sequence[float],
    image_hw_px: tuple[int, int],
    rule: str = "posmed",
    *,
    mask: np.ndarray | None = None,
    aspect: float = 1.0,
) -> bool:
    """Whether the zone changes when the finding moves by 2 % of min(H, W) in one of eight directions.

    Arguments and errors as in `zone_of`.
    """
    zone_rule = get_rule(rule)
    height, width = image_hw_px
    step = BORDER_SHIFT * min(height * aspect, width)  # in widths of a pixel
    zone = _zone(zone_rule, box_xyxy_px, image_hw_px, mask, (0.0, 0.0), aspect)
    for eighth in range(8):
        angle = eighth * math.pi / 4
        shift_xy_px = (step * math.cos(angle), step * math.sin(angle) / aspect)
        if _zone(zone_rule, box_xyxy_px, image_hw_px, mask, shift_xy_px, aspect) != zone:
            return True
    return False


def side_and_level(x_px: float, y_px: float, image_hw_px: tuple[int, int]) -> tuple[str, str]:
    """("left" or "right", "top" or "bottom") of a point in the picture."""
    height, width = image_hw_px
    return "left" if x_px < width / 2 else "right", "top" if y_px < height / 2 else "bottom"


def _zone(
    rule: ZoneRule,
    box_xyxy_px: Sequence[float],
    image_hw_px: tuple[int, int],
    mask: np.ndarray | None,
    shift_xy_px: tuple[float, float],
    aspect: float,
) -> str:
    if mask is not None and mask.shape != tuple(image_hw_px):
        raise DataError(
            f"mask is {mask.shape}, its picture is {tuple(image_hw_px)}; bring the mask to the picture's grid"
        )
    if "center" in rule.zones and _is_central(rule, box_xyxy_px, image_hw_px, mask, shift_xy_px, aspect):
        return "center"
    if rule.by_mask and mask is not None:
        return _largest_quadrant(mask, shift_xy_px)
    x_px, y_px = box_center_px(box_xyxy_px)
    side, level = side_and_level(x_px + shift_xy_px[0], y_px + shift_xy_px[1], image_hw_px)
    return f"{level}-{side}"


def _is_central(
    rule: ZoneRule,
    box_xyxy_px: Sequence[float],
    image_hw_px: tuple[int, int],
    mask: np.ndarray | None,
    shift_xy_px: tuple[float, float],
    aspect: float,
) -> bool:
    x_px, y_px = box_center_px(box_xyxy_px)
    if rule.by_mask and mask is not None:
        rows, columns = np.nonzero(mask)
        x_px, y_px = float(columns.mean()) + 0.5, float(rows.mean()) + 0.5
    height, width = image_hw_px
    row = 1.0 if rule.radius_unit == "px" else aspect
    distance_px = math.hypot(x_px + shift_xy_px[0] - width / 2, row * (y_px + shift_xy_px[1] - height / 2))
    return distance_px < rule.center_radius_px((row * height, width))


def _largest_quadrant(mask_HW: np.ndarray, shift_xy_px: tuple[float, float]) -> str:
    """The quadrant with most of the shifted mask; a pixel cut by a dividing line counts in parts on both sides."""
    height, width = mask_HW.shape
    top_H = np.clip(height / 2 - shift_xy_px[1] - np.arange(height), 0, 1)
    left_W = np.clip(width / 2 - shift_xy_px[0] - np.arange(width), 0, 1)
    columns_2 = np.stack([mask_HW @ left_W, mask_HW @ (1 - left_W)], axis=1)
    areas_px = np.stack([top_H @ columns_2, (1 - top_H) @ columns_2])
    return QUADRANTS[int(areas_px.argmax())]
