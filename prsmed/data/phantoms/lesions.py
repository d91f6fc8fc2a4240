"""Lesions of irregular outline: how many there are, where they lie, and the shape of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.ndimage as ndi

from prsmed.data.phantoms.shapes import grid, smooth_noise

COUNT_SHARES = (0.15, 0.65, 0.15, 0.05)
"""Share of pictures with none, one, two and three lesions."""
LEAST_AREA_PX = 48
"""Least area of a lesion in a picture whose long side is 128 px."""
_CENTER_SHARE = 0.24
_MARGIN = 0.04
_ZONE_GAP = 0.03
_ATTEMPTS = 40
_REACH = 2.6
"""Radii around a lesion's centre within which its level is worked out; it is constant beyond."""


@dataclass(frozen=True)
class Lesion:
    """One lesion on its picture's (or volume's) grid.

    Attributes:
        mask: bool, the truth.
        level: float64, near 0 at the centre, 1 on the outline, growing outwards; for shading.
        center: index of the centre along each axis.
        radius: mean radius, in pixels (mm for a volume).
    """

    mask: np.ndarray
    level: np.ndarray
    center: tuple[int, ...]
    radius: float


def draw_count(rng: np.random.Generator) -> int:
    """Number of lesions of one picture."""
    return int(rng.choice(len(COUNT_SHARES), p=COUNT_SHARES))


def place_in_picture(
    rng: np.random.Generator, home_HW: np.ndarray, radius_norm: tuple[float, float], roughness: float = 0.22
) -> list[Lesion]:
    """Lesions of one picture, all zones of the picture about equally likely where `home_HW` allows them.

    Args:
        rng: source of chance.
        home_HW: bool, the tissue that lesions must lie in.
        radius_norm: least and largest mean radius as a share of the long side.
        roughness: how far the outline leaves an ellipse, as a share of the radius.
    """
    long_px = max(home_HW.shape)
    home_HW = home_HW.copy()
    home_HW[[0, 1, -1, -2], :] = False
    home_HW[:, [0, 1, -1, -2]] = False
    count = draw_count(rng)
    crowd = 1 - 0.12 * max(0, count - 1)
    return place_lesions(
        rng,
        home_HW,
        count,
        radius=(radius_norm[0] * long_px, radius_norm[1] * long_px * crowd),
        least_size=LEAST_AREA_PX * (long_px / 128) ** 2,
        roughness=roughness,
        margin=_MARGIN * long_px,
        parts=_zone_masks(home_HW.shape),
        part_shares=(_CENTER_SHARE, *[(1 - _CENTER_SHARE) / 4] * 4),
    )


def place_lesions(
    rng: np.random.Generator,
    home: np.ndarray,
    count: int,
    *,
    radius: tuple[float, float],
    least_size: float,
    margin: float,
    roughness: float = 0.22,
    spacing: Sequence[float] | None = None,
    parts: Sequence[np.ndarray] = (),
    part_shares: Sequence[float] = (),
) -> list[Lesion]:
    """Up to `count` lesions that lie inside `home` and keep `margin` between each other.

    Args:
        rng: source of chance.
        home: bool, any number of axes, the tissue that lesions must lie in.
        count: how many to place; one that finds no room after many tries is left out.
        radius: least and largest mean radius, in the unit of `spacing`.
        least_size: least number of pixels (voxels) of a lesion.
        margin: least distance between two lesions, in the unit of `spacing`.
        roughness: how far the outline leaves an ellipse, as a share of the radius.
        spacing: size of a pixel along each axis; 1 by default.
        parts: bool regions of the grid to choose from, for an even spread.
        part_shares: probability of each region.
    """
    spacing = tuple(spacing or (1.0,) * home.ndim)
    free = home.copy()
    lesions: list[Lesion] = []
    for _ in range(count):
        if lesions:
            free &= ndi.distance_transform_edt(~lesions[-1].mask, sampling=spacing) > margin
        depth = ndi.distance_transform_edt(free, sampling=spacing)
        part = parts[rng.choice(len(parts), p=part_shares)] if parts else np.ones_like(free)
        lesion = _grow_somewhere(rng, free, depth, part, radius, least_size, roughness, spacing)
        if lesion is None:
            break
        lesions.append(lesion)
    return lesions


