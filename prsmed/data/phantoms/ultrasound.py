"""A breast ultrasound: skin, fat, gland, muscle, speckle and attenuation; lesions that shadow or enhance."""

from __future__ import annotations

import numpy as np
import scipy.ndimage as ndi

from prsmed.data.phantoms.lesions import Lesion, place_in_picture
from prsmed.data.phantoms.shapes import draw_curves, grid, random_size, smooth_noise, to_uint8, wander


def make_ultrasound(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, None]:
    """One B-mode picture, uint8 (H, W), and its lesions, bool (H, W)."""
    hw_px = random_size(rng, shortest=0.72, upright=0.25)
    y_px, x_px = grid(hw_px)
    view = _field_of_view(rng, hw_px)
    depth = y_px / hw_px[0] + 0.025 * smooth_noise(rng, hw_px, max(hw_px) / 4) + 0 * x_px
    echo = _tissue(rng, depth)

    home = view & (depth > 0.1) & (depth < 0.93)
    home = ndi.binary_erosion(home, iterations=3)
    mask = np.zeros(hw_px, dtype=bool)
    log_gain = np.zeros(hw_px)
    for lesion in place_in_picture(rng, home, (0.05, 0.15), roughness=0.26):
        echo = np.where(lesion.mask, rng.uniform(0.02, 0.09) * (1 + 0.2 * smooth_noise(rng, hw_px, 4)), echo)
        rim = (lesion.level >= 1) & (lesion.level < 1.25)
        echo = np.where(rim, echo * rng.uniform(0.9, 1.4), echo)
        log_gain += _below(rng, lesion)
        mask |= lesion.mask

    log_gain += _contact_shadows(rng, hw_px) * ~mask - rng.uniform(0.5, 1.3) * depth
    speckle = _speckle(rng, hw_px)
    amplitude = np.clip(echo, 0.005, None) * np.exp(log_gain) * speckle
    picture = np.clip(np.log1p(9 * amplitude) / np.log1p(11), 0, 1)
    return to_uint8(picture * view), mask, None


def _field_of_view(rng: np.random.Generator, hw_px: tuple[int, int]) -> np.ndarray:
    """Linear (the whole picture, sometimes with a black strip below) or a sector of a curved probe."""
    y_px, x_px = grid(hw_px)
    if rng.random() < 0.65:
        return np.broadcast_to(y_px < hw_px[0] * rng.choice([1.0, 1.0, rng.uniform(0.88, 1.0)]), hw_px) & (x_px > 0)
    above_px = rng.uniform(0.7, 1.0) * hw_px[0]
    dy, dx = y_px + above_px, x_px - hw_px[1] / 2
    reach = np.hypot(dy, dx)
    widest = np.arctan2(hw_px[1] / 2, above_px + 0.45 * hw_px[0])
    return (reach > above_px * 1.02) & (reach < above_px + hw_px[0] * 0.99) & (np.abs(np.arctan2(dx, dy)) < widest)


def _tissue(rng: np.random.Generator, depth: np.ndarray) -> np.ndarray:
    """Echo strength of the layers, 0 to 1: skin, fat with septa, gland with ducts, muscle with fibres."""
    hw_px = depth.shape
    gland_top, muscle_top = rng.uniform(0.2, 0.34), rng.uniform(0.68, 0.82)
    wave = 0.04 * smooth_noise(rng, hw_px, (hw_px[0], hw_px[1] / 5))
    long_px = max(hw_px)
    streaks = smooth_noise(rng, hw_px, (0.022 * long_px, 0.16 * long_px))
    fibres = smooth_noise(rng, hw_px, (0.015 * long_px, 0.35 * long_px))
    lobules = smooth_noise(rng, hw_px, (0.05 * long_px, 0.12 * long_px))
    echo = 0.26 + 0.07 * np.clip(lobules, -1, 2)
    echo = np.where(depth > gland_top + wave, 0.46 + 0.17 * np.clip(streaks, -1.2, 2) + 0.05 * lobules, echo)
    echo = np.where(depth > muscle_top + wave, 0.3 + 0.14 * np.clip(fibres, -0.8, 2), echo)
    echo = np.where(np.abs(depth - muscle_top - wave) < 0.012, 0.95, echo)
    echo = np.where(depth < 0.055, 0.85, echo)
    echo = np.where(depth < 0.02, 0.5, echo)

    septa = [
        wander(
            rng,
            rng.uniform((0.05, 0), (0.85, 1)) * hw_px,
            rng.normal(0, 0.25),
            rng.uniform(0.15, 0.5) * long_px,
            (1.2, 0.6),
        )
        for _ in range(rng.integers(10, 18))
    ]
    return np.clip(echo, 0.19, None) + 0.4 * draw_curves(hw_px, septa)


def _below(rng: np.random.Generator, lesion: Lesion) -> np.ndarray:
    """Log gain in the lesion's wake: a shadow, a bright band behind fluid, or hardly anything."""
    hw_px = lesion.mask.shape
    columns = lesion.mask.sum(axis=0)
    bottom = np.where(columns > 0, hw_px[0] - np.argmax(lesion.mask[::-1], axis=0), hw_px[0])
    behind = np.arange(hw_px[0])[:, None] >= bottom[None]
    thickness = columns / max(1, columns.max())
    fade = np.exp(-np.clip(np.arange(hw_px[0])[:, None] - bottom[None], 0, None) / (0.35 * hw_px[0]))
    strength = rng.choice([-1.1, -0.7, 0.0, 0.35, 0.55])
    return ndi.gaussian_filter(strength * behind * thickness[None] * fade, (0, 1.5)) * ~lesion.mask


def _contact_shadows(rng: np.random.Generator, hw_px: tuple[int, int]) -> np.ndarray:
    """Log gain of a few dim columns where the probe lost contact or a ligament absorbs."""
    columns = np.arange(hw_px[1])[None]
    gain = np.zeros(hw_px)
    for _ in range(rng.integers(0, 4)):
        width_px = rng.uniform(0.02, 0.06) * hw_px[1]
        dim = np.exp(-(((columns - rng.uniform(0, hw_px[1])) / width_px) ** 2))
        gain -= rng.uniform(0.2, 0.55) * dim * np.linspace(0.2, 1, hw_px[0])[:, None]
    return gain


def _speckle(rng: np.random.Generator, hw_px: tuple[int, int]) -> np.ndarray:
    """Fully developed speckle: Rayleigh amplitude of mean 1, wider across the beam than along it, then compounded."""
    size_px = (0.55, rng.uniform(0.9, 1.5))
    looks = []
    for _ in range(3):
        real, imaginary = (ndi.gaussian_filter(rng.standard_normal(hw_px), size_px) for _ in range(2))
        looks.append(np.hypot(real, imaginary))
    speckle = np.mean(looks, axis=0)
    return speckle / speckle.mean()
