"""What phantoms are drawn with: coordinate grids, smooth noise, ellipses and branching curves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

_SPLINE_VARIANCE = 151 / 315
"""Integral of the squared cubic B-spline: the variance that one axis leaves of white coefficients."""
_SUPERSAMPLING = 2

Curve = tuple[np.ndarray, np.ndarray]
"""Points (N, 2) as (y, x) in pixels, and the width in pixels of each of the N - 1 segments."""


def grid(shape: Sequence[int]) -> list[np.ndarray]:
    """Pixel centre coordinates (half-integers) along every axis, ready to broadcast, float64."""
    axes = np.meshgrid(*[np.arange(side) + 0.5 for side in shape], indexing="ij", sparse=True)
    return list(axes)


def smooth_noise(rng: np.random.Generator, shape: Sequence[int], scale_px: ArrayLike) -> np.ndarray:
    """A random field of mean 0 and variance about 1 that varies over `scale_px` pixels (a cubic B-spline surface)."""
    scales_px = np.broadcast_to(np.asarray(scale_px, dtype=float), len(shape))
    field = rng.standard_normal([int(np.ceil(side / scale)) + 4 for side, scale in zip(shape, scales_px, strict=True)])
    for side, scale in zip(shape, scales_px, strict=True):
        knot, t = np.divmod(np.arange(side) / scale, 1)
        taps = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
        columns = field.reshape(len(field), -1)
        blended = sum(tap[:, None] / 6 * columns[knot.astype(int) + i] for i, tap in enumerate(taps))
        field = np.moveaxis(blended.reshape(side, *field.shape[1:]), 0, -1)
    return field / _SPLINE_VARIANCE ** (len(shape) / 2)


def ellipse(
    v: np.ndarray, u: np.ndarray, center: tuple[float, float], radii: tuple[float, float], angle_rad: float = 0.0
) -> np.ndarray:
    """Level of an ellipse at (v, u): 0 at its centre, 1 on its edge, growing outwards."""
    dv, du = v - center[0], u - center[1]
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    return np.sqrt(((cos * dv - sin * du) / radii[0]) ** 2 + ((sin * dv + cos * du) / radii[1]) ** 2)


def pose(
    rng: np.random.Generator, hw_px: tuple[int, int], half_width_px: float, shift_px: tuple[float, float], tilt: float
) -> tuple[np.ndarray, np.ndarray]:
    """Body coordinates (v down, u right; 1 is half the body's width) of a body that lies off-centre and tilted."""
    y_px, x_px = grid(hw_px)
    dy = (y_px - hw_px[0] / 2 - rng.uniform(-1, 1) * shift_px[0]) / half_width_px
    dx = (x_px - hw_px[1] / 2 - rng.uniform(-1, 1) * shift_px[1]) / half_width_px
    angle_rad = rng.uniform(-tilt, tilt)
    return np.cos(angle_rad) * dy - np.sin(angle_rad) * dx, np.sin(angle_rad) * dy + np.cos(angle_rad) * dx


def wander(
    rng: np.random.Generator,
    start_yx: ArrayLike,
    heading_rad: float,
    length_px: float,
    width_px: tuple[float, float],
    bend: float = 0.12,
) -> Curve:
    """A curve that leaves `start_yx` towards `heading_rad`, bends at random and tapers from one width to the other."""
    steps = max(4, int(length_px / 6))
    headings = heading_rad + np.cumsum(np.cumsum(rng.normal(0, bend / 5, steps)) + rng.normal(0, bend / 2, steps))
    moves = np.stack([np.sin(headings), np.cos(headings)], axis=1) * (length_px / steps)
    points = np.concatenate([[start_yx], np.asarray(start_yx) + np.cumsum(moves, axis=0)])
    return points, np.linspace(*width_px, steps)


def tree(
    rng: np.random.Generator,
    start_yx: ArrayLike,
    heading_rad: float,
    length_px: float,
    width_px: float,
    generations: int = 3,
) -> list[Curve]:
    """A branching vessel: a curve, and smaller ones that leave it on the way."""
    curve = wander(rng, start_yx, heading_rad, length_px, (width_px, width_px * 0.6))
    curves = [curve]
    if generations > 1:
        for share in rng.uniform(0.3, 1.0, 2):
            joint = curve[0][int(share * (len(curve[0]) - 1))]
            turn = rng.choice([-1, 1]) * rng.uniform(0.3, 0.9)
            curves += tree(rng, joint, heading_rad + turn, length_px * 0.6, width_px * 0.7, generations - 1)
    return curves


def draw_curves(hw_px: tuple[int, int], curves: Iterable[Curve]) -> np.ndarray:
    """How much of each pixel the curves cover, float32 (H, W) in [0, 1]."""
    canvas = Image.new("L", (hw_px[1] * _SUPERSAMPLING, hw_px[0] * _SUPERSAMPLING))
    draw = ImageDraw.Draw(canvas)
    for points, widths_px in curves:
        corners = [(x, y) for y, x in (points * _SUPERSAMPLING).tolist()]
        for begin, end, width_px in zip(corners, corners[1:], widths_px.tolist(), strict=False):
            draw.line([begin, end], fill=255, width=max(1, round(width_px * _SUPERSAMPLING)))
    return np.asarray(canvas.reduce(_SUPERSAMPLING), dtype=np.float32) / 255


def random_size(rng: np.random.Generator, shortest: float, upright: float) -> tuple[int, int]:
    """Height and width, sides from 112 to 192 px.

    Args:
        rng: source of chance.
        shortest: the short side's least share of the long side.
        upright: probability that the height is the long side.
    """
    long_px = int(rng.integers(132, 193))
    short_px = max(112, int(long_px * rng.uniform(shortest, 1.0)))
    return (long_px, short_px) if rng.random() < upright else (short_px, long_px)


def to_uint8(picture: np.ndarray) -> np.ndarray:
    """A float picture in [0, 1] as uint8; what lies outside is clipped."""
    return np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)