def _grow_somewhere(
    rng: np.random.Generator,
    free: np.ndarray,
    depth: np.ndarray,
    part: np.ndarray,
    radius: tuple[float, float],
    least_size: float,
    roughness: float,
    spacing: tuple[float, ...],
) -> Lesion | None:
    """One lesion inside `free`: in the wanted part if that works, smaller and anywhere if it does not."""
    size = float(np.exp(rng.uniform(*np.log(radius))))
    for attempt in range(_ATTEMPTS):
        wanted = part if attempt < _ATTEMPTS * 3 // 4 else np.ones_like(part)
        candidates = np.flatnonzero(wanted & (depth > size))
        if candidates.size:
            center = tuple(int(i) for i in np.unravel_index(rng.choice(candidates), free.shape))
            lesion = _grow(rng, free.shape, center, size, roughness, spacing)
            if not (lesion.mask & ~free).any() and lesion.mask.sum() >= least_size:
                return lesion
        size = max(radius[0], size * 0.93)
    return None


def _grow(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    center: tuple[int, ...],
    radius: float,
    roughness: float,
    spacing: tuple[float, ...],
) -> Lesion:
    """An ellipsoid in a random direction whose surface is moved by smooth noise; one piece, without holes."""
    reach = [int(np.ceil(_REACH * radius / step)) for step in spacing]
    window = tuple(slice(max(0, at - far), at + far + 1) for at, far in zip(center, reach, strict=True))
    stretch = np.exp(rng.uniform(-0.28, 0.28, len(shape)))
    axes = np.linalg.qr(rng.standard_normal((len(shape), len(shape))))[0]
    scaled = axes / (radius * stretch / stretch.prod() ** (1 / len(shape)))[:, None]
    indices = np.ogrid[tuple(slice(part.start, min(part.stop, side)) for part, side in zip(window, shape, strict=True))]
    offsets = [(index - at) * step for index, at, step in zip(indices, center, spacing, strict=True)]
    squares = [sum(weight * offset for weight, offset in zip(row, offsets, strict=True)) ** 2 for row in scaled]
    near = np.sqrt(sum(squares))
    bumps = smooth_noise(rng, near.shape, np.maximum(1.0, 0.6 * radius / np.asarray(spacing)))
    near += rng.uniform(0.3, 1.0) * roughness * np.clip(bumps, -2, 2)

    level, mask = np.full(shape, _REACH), np.zeros(shape, dtype=bool)
    level[window] = near
    pieces, _ = ndi.label(level < 1)
    box = ndi.find_objects(pieces)[pieces[center] - 1]
    mask[box] = ndi.binary_fill_holes(pieces[box] == pieces[center])
    level = np.where(mask, np.clip(level, 0, 0.98), np.maximum(level, 1.02))
    return Lesion(mask, level, center, radius)


def _zone_masks(hw_px: tuple[int, ...]) -> list[np.ndarray]:
    """The centre of the picture (a disc of 0.2 of the short side) and its four corners, apart by a gap.

    The gap keeps most lesions off the borders between zones, where the right word would hang on a pixel; a lesion
    that finds no room in its zone may still lie there.
    """
    y_px, x_px = grid(hw_px)
    dy, dx = y_px - hw_px[0] / 2, x_px - hw_px[1] / 2
    reach, gap_px = np.hypot(dy, dx), _ZONE_GAP * min(hw_px)
    corners = [
        (dy * sign_y > gap_px) & (dx * sign_x > gap_px) & (reach > 0.2 * min(hw_px) + gap_px)
        for sign_y in (-1, 1)
        for sign_x in (-1, 1)
    ]
    return [reach < 0.2 * min(hw_px) - gap_px, *corners]
