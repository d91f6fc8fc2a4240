"""A dermoscopy picture: skin, hairs, gel bubbles, vignette; pigmented lesions with network, globules and blotches."""

from __future__ import annotations

import numpy as np
import scipy.ndimage as ndi

from prsmed.data.phantoms.lesions import Lesion, place_in_picture
from prsmed.data.phantoms.shapes import draw_curves, ellipse, grid, random_size, smooth_noise, to_uint8, wander

_SKIN_TONES = np.array([[0.93, 0.78, 0.7], [0.88, 0.7, 0.6], [0.8, 0.6, 0.48], [0.9, 0.68, 0.62], [0.7, 0.5, 0.39]])
_PIGMENTS = np.array([[0.42, 0.26, 0.17], [0.3, 0.18, 0.13], [0.5, 0.3, 0.2], [0.22, 0.16, 0.15], [0.46, 0.24, 0.2]])


def make_dermoscopy(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, None]:
    """One picture, uint8 (H, W, 3), and its lesions, bool (H, W)."""
    hw_px = random_size(rng, shortest=0.72, upright=0.08)
    long_px = max(hw_px)
    skin = _SKIN_TONES[rng.integers(len(_SKIN_TONES))] + rng.normal(0, 0.02, 3)
    grain = 0.02 * smooth_noise(rng, hw_px, 2) + 0.02 * smooth_noise(rng, hw_px, long_px / 5)
    flush = 0.03 * smooth_noise(rng, hw_px, long_px / 8)
    picture = skin + grain[..., None] + flush[..., None] * np.array([0.3, -1.0, -0.8])
    picture *= 1 - 0.25 * _freckles(rng, hw_px)[..., None]

    view, falloff = _tube(rng, hw_px)
    mask = np.zeros(hw_px, dtype=bool)
    for lesion in place_in_picture(rng, ndi.binary_erosion(view, iterations=3), (0.06, 0.21), roughness=0.3):
        picture = _with_lesion(rng, picture, lesion)
        mask |= lesion.mask

    picture = ndi.gaussian_filter(picture, (0.5, 0.5, 0))
    picture = _with_hairs(rng, picture)
    picture = _with_bubbles(rng, picture)
    picture = picture * falloff[..., None] + rng.normal(0, 0.012, picture.shape)
    return to_uint8(picture * ndi.gaussian_filter(view.astype(float), 1.0)[..., None]), mask, None


def _tube(rng: np.random.Generator, hw_px: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Where the lens sees (sometimes with dark corners), and how the light falls off towards its rim."""
    y_px, x_px = grid(hw_px)
    center_yx = tuple(np.array(hw_px) / 2 + rng.uniform(-0.05, 0.05, 2) * hw_px)
    reach = ellipse(y_px, x_px, center_yx, (0.56 * max(hw_px), 0.56 * max(hw_px)))
    view = reach < rng.choice([0.98, 9.0, 9.0])
    return view, np.clip(1.04 - rng.uniform(0.1, 0.32) * reach**2, 0.3, 1.05)


def _with_lesion(rng: np.random.Generator, picture: np.ndarray, lesion: Lesion) -> np.ndarray:
    """The picture with one lesion: darker inside, blotched, with network, globules or a veil."""
    hw_px = lesion.mask.shape
    skin = np.median(picture, axis=(0, 1))
    pigment = np.minimum(_PIGMENTS[rng.integers(len(_PIGMENTS))], 0.58 * skin)
    edge = np.clip((1 - lesion.level) * lesion.radius / rng.uniform(0.8, 3.0), 0, 1)
    depth = 0.72 + 0.18 * np.clip(1 - lesion.level, 0, 1) + 0.16 * smooth_noise(rng, hw_px, lesion.radius / 2)
    network = np.abs(smooth_noise(rng, hw_px, 2.6))
    depth += rng.uniform(0, 0.22) * (network < 0.3) - rng.uniform(0, 0.08) * (network > 1)
    globules = smooth_noise(rng, hw_px, 2.2) > 1.5
    depth += 0.2 * globules * rng.integers(0, 2)
    amount = (0.35 + 0.65 * edge) * lesion.mask * np.clip(depth, 0.62, 1.25)
    result = picture + amount[..., None] * (pigment - picture)
    if rng.random() < 0.25:
        veil = np.clip(smooth_noise(rng, hw_px, lesion.radius / 1.5) - 0.3, 0, 1) * edge * lesion.mask
        result += 0.4 * veil[..., None] * (np.array([0.42, 0.45, 0.55]) - result)
    halo = np.exp(-np.clip(lesion.level - 1, 0, None) * 8) * ~lesion.mask * rng.uniform(0, 0.06)
    return result - halo[..., None] * np.array([0.2, 1.0, 1.0])


def _freckles(rng: np.random.Generator, hw_px: tuple[int, int]) -> np.ndarray:
    """Sparse faint spots far smaller than a lesion, and follicle openings."""
    if rng.random() < 0.4:
        return np.zeros(hw_px)
    seeds = rng.random(hw_px) > 1 - rng.uniform(0.0008, 0.003)
    return np.clip(ndi.gaussian_filter(seeds.astype(float), rng.uniform(0.7, 1.1)) * 5, 0, 1)


def _with_hairs(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Dark or fair hairs, most of them in about the same direction."""
    hw_px = picture.shape[:2]
    direction = rng.uniform(0, 2 * np.pi)
    count = int(rng.integers(*[(0, 1), (1, 8), (8, 22)][rng.choice(3, p=(0.25, 0.45, 0.3))]))
    hairs = [
        wander(
            rng,
            rng.uniform(-0.1, 1.1, 2) * hw_px,
            direction + rng.normal(0, 0.5),
            rng.uniform(0.2, 0.9) * max(hw_px),
            (1.2, 0.6),
            0.06,
        )
        for _ in range(count)
    ]
    cover = draw_curves(hw_px, hairs)[..., None] * rng.uniform(0.6, 0.95)
    tone = np.array([0.15, 0.11, 0.1]) if rng.random() < 0.75 else np.array([0.75, 0.65, 0.5])
    return picture + cover * (tone - picture)


def _with_bubbles(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Air in the immersion gel: thin bright rings with a lit spot."""
    hw_px = picture.shape[:2]
    y_px, x_px = grid(hw_px)
    shine = np.zeros(hw_px)
    for _ in range(rng.integers(0, 4) if rng.random() < 0.5 else 0):
        center, radius_px = rng.uniform(0, 1, 2) * hw_px, rng.uniform(1.5, 5)
        distance = np.hypot(y_px - center[0], x_px - center[1])
        shine = np.maximum(shine, 0.5 * np.exp(-(((distance - radius_px) / 0.7) ** 2)))
        shine = np.maximum(shine, 0.8 * np.exp(-((y_px - center[0] + radius_px / 2) ** 2 + (x_px - center[1]) ** 2)))
    return picture + shine[..., None] * (1 - picture)
