"""Phantom volumes of the chest (CT) and of the head (MRI), stored in several orientations."""

from __future__ import annotations

import nibabel.orientations as orientations
import numpy as np
import scipy.ndimage as ndi

from prsmed.data.phantoms import ct, mri
from prsmed.data.phantoms.lesions import Lesion, place_lesions
from prsmed.data.phantoms.shapes import grid, smooth_noise
from prsmed.errors import RequestError

VOLUME_MODALITIES = ("ct", "mri")
STORED_AXCODES = ("RAS", "LPS", "LAS", "ASR")
"""Orientations that volumes are stored in, in turn."""
_TWO_LESIONS_SHARE = 0.3
_VOLUME_STREAM = 1
"""Keeps the chance of volume n apart from that of picture n."""


def make_volume(modality: str, seed: int, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One phantom volume; the same arguments always give the same volume, whatever was made before.

    Args:
        modality: "ct" (chest, Hounsfield units) or "mri" (head, a scale of its own).
        seed: of the data set, 0 or more.
        index: of the volume in its data set, 0 or more; pairs of volumes take the stored orientations in turn.

    Returns:
        The array, int16 (I, J, K); the mask, uint8 (I, J, K), 1 in a lesion, empty in a negative;
        affine_ijk_to_ras, float64 (4, 4), mm.

    Raises:
        RequestError: a modality without volumes.
    """
    if modality not in VOLUME_MODALITIES:
        expected = " or ".join(VOLUME_MODALITIES)
        raise RequestError(f"phantom volume: modality is {modality!r}, expected {expected}; use make_picture")
    rng = np.random.default_rng([seed, index, _VOLUME_STREAM])
    count = 0 if _is_negative(index) else 1 + int(rng.random() < _TWO_LESIONS_SHARE)
    array, mask, spacing_mm = (_chest if modality == "ct" else _head)(rng, count)
    affine_ijk_to_ras = np.diag([*spacing_mm, 1.0])
    affine_ijk_to_ras[:3, 3] = np.round(-np.array(array.shape) * spacing_mm / 2 + rng.uniform(-30, 30, 3), 1)
    return _store(array, mask, affine_ijk_to_ras, STORED_AXCODES[index // 2 % len(STORED_AXCODES)])


def _is_negative(index: int) -> bool:
    """One in eight, of CT and of MRI in turn: too few volumes are made to leave it to chance."""
    return (index + index // 8) % 8 == 3


def _store(
    array: np.ndarray, mask: np.ndarray, affine_ijk_to_ras: np.ndarray, axcodes: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A volume that was made in RAS order, in the order a file stores it in; no voxel moves in the patient."""
    turn = orientations.ornt_transform(orientations.axcodes2ornt("RAS"), orientations.axcodes2ornt(axcodes))
    affine = affine_ijk_to_ras @ orientations.inv_ornt_aff(turn, array.shape)
    stored = np.ascontiguousarray(orientations.apply_orientation(array, turn), dtype=np.int16)
    return stored, np.ascontiguousarray(orientations.apply_orientation(mask, turn), dtype=np.uint8), affine


def _body_axes(
    rng: np.random.Generator, shape_ijk: tuple[int, ...], spacing_mm: np.ndarray, unit_mm: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Body coordinates of RAS voxels: v backwards, u to the patient's left, w to the head, 1 is `unit_mm`."""
    mm = [(axis - side / 2) * step for axis, side, step in zip(grid(shape_ijk), shape_ijk, spacing_mm, strict=True)]
    right, front, up = (axis / unit_mm + rng.uniform(-0.04, 0.04) for axis in mm)
    bend_v, bend_u = (0.012 * smooth_noise(rng, shape_ijk, np.asarray(shape_ijk) / 3) for _ in range(2))
    return bend_v - front, bend_u - right, up


def _place(
    rng: np.random.Generator, home: np.ndarray, count: int, spacing_mm: np.ndarray, radius_mm: tuple[float, float]
) -> list[Lesion]:
    """Lesions of at least 25 voxels; the smallest radius spans several slices."""
    spacing = tuple(spacing_mm.tolist())
    margin_mm = 2.5 * spacing[2]
    return place_lesions(rng, home, count, radius=radius_mm, least_size=25, margin=margin_mm, spacing=spacing)


def _chest(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hounsfield units in RAS order, lesion mask, spacing in mm."""
    shape_ijk = (int(rng.integers(62, 70)), int(rng.integers(54, 64)), int(rng.integers(28, 41)))
    spacing_mm = np.array([*np.repeat(rng.uniform(4.8, 5.4), 2), rng.uniform(6.0, 7.5)]).round(2)
    half_width_mm = 0.47 * shape_ijk[0] * spacing_mm[0]
    v, u, up = _body_axes(rng, shape_ijk, spacing_mm, half_width_mm)
    w = up * half_width_mm / (shape_ijk[2] * spacing_mm[2] / 2)
    hu, lung = _thorax(rng, v, u, w, half_width_mm * up)

    lung_inside = ndi.binary_erosion(lung)
    hu[_vessels(rng, lung, v, u, w) & lung] = -350
    mask = np.zeros(shape_ijk, dtype=bool)
    for lesion in _place(rng, lung_inside, count, spacing_mm, (14, 26)):
        hu = np.where(lesion.mask, rng.uniform(-150, 50) + 40 * smooth_noise(rng, shape_ijk, 3), hu)
        mask |= lesion.mask
    hu = ndi.gaussian_filter(hu, (0.45, 0.45, 0.2)) + rng.normal(0, rng.uniform(15, 40), shape_ijk)
    return np.clip(np.round(hu), -1024, 3071).astype(np.int16), mask, spacing_mm


def _thorax(
    rng: np.random.Generator, v: np.ndarray, u: np.ndarray, w: np.ndarray, up_mm: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Hounsfield units without vessels and lesions, and where the lungs are; w runs from -1 (feet) to 1 (head)."""
    body = np.sqrt(u**2 + (v / 0.74) ** 2)
    narrow = 1 - 0.75 * np.clip((w + 0.1) / 1.1, 0, 1) ** 3
    wall = (np.abs(u / 0.8) ** 2.4 + np.abs((v + 0.02) / 0.58) ** 2.4) ** (1 / 2.4) / narrow
    hu = np.where(body < 1, ct.FAT_HU, ct.AIR_HU).astype(float)
    hu[(body < 0.94) | (wall < 1.15)] = ct.MUSCLE_HU
    hu[body >= 1] = ct.AIR_HU
    hu[(np.abs(v - 0.1 * u**2 - 0.82) < 0.025) & (body > 1)] = -250
    ribs = np.sin((up_mm + 60 * v) * (2 * np.pi / 27) + rng.uniform(0, 6)) > 0.1
    hu[ribs & (wall > 1.02) & (wall < 1.15) & (body < 0.95)] = ct.BONE_HU

    dome = -0.55 + rng.uniform(-0.1, 0.1) - 0.45 * ((np.abs(u) - 0.38) ** 2 / 0.16 + (v / 0.56) ** 2)
    heart = np.sqrt(((u - 0.14) / 0.34) ** 2 + ((v + 0.05) / 0.3) ** 2 + ((w + 0.25) / 0.5) ** 2)
    spine = np.hypot(u / 0.16, (v - 0.44) / 0.14)
    septum = np.abs(u - 0.02) < 0.07 + 0.05 * np.exp(-(((w - 0.1) / 0.3) ** 2))
    lung = (wall < 1) & (w > dome) & (heart > 1) & (spine > 1.35) & ~septum
    hu[(wall < 1) & (w <= dome)] = 60
    hu[lung] = ct.LUNG_HU + rng.uniform(-20, 40) + (50 * v + 15 * smooth_noise(rng, v.shape, 6))[lung]
    hu[heart < 1] = ct.HEART_HU + rng.uniform(0, 100)
    hu[np.hypot(u - 0.14, v - 0.24) < 0.075] = ct.HEART_HU + 60
    hu[(np.hypot(u, v + 0.1) < 0.07) & (w > 0.05)] = ct.AIR_HU
    disc = np.sin(up_mm * 2 * np.pi / 30) < -0.8
    hu[spine < 1] = 280
    hu[(spine < 1) & disc] = 90
    hu[np.hypot(u / 0.06, (v - 0.6) / 0.05) < 1] = 30
    return hu, lung


def _vessels(rng: np.random.Generator, lung: np.ndarray, v: np.ndarray, u: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Voxels on random walks that leave both hila, bool (I, J, K)."""
    cover = np.zeros(lung.shape, dtype=bool)
    for side in (-1, 1):
        hilum = np.unravel_index(np.argmin((v - 0.05) ** 2 + (u - 0.22 * side) ** 2 + (w - 0.05) ** 2), lung.shape)
        steps = rng.normal(0, 0.35, (14, 26, 3)) + rng.normal(0, 0.55, (14, 1, 3))
        steps[..., 0] -= 0.35 * side
        steps[..., 2] *= 0.5
        walks = np.round(np.asarray(hilum) + np.cumsum(steps, axis=1)).astype(int).reshape(-1, 3)
        inside = np.all((walks >= 0) & (walks < lung.shape), axis=1)
        cover[tuple(walks[inside].T)] = True
    return cover


def _head(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """MRI signal in RAS order on a scale of its own, lesion mask, spacing in mm."""
    shape_ijk = (int(rng.integers(58, 67)), int(rng.integers(68, 76)), int(rng.integers(24, 37)))
    spacing_mm = np.array([*np.repeat(rng.uniform(2.7, 3.0), 2), rng.uniform(4.0, 5.0)]).round(2)
    half_width_mm = 0.45 * min(shape_ijk[0], shape_ijk[1] / 1.22) * spacing_mm[0]
    v, u, w = _body_axes(rng, shape_ijk, spacing_mm, half_width_mm)
    contrast = mri.CONTRASTS[rng.choice(len(mri.CONTRASTS), p=mri.CONTRAST_SHARES)]
    signal, home = _brain(rng, v, u, w, contrast)

    mask = np.zeros(shape_ijk, dtype=bool)
    for lesion in _place(rng, home, count, spacing_mm, (9, 19)):
        signal = np.where(lesion.mask, mri.tumour_signal(rng, lesion.level, contrast), signal)
        mask |= lesion.mask
    signal = ndi.gaussian_filter(signal, (0.5, 0.5, 0.3))
    signal *= np.clip(1 + 0.12 * smooth_noise(rng, shape_ijk, np.asarray(shape_ijk) / 1.5), 0.6, 1.4)
    scale = np.exp(rng.uniform(np.log(250), np.log(4000)))
    noisy = mri.rician(rng, signal, rng.uniform(0.01, 0.03)) * scale
    return np.clip(np.round(noisy), 0, 32767).astype(np.int16), mask, spacing_mm


def _brain(
    rng: np.random.Generator, v: np.ndarray, u: np.ndarray, w: np.ndarray, contrast: mri.Contrast
) -> tuple[np.ndarray, np.ndarray]:
    """Signal without tumours, and where tumours may lie."""
    shape_ijk = np.broadcast_shapes(v.shape, w.shape)
    below = np.where(w < -0.3, 0.45, 1.0) * (w + 0.3)
    head = np.sqrt(u**2 + (v / 1.2) ** 2 + (below / 1.25) ** 2)
    inside = np.sqrt((u / 0.86) ** 2 + (v / 1.06) ** 2 + (below / 1.1) ** 2)
    folds = smooth_noise(rng, shape_ijk, (5, 5, 5))
    signal = np.zeros(shape_ijk)
    signal[head < 1] = contrast.scalp
    signal[head < 0.93] = contrast.skull
    signal[inside < 1] = contrast.fluid
    brain = inside < 0.96
    signal[brain] = contrast.white + 0.02 * smooth_noise(rng, shape_ijk, 4)[brain]
    signal[brain & (((inside > 0.68) & (np.abs(folds) < 0.7)) | (inside > 0.9))] = contrast.gray
    signal[brain & (inside > 0.78) & (np.abs(folds) < 0.12)] = contrast.fluid

    size, fluid = rng.uniform(0.8, 1.25), np.zeros(shape_ijk, dtype=bool)
    for side in (-1, 1):
        aside = u - 0.13 * side - 0.12 * side * np.abs(v)
        fluid |= np.sqrt((aside / 0.075) ** 2 + ((v - 0.05) / 0.5) ** 2 + ((w - 0.1) / 0.26) ** 2) < size
        nucleus = np.sqrt(((u - 0.27 * side) / 0.11) ** 2 + ((v + 0.02) / 0.26) ** 2 + ((w - 0.05) / 0.2) ** 2) < 1
        signal[nucleus & ~fluid] = contrast.gray
    signal[fluid & brain] = contrast.fluid
    return signal, (inside < 0.85) & ~(ndi.binary_dilation(fluid) & contrast.tumour_like_fluid)
