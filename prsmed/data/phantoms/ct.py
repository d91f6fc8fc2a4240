"""A CT slice of the chest: body, ribs, spine, table, heart, lungs with vessels; nodules in the lungs."""

from __future__ import annotations

import numpy as np
import scipy.ndimage as ndi

from prsmed.data.phantoms.lesions import place_in_picture
from prsmed.data.phantoms.shapes import Curve, draw_curves, ellipse, pose, random_size, smooth_noise, to_uint8, tree

AIR_HU, LUNG_HU, FAT_HU, MUSCLE_HU, HEART_HU, BONE_HU = -1000, -860, -95, 50, 45, 420
_BODY_DEPTH = 0.74
"""Half the body from front to back, as a share of half its width."""


def make_ct(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, None]:
    """One windowed slice, uint8 (H, W), and its nodules, bool (H, W)."""
    hw_px = random_size(rng, shortest=0.72, upright=0.05)
    half_width_px = rng.uniform(0.5, 0.62) * min(hw_px[1], 1.3 * hw_px[0])
    v, u = pose(rng, hw_px, half_width_px, (0.05 * hw_px[0], 0.12 * hw_px[1]), tilt=0.1)
    v, u = (axis + rng.uniform(0.005, 0.02) * smooth_noise(rng, hw_px, half_width_px / 2.5) for axis in (v, u))
    hu, lung = _thorax(rng, v, u)

    lesions = place_in_picture(rng, ndi.binary_erosion(lung, iterations=2), (0.038, 0.09))
    mask = np.zeros(hw_px, dtype=bool)
    vessels = _vessels(rng, v, u, half_width_px) * ndi.binary_erosion(lung)
    hu += vessels * rng.uniform(350, 600)
    for lesion in lesions:
        solid_hu = rng.uniform(-350, 40) + 60 * smooth_noise(rng, hw_px, 3)
        hu = np.where(lesion.mask, solid_hu, hu)
        mask |= lesion.mask

    hu = ndi.gaussian_filter(hu, rng.uniform(0.5, 0.75))
    hu += ndi.gaussian_filter(rng.standard_normal(hw_px), 0.6) * rng.uniform(25, 75)
    level_hu, width_hu = rng.choice([-600, -500]), rng.uniform(1300, 1700)
    return to_uint8((hu - level_hu) / width_hu + 0.5), mask, None


def _thorax(rng: np.random.Generator, v: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hounsfield units of the slice without vessels, and where the lungs are."""
    body = ellipse(v, u, (0, 0), (_BODY_DEPTH, 1))
    chest = (np.abs(u / 0.78) ** 2.4 + np.abs((v + 0.02) / 0.56) ** 2.4) ** (1 / 2.4)
    hu = np.where(body < 1, FAT_HU, AIR_HU).astype(float)
    hu[(body < rng.uniform(0.9, 0.96)) | (chest < 1.2)] = MUSCLE_HU
    hu[body > 0.985] += 120 * (body[body > 0.985] < 1)
    hu[(np.abs(v - 0.1 * u**2 - _BODY_DEPTH - 0.05) < 0.018) & (body > 1)] = rng.uniform(-500, -150)

    angle = np.arctan2(v, u)
    gaps = np.sin(angle * rng.integers(9, 13) + rng.uniform(0, 6))
    ribs = (chest > 1.035) & (chest < 1.13) & (gaps > -0.35)
    hu[ribs] = BONE_HU
    hu[ribs & (chest > 1.06) & (chest < 1.105)] = 180
    hu[ellipse(v, u, (-0.6, 0), (0.035, 0.12)) < 1] = 300

    lung = (chest < 1) & ~_mediastinum(rng, v, u)
    hu[chest < 1] = FAT_HU + 90
    hu[lung] = LUNG_HU + rng.uniform(-30, 50) + (60 * v + 22 * smooth_noise(rng, v.shape, 12))[lung]
    _draw_mediastinum(rng, hu, v, u)
    return hu, lung


def _mediastinum(rng: np.random.Generator, v: np.ndarray, u: np.ndarray) -> np.ndarray:
    heart = ellipse(v, u, (0.0, rng.uniform(0.08, 0.18)), (rng.uniform(0.2, 0.32), rng.uniform(0.2, 0.34)), 0.4)
    spine = ellipse(v, u, (0.46, 0), (0.24, 0.2))
    septum = 0.045 + 0.1 * np.exp(-(((v - rng.uniform(-0.25, 0.0)) / 0.2) ** 2)) + 0.02 * smooth_noise(rng, v.shape, 15)
    return (np.abs(u - 0.03) < septum) | (heart < 1) | (spine < 1)


def _draw_mediastinum(rng: np.random.Generator, hu: np.ndarray, v: np.ndarray, u: np.ndarray) -> None:
    """Aorta, airway, vertebra with its canal and processes, in place."""
    hu[ellipse(v, u, (0.02, 0.1), (0.2, 0.2), 0.4) < 1] = HEART_HU + rng.uniform(0, 120)
    hu[ellipse(v, u, (0.26, 0.14), (0.065, 0.065)) < 1] = HEART_HU + rng.uniform(10, 140)
    airway = ellipse(v, u, (-0.12, rng.uniform(-0.04, 0.02)), (0.06, 0.06)) if rng.random() < 0.6 else None
    if airway is not None:
        hu[airway < 1.3] = MUSCLE_HU
        hu[airway < 1] = AIR_HU
    vertebra = ellipse(v, u, (0.42, 0), (0.13, 0.16))
    hu[vertebra < 1] = BONE_HU
    hu[vertebra < 0.82] = 190 + 60 * smooth_noise(rng, v.shape, 3)[vertebra < 0.82]
    process = (np.abs(v - 0.6 - 0.1 * np.abs(u)) < 0.035) & (np.abs(u) < 0.26)
    hu[process | ((np.abs(u) < 0.03) & (v > 0.6) & (v < 0.7))] = BONE_HU
    hu[ellipse(v, u, (0.575, 0), (0.05, 0.06)) < 1] = 30


def _vessels(rng: np.random.Generator, v: np.ndarray, u: np.ndarray, half_width_px: float) -> np.ndarray:
    """Branching vessels that leave the hila, and some cut across as small dots: coverage (H, W) in [0, 1]."""
    curves: list[Curve] = []
    for side in (-1, 1):
        hilum = np.unravel_index(np.argmin(np.hypot(v - 0.05, u - 0.14 * side)), v.shape)
        for heading in rng.uniform(-1.3, 1.3, 4):
            towards = heading if side > 0 else np.pi - heading
            curves += tree(rng, hilum, towards, rng.uniform(0.3, 0.5) * half_width_px, 0.03 * half_width_px)
    dots_yx = rng.uniform(0, 1, (25, 2)) * v.shape
    dots = [(np.stack([at, at + rng.uniform(-1.5, 1.5, 2)]), np.array([rng.uniform(1, 1.8)])) for at in dots_yx]
    return np.maximum(draw_curves(v.shape, curves), 0.7 * draw_curves(v.shape, dots))
