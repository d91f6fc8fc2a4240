"""A frontal chest X-ray: a projection of soft tissue, ribs, spine, heart and diaphragm; opacities in the lungs."""

from __future__ import annotations

import numpy as np
import scipy.ndimage as ndi
from PIL import Image, ImageDraw

from prsmed.data.phantoms.lesions import place_in_picture
from prsmed.data.phantoms.shapes import Curve, draw_curves, ellipse, pose, random_size, smooth_noise, to_uint8, tree


def make_xray(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One radiograph, uint8 (H, W), its opacities and both lungs, bool (H, W)."""
    hw_px = random_size(rng, shortest=0.76, upright=0.5)
    half_width_px = rng.uniform(0.96, 1.14) * min(hw_px[1], hw_px[0]) / 2
    v, u = pose(rng, hw_px, half_width_px, (0.05 * hw_px[0], 0.1 * hw_px[1]), tilt=0.07)
    v, u = (axis + 0.012 * smooth_noise(rng, hw_px, half_width_px / 2) for axis in (v, u))
    lungs = _lungs(rng, v, u)
    density = _thorax(rng, v, u, lungs)

    mask = np.zeros(hw_px, dtype=bool)
    opacity = np.zeros(hw_px)
    for lesion in place_in_picture(rng, ndi.binary_erosion(lungs, iterations=2), (0.042, 0.12), roughness=0.28):
        texture = 1 + 0.12 * smooth_noise(rng, hw_px, 5)
        dome = np.clip(1.15 - 0.35 * lesion.level**2, 0, None)
        opacity += lesion.mask * dome * texture * rng.uniform(0.24, 0.42)
        mask |= lesion.mask
    density += ndi.gaussian_filter(opacity, rng.uniform(0.7, 1.2))

    density += ndi.gaussian_filter(rng.standard_normal(hw_px), 0.5) * rng.uniform(0.015, 0.03)
    low, high = np.quantile(density, [0.01, 0.99])
    picture = np.clip((density - low) / (high - low), 0, 1) ** rng.uniform(0.85, 1.15)
    return to_uint8(_with_marker(rng, picture)), mask, lungs


def _lungs(rng: np.random.Generator, v: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Both lung fields: narrow above, cut by the domes of the diaphragm below and by heart and mediastinum between."""
    base, bulge = rng.uniform(0.56, 0.7), rng.uniform(0.12, 0.22)
    between = 0.13 + 0.04 * np.exp(-(((v + 0.02) / 0.12) ** 2)) + 0.03 * np.exp(-(((v + 0.32) / 0.1) ** 2)) * (u > 0)
    lungs, beside_heart = np.zeros(v.shape, dtype=bool), _heart(v, u) > 1
    for side in (-1, 1):
        middle = 0.39 + 0.06 * np.clip(v, -1, 1)
        half_width = 0.33 + 0.06 * np.clip(v, -1, 1)
        field = np.abs((u * side - middle) / half_width) ** 2.4 + np.abs(np.minimum(v + 0.1, 0) / 0.76) ** 2.4 < 1
        across = (u * side - 0.36) / 0.42
        dome = base + 0.05 * (side > 0) + bulge * (1.6 * across**2 - 1)
        pieces, _ = ndi.label(field & (v < dome) & (u * side > between) & beside_heart)
        lungs |= pieces == np.argmax(np.bincount(pieces.ravel())[1:]) + 1
    return lungs


def _heart(v: np.ndarray, u: np.ndarray) -> np.ndarray:
    return np.minimum(ellipse(v, u, (0.34, 0.14), (0.3, 0.36), 0.4), ellipse(v, u, (0.1, 0.07), (0.36, 0.17), -0.1))


def _thorax(rng: np.random.Generator, v: np.ndarray, u: np.ndarray, lungs: np.ndarray) -> np.ndarray:
    """Density of the projection, about 0 (air) to 1 (thick tissue), without lesions."""
    hw_px = v.shape
    shoulder_line = -0.92 + 0.3 * np.clip(np.abs(u) - 0.22, 0, None) ** 0.8
    armpit = ellipse(v, u, (0.6, np.sign(u) * 1.13), (0.75, 0.1)) < 1
    body = ((v > shoulder_line) | (np.abs(u) < 0.24)) & (np.abs(u) < 1.28) & ~armpit
    tissue = 0.6 + 0.1 * v + 0.03 * smooth_noise(rng, hw_px, 20) - 0.12 * np.clip(np.abs(u) - 0.75, 0, 1)
    density = np.where(body, tissue, 0.03)
    density[lungs] = (0.24 + 0.06 * v + 0.08 * np.abs(u))[lungs]
    density = ndi.gaussian_filter(density, 1.0)

    density += 0.14 * np.exp(-((u / 0.2) ** 2)) * body
    discs = np.clip(np.sin(v * rng.uniform(36, 44)), 0, 1)
    density += np.clip((0.1 - np.abs(u)) / 0.03, 0, 1) * body * (0.05 + 0.035 * discs)
    density -= 0.09 * np.exp(-(((u - 0.01) / 0.035) ** 2)) * (v < -0.2)
    if rng.random() < 0.6:
        bubble = ellipse(v, u, (rng.uniform(0.82, 0.9), rng.uniform(0.3, 0.5)), (0.07, rng.uniform(0.1, 0.18)))
        density -= 0.2 * (bubble < 1) * ~lungs
    density = ndi.gaussian_filter(density, 0.8) + _bones(rng, v, u) * body
    return density + 0.09 * _vessels(rng, v, u) * ndi.gaussian_filter(lungs.astype(float), 1)


def _bones(rng: np.random.Generator, v: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Added density of ribs (brighter at their edges) and clavicles."""
    cage = np.abs(u) < 0.84
    pitch = rng.uniform(0.165, 0.2)
    outward = np.abs(u)
    back = (v - 0.28 * outward**1.3 + 0.16 * outward + rng.uniform(0, pitch)) / pitch
    front = (v - 0.75 * outward + rng.uniform(0, pitch)) / pitch
    ribs = _band(back, 0.3) * (outward > 0.08) + 0.55 * _band(front, 0.34) * (outward > 0.3)
    clavicle = np.abs(v + 0.66 - 0.12 * outward + 0.06 * np.sin(outward * 5)) < 0.032
    clavicles = clavicle & (outward > 0.08) & (outward < 0.72)
    contrast = rng.uniform(0.06, 0.11)
    return ndi.gaussian_filter(contrast * ribs * cage * (v > -0.72) * (v < 0.72) + 0.12 * clavicles, 0.7)


def _band(phase: np.ndarray, half_width: float) -> np.ndarray:
    """1.2 at the edges and 0.75 inside a stripe around every half phase, 0 between stripes."""
    distance = np.abs(phase % 1 - 0.5)
    return np.where(distance < half_width, 0.75 + 0.45 * (distance > half_width - 0.1), 0.0)


def _vessels(rng: np.random.Generator, v: np.ndarray, u: np.ndarray) -> np.ndarray:
    curves: list[Curve] = []
    length_px = 0.24 * max(v.shape)
    for side in (-1, 1):
        hilum = np.unravel_index(np.argmin(np.hypot(v + 0.02, u - 0.14 * side)), v.shape)
        for heading in rng.uniform(-1.2, 1.3, 4):
            towards = heading if side > 0 else np.pi - heading
            curves += tree(rng, hilum, towards, rng.uniform(0.7, 1) * length_px, 0.014 * max(v.shape))
    return ndi.gaussian_filter(draw_curves(v.shape, curves), 0.6)


def _with_marker(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """The picture with a side marker in an upper corner, as radiographers leave it; sometimes without."""
    if rng.random() < 0.4:
        return picture
    canvas = Image.new("L", picture.shape[::-1])
    letter, share = ("R", 0.04) if rng.random() < 0.5 else ("L", 0.9)
    ImageDraw.Draw(canvas).text((share * picture.shape[1], 3), letter, fill=255)
    return np.maximum(picture, np.asarray(canvas) / 255)
