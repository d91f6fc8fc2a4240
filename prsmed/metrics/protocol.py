"""The authors' protocol: Dice, IoU and E-measure averaged over 256 thresholds of a soft map, from one histogram.

A pixel is predicted where map >= threshold, for the thresholds linspace(1, 0, 256); where prediction and truth share no
pixel, Dice and IoU are 0, even if both are empty (the evaluation code of polyp segmentation since PraNet, Fan et al.
2020). These numbers reproduce published ones; our own scores are in `prsmed.metrics.masks`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prsmed.errors import DataError

THRESHOLDS = np.linspace(1, 0, 256)
_ASCENDING = THRESHOLDS[::-1].copy()


@dataclass(frozen=True)
class ProtocolScores:
    """Means over the 256 thresholds, for one picture."""

    dice: float
    iou: float
    e_measure: float


def protocol_scores(soft_uint8_HW: np.ndarray, truth_HW: np.ndarray) -> ProtocolScores:
    """The protocol on a map stored with 8 bits, whose value is code / 255 in float64.

    Args:
        soft_uint8_HW: uint8.
        truth_HW: bool, the same grid.

    Raises:
        DataError: another type, or two grids.
    """
    if soft_uint8_HW.dtype != np.uint8:
        raise DataError(f"soft map is {soft_uint8_HW.dtype}; expected uint8: use protocol_scores_float for a float map")
    codes_2x256 = _histogram(soft_uint8_HW, truth_HW)
    pixels_2x256 = np.stack([np.bincount(_LEVEL_OF_CODE, weights=codes, minlength=256) for codes in codes_2x256])
    return _scores(pixels_2x256)


def protocol_scores_float(mask_prob_HW: np.ndarray, truth_HW: np.ndarray) -> ProtocolScores:
    """The protocol on a map of floats.

    Args:
        mask_prob_HW: float32 or float64, 0 to 1.
        truth_HW: bool, the same grid.

    Raises:
        DataError: another type, values outside 0 to 1, or two grids.
    """
    if not np.issubdtype(mask_prob_HW.dtype, np.floating):
        raise DataError(f"soft map is {mask_prob_HW.dtype}; expected floats: use protocol_scores for an 8-bit map")
    if not (mask_prob_HW.min() >= 0 and mask_prob_HW.max() <= 1):
        raise DataError("soft map holds values outside 0 to 1, or NaN; apply a sigmoid to logits first")
    return _scores(_histogram(_level(mask_prob_HW), truth_HW))


def _level(prob: np.ndarray) -> np.ndarray:
    """Index (uint8) of the highest threshold each value reaches, counted upwards from threshold 0.

    The thresholds are floats, and a quarter of them lies a rounding error above k / 255. The nearest is found by
    arithmetic; the comparison that the protocol asks for decides between it and the one below.
    """
    nearest = np.rint(prob * 255).astype(np.uint8)
    return nearest - (prob < _ASCENDING[nearest])


_LEVEL_OF_CODE = _level(np.arange(256) / 255)


def _histogram(level_HW: np.ndarray, truth_HW: np.ndarray) -> np.ndarray:
    """Pixels of each level (256), outside the truth (row 0) and inside (row 1)."""
    if truth_HW.dtype != np.bool_ or truth_HW.shape != level_HW.shape:
        raise DataError(
            f"true mask is {truth_HW.dtype} {truth_HW.shape}, the soft map is {level_HW.shape}; "
            "expected bool on the map's grid"
        )
    joint = level_HW.ravel() + truth_HW.ravel() * np.uint16(256)
    return np.bincount(joint, minlength=512).reshape(2, 256)


def _scores(pixels_2x256: np.ndarray) -> ProtocolScores:
    false_px, hit_px = pixels_2x256[:, ::-1].cumsum(axis=1)
    truth_px, total_px = pixels_2x256[1].sum(), pixels_2x256.sum()
    empty = np.zeros(len(THRESHOLDS))
    dice = np.divide(2 * hit_px, false_px + hit_px + truth_px, out=empty.copy(), where=hit_px > 0)
    iou = np.divide(hit_px, false_px + truth_px, out=empty.copy(), where=hit_px > 0)
    e_measure = _e_measure(false_px, hit_px, truth_px, total_px)
    return ProtocolScores(float(dice.mean()), float(iou.mean()), float(e_measure.mean()))


def _e_measure(false_px: np.ndarray, hit_px: np.ndarray, truth_px: int, total_px: int) -> np.ndarray:
    """The enhanced-alignment measure of each threshold (Fan et al. 2018, IJCAI).

    Its map takes four values only, one for each pair of prediction and truth. Divided by the number of pixels, as
    printed; the authors' code divides by one less.
    """
    predicted_share = (false_px + hit_px) / total_px
    if truth_px == 0:
        return 1 - predicted_share
    if truth_px == total_px:
        return predicted_share
    pixels_4N = np.stack([hit_px, false_px, truth_px - hit_px, total_px - truth_px - false_px])
    prediction_4N = np.array([1, 1, 0, 0])[:, None] - predicted_share
    truth_41 = np.array([1, 0, 1, 0])[:, None] - truth_px / total_px
    alignment_4N = 2 * prediction_4N * truth_41 / (prediction_4N**2 + truth_41**2)
    return ((alignment_4N + 1) ** 2 / 4 * pixels_4N).sum(axis=0) / total_px
