"""An axial MRI slice of the head: scalp, skull, cortex, white matter, ventricles; tumours in the brain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.ndimage as ndi

from prsmed.data.phantoms.lesions import place_in_picture
from prsmed.data.phantoms.shapes import ellipse, pose, random_size, smooth_noise, to_uint8


@dataclass(frozen=True)
class Contrast:
    """Signal of each tissue, 0 to 1, and the range that a tumour's signal is drawn from."""

    scalp: float
    skull: float
    fluid: float
    gray: float
    white: float
    tumour: tuple[float, float]
    enhances: bool = False

    @property
    def tumour_like_fluid(self) -> bool:
        """True where a tumour that touched a ventricle could not be told from it."""
        return abs(sum(self.tumour) / 2 - self.fluid) < 0.3


T1 = Contrast(scalp=0.85, skull=0.08, fluid=0.12, gray=0.42, white=0.58, tumour=(0.17, 0.26))
T1_ENHANCED = Contrast(scalp=0.85, skull=0.08, fluid=0.12, gray=0.38, white=0.5, tumour=(0.78, 1.0), enhances=True)
T2 = Contrast(scalp=0.55, skull=0.05, fluid=0.95, gray=0.45, white=0.3, tumour=(0.68, 0.85))
FLAIR = Contrast(scalp=0.6, skull=0.06, fluid=0.08, gray=0.45, white=0.36, tumour=(0.75, 1.0))
CONTRASTS = (T1, T1_ENHANCED, T2, FLAIR)
CONTRAST_SHARES = (0.1, 0.3, 0.15, 0.45)
"""FLAIR and enhanced T1 are what tumours are read on."""


def make_mri(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, None]:
    """One slice, uint8 (H, W), with bias field and Rician noise, and its tumours, bool (H, W)."""
    hw_px = random_size(rng, shortest=0.75, upright=0.8)
    contrast = CONTRASTS[rng.choice(len(CONTRASTS), p=CONTRAST_SHARES)]
    half_width_px = rng.uniform(0.86, 0.97) * min(hw_px[1] / 2, hw_px[0] / 2.44)
    v, u = pose(rng, hw_px, half_width_px, (0.04 * hw_px[0], 0.06 * hw_px[1]), tilt=0.18)
    v, u = (axis + 0.018 * smooth_noise(rng, hw_px, half_width_px / 2) for axis in (v, u))
    signal, home = _head(rng, v, u, contrast)

    mask = np.zeros(hw_px, dtype=bool)
    for lesion in place_in_picture(rng, home, (0.055, 0.14), roughness=0.28):
        signal = np.where(lesion.mask, tumour_signal(rng, lesion.level, contrast), signal)
        if rng.random() < 0.5 and contrast is not T1_ENHANCED:
            oedema = np.clip((1.35 - lesion.level) / 0.35, 0, 1) * ~lesion.mask * home
            signal += 0.3 * oedema * (np.mean(contrast.tumour) - contrast.white)
        mask |= lesion.mask

    signal = ndi.gaussian_filter(signal, rng.uniform(0.5, 0.8))
    signal *= np.clip(1 + 0.13 * smooth_noise(rng, hw_px, max(hw_px) / 1.5), 0.6, 1.4)
    noisy = rician(rng, signal, rng.uniform(0.012, 0.035))
    return to_uint8(noisy / np.quantile(noisy, 0.996)), mask, None


def tumour_signal(rng: np.random.Generator, level: np.ndarray, contrast: Contrast) -> np.ndarray:
    """Signal of one tumour from its level: textured, where the contrast enhances often a ring with a dark core."""
    bright = rng.uniform(*contrast.tumour)
    signal = bright + 0.05 * smooth_noise(rng, level.shape, 4)
    if contrast.enhances and rng.random() < 0.5:
        signal = np.where(level < rng.uniform(0.35, 0.6), contrast.fluid + 0.1, signal)
    return signal


def rician(rng: np.random.Generator, signal: np.ndarray, sigma: float) -> np.ndarray:
    """Magnitude of a complex signal with Gaussian noise of `sigma` in both channels (Gudbjartsson & Patz 1995)."""
    return np.hypot(signal + rng.normal(0, sigma, signal.shape), rng.normal(0, sigma, signal.shape))


def _head(rng: np.random.Generator, v: np.ndarray, u: np.ndarray, contrast: Contrast) -> tuple[np.ndarray, np.ndarray]:
    """Signal without tumours, and where tumours may lie: brain without ventricles."""
    hw_px = v.shape
    head = ellipse(v, u, (0, 0), (1.2, 1.0))
    inside = ellipse(v, u, (0, 0), (1.06, 0.86))
    folds = smooth_noise(rng, hw_px, 0.13 * max(hw_px) / 2.4)
    sulcus_px = np.abs(folds) / np.hypot(*np.gradient(folds))
    cortex = inside > 0.62 + 0.1 * smooth_noise(rng, hw_px, 6)
    signal = np.zeros(hw_px)
    signal[head < 1] = contrast.scalp
    signal[head < 0.94] = contrast.skull
    signal[inside < 1] = contrast.fluid
    brain = inside < 0.965
    signal[brain] = contrast.white + 0.02 * smooth_noise(rng, hw_px, 5)[brain]
    signal[brain & ((cortex & (np.abs(folds) < 0.75)) | (inside > 0.9))] = contrast.gray
    signal[brain & (inside > 0.7) & (sulcus_px < 0.007 * max(hw_px))] = contrast.fluid
    signal[brain & (np.abs(u + 0.012 * np.sin(4 * v)) < 0.02) & (np.abs(v) > 0.45)] = contrast.fluid

    fluid = np.zeros(hw_px, dtype=bool)
    if rng.random() < 0.7:
        fluid = _draw_deep_brain(rng, signal, v, u, contrast)
    return signal, (inside < 0.86) & ~(ndi.binary_dilation(fluid, iterations=2) & contrast.tumour_like_fluid)


def _draw_deep_brain(
    rng: np.random.Generator, signal: np.ndarray, v: np.ndarray, u: np.ndarray, contrast: Contrast
) -> np.ndarray:
    """Deep grey matter and ventricles, in place; returns where the ventricles are."""
    size = rng.uniform(0.7, 1.25)
    fluid = (np.abs(u) < 0.02) & (np.abs(v - 0.08) < 0.16)
    for side in (-1, 1):
        nucleus = ellipse(v, u, (-0.08, 0.3 * side), (0.2, 0.09), 0.35 * side)
        thalamus = ellipse(v, u, (0.16, 0.14 * side), (0.14, 0.1))
        signal[(nucleus < 1) | (thalamus < 1)] = contrast.gray
        front = ellipse(v, u, (-0.26, 0.1 * side), (0.2 * size, 0.055 * size), 0.35 * side)
        back = ellipse(v, u, (0.36, 0.2 * side), (0.2 * size, 0.06 * size), -0.3 * side)
        fluid |= (front < 1) | (back < 1)
    signal[fluid] = contrast.fluid
    return fluid
