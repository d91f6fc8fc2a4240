"""Pictures that show nothing: even grey, a ramp, noise. Training asks about them, so that "nothing" is learned, too."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

EMPTY_PICTURES = 16
"""How many there are. Few, so that a frozen encoder's maps of them can be kept."""


def empty_picture(number: int, side_px: int) -> torch.Tensor:
    """One of `EMPTY_PICTURES`, by number: float32 (3, side, side) in [0, 1], the same each time."""
    rng = np.random.default_rng(number)
    draw = (_even, _ramp, _noise, _clouds)[number % 4]
    picture_HWC = np.clip(draw(rng, side_px), 0, 1).astype(np.float32)
    return torch.from_numpy(picture_HWC).permute(2, 0, 1).contiguous()


def _even(rng: np.random.Generator, side_px: int) -> np.ndarray:
    return np.full((side_px, side_px, 3), rng.random(3) if rng.random() < 0.5 else rng.random())


def _ramp(rng: np.random.Generator, side_px: int) -> np.ndarray:
    y, x = np.mgrid[0:side_px, 0:side_px] / side_px - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * x + np.sin(angle) * y
    return np.repeat((0.5 + along * rng.uniform(0.2, 1))[..., None], 3, axis=2)


def _noise(rng: np.random.Generator, side_px: int) -> np.ndarray:
    channels = 3 if rng.random() < 0.5 else 1
    grains = rng.normal(rng.uniform(0.3, 0.7), rng.uniform(0.05, 0.3), (side_px, side_px, channels))
    return np.broadcast_to(grains, (side_px, side_px, 3))


def _clouds(rng: np.random.Generator, side_px: int) -> np.ndarray:
    grains = gaussian_filter(rng.normal(size=(side_px, side_px)), sigma=side_px * rng.uniform(0.01, 0.1))
    return np.repeat((0.5 + 0.15 * grains / grains.std())[..., None], 3, axis=2)
