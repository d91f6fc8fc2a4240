"""A colonoscopy picture: mucosa with folds and vessels, lumen, highlights, black frame; polyps as lit domes."""

from __future__ import annotations

import numpy as np
import scipy.ndimage as ndi

from prsmed.data.phantoms.lesions import Lesion, place_in_picture
from prsmed.data.phantoms.shapes import Curve, draw_curves, ellipse, grid, random_size, smooth_noise, to_uint8, tree

_VESSEL_TINT = np.array([0.05, 0.2, 0.16])


def make_endoscopy(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, None]:
    """One picture, uint8 (H, W, 3), and its polyps, bool (H, W)."""
    hw_px = random_size(rng, shortest=0.76, upright=0.08)
    long_px = max(hw_px)
    y_px, x_px = grid(hw_px)
    view = _frame(rng, hw_px)
    lumen_yx = rng.uniform(0.05, 0.95, 2) * hw_px
    lumen = ellipse(y_px, x_px, tuple(lumen_yx), tuple(rng.uniform(0.1, 0.2, 2) * long_px), rng.uniform(0, 3))
    lumen = np.clip(lumen + 0.15 * smooth_noise(rng, hw_px, long_px / 8), 0, None)

    tone = np.array([rng.uniform(0.85, 0.97), rng.uniform(0.46, 0.6), rng.uniform(0.32, 0.46)])
    color = tone + 0.03 * smooth_noise(rng, hw_px, long_px / 6)[..., None]
    color += 0.02 * smooth_noise(rng, hw_px, 4)[..., None]
    color -= _vessels(rng, hw_px)[..., None] * _VESSEL_TINT * rng.uniform(0.4, 1)
    height = _folds(rng, hw_px, lumen, long_px)
    light = _shade(height, rng.uniform(0.5, 0.9)) * (0.25 + 0.75 * np.clip((lumen - 0.7) / 1.3, 0, 1))

    home = ndi.binary_erosion(view, iterations=3) & (lumen > 0.9)
    mask = np.zeros(hw_px, dtype=bool)
    for lesion in place_in_picture(rng, home, (0.055, 0.17), roughness=0.18):
        color, light = _with_polyp(rng, color, light, lesion, lumen_yx)
        mask |= lesion.mask

    center_yx = np.array(hw_px) / 2 + rng.uniform(-0.1, 0.1, 2) * hw_px
    falloff = 1.05 - 0.5 * ellipse(y_px, x_px, tuple(center_yx), (hw_px[0] * 0.75, hw_px[1] * 0.75)) ** 2
    picture = color * (light * np.clip(falloff, 0.3, 1.1))[..., None]
    picture = ndi.gaussian_filter(picture, (0.5, 0.5, 0))
    picture = _with_highlights(rng, picture, light, lumen)
    picture += rng.normal(0, 0.012, picture.shape)
    return to_uint8(picture * ndi.gaussian_filter(view.astype(float), 0.6)[..., None]), mask, None


def _frame(rng: np.random.Generator, hw_px: tuple[int, int]) -> np.ndarray:
    """Where the scope sees: a rounded rectangle, an octagon or a cut circle; black around it."""
    y_px, x_px = grid(hw_px)
    dy, dx = np.abs(y_px / hw_px[0] * 2 - 1), np.abs(x_px / hw_px[1] * 2 - 1)
    inside = (dy < rng.uniform(0.95, 1.0)) & (dx < rng.uniform(0.93, 1.0))
    shape = rng.integers(3)
    if shape == 0:
        return inside & (dy**5 + dx**5 < 1)
    if shape == 1:
        return inside & (dy + dx < rng.uniform(1.55, 1.75))
    return inside & (np.hypot(y_px - hw_px[0] / 2, x_px - hw_px[1] / 2) < 0.56 * max(hw_px))


def _vessels(rng: np.random.Generator, hw_px: tuple[int, int]) -> np.ndarray:
    curves: list[Curve] = []
    for _ in range(rng.integers(3, 9)):
        curves += tree(rng, rng.uniform(0, 1, 2) * hw_px, rng.uniform(0, 6.3), rng.uniform(0.2, 0.4) * max(hw_px), 1.4)
    return ndi.gaussian_filter(draw_curves(hw_px, curves), 0.6)


def _folds(rng: np.random.Generator, hw_px: tuple[int, int], lumen: np.ndarray, long_px: int) -> np.ndarray:
    """Height of the wall in pixels: rings of folds around the lumen over gentle bumps."""
    phase = 2.6 * lumen**0.8 + 0.35 * smooth_noise(rng, hw_px, long_px / 4) + rng.uniform(0, 6)
    rings = np.abs(np.sin(phase)) ** 0.7 * np.clip(0.6 + 0.6 * smooth_noise(rng, hw_px, long_px / 3), 0, 1.3)
    return 0.055 * long_px * rings + 0.02 * long_px * smooth_noise(rng, hw_px, long_px / 7)


def _shade(height: np.ndarray, relief: float) -> np.ndarray:
    """Brightness of a surface lit from the camera and from above left: about 1 where flat."""
    slope_y, slope_x = np.gradient(ndi.gaussian_filter(height, 1.0))
    facing = 1 / np.sqrt(1 + relief * (slope_y**2 + slope_x**2))
    return np.clip(facing * (1 - 0.22 * relief * (slope_y + slope_x)), 0.25, 1.35)


def _with_polyp(
    rng: np.random.Generator, color: np.ndarray, light: np.ndarray, lesion: Lesion, lumen_yx: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Colour and light of the wall with one polyp on it: dome, shadow on the far side, own tint and texture."""
    mask, level = lesion.mask, lesion.level
    tint = np.array([rng.uniform(-0.05, 0.04), rng.uniform(-0.17, -0.08), rng.uniform(-0.1, -0.02)])
    if rng.random() < 0.3:
        tint = np.array([0.06, rng.uniform(0.12, 0.18), rng.uniform(0.1, 0.16)])
    pits = 0.035 * smooth_noise(rng, mask.shape, 2.5)[..., None]
    color = np.where(mask[..., None], np.median(color, axis=(0, 1)) + tint + pits, color)
    dome = np.sqrt(np.clip(1 - np.clip(level, 0, 1) ** 2, 0, 1))
    slope_y, slope_x = np.gradient(ndi.gaussian_filter(dome, 1.0) * lesion.radius)
    away = np.array(lesion.center) - lumen_yx
    away = away / (np.linalg.norm(away) + 1e-6)
    lit = 0.5 + 0.62 * dome + 0.14 * (slope_y * away[0] + slope_x * away[1])
    y_px, x_px = grid(mask.shape)
    side = ((y_px - lesion.center[0]) * away[0] + (x_px - lesion.center[1]) * away[1]) / lesion.radius
    rim = np.exp(-(((level - 1) / 0.16) ** 2)) * (0.14 + 0.36 * np.clip(-side, 0, 1)) * rng.uniform(0.7, 1.2)
    return color, np.where(mask, lit * np.clip(light[lesion.center], 0.75, 1.1), light * (1 - rim))


def _with_highlights(rng: np.random.Generator, picture: np.ndarray, light: np.ndarray, lumen: np.ndarray) -> np.ndarray:
    """Wet surfaces mirror the lamp where they face it: small white spots, and a few bubbles."""
    hw_px = light.shape
    wet = smooth_noise(rng, hw_px, 3.5) + 1.2 * (light - 1) + 0.6 * smooth_noise(rng, hw_px, max(hw_px) / 6)
    spots = ndi.gaussian_filter((wet > np.quantile(wet, 0.985)) & (lumen > 1.2), 0.6, output=float)
    y_px, x_px = grid(hw_px)
    for _ in range(rng.integers(0, 4)):
        radius_px = rng.uniform(1.5, 3.5)
        ring = np.hypot(y_px - rng.uniform(0, hw_px[0]), x_px - rng.uniform(0, hw_px[1])) - radius_px
        spots = np.maximum(spots, 0.45 * np.exp(-(ring**2)))
    return picture + np.clip(spots, 0, 1)[..., None] * (np.array([1.0, 0.98, 0.93]) - picture)
