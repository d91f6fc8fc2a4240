"""Scores of a predicted mask against the true one, and their collection over batches and processes.

The grid is the source picture's. Dice and IoU count pixels; NSD has MONAI's values; boxes are half-open. Regions are
the findings of `prsmed.text.findings`: 8-connected, small ones dropped, the largest always kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

import numpy as np
import torch
from monai.metrics import CumulativeIterationMetric
from scipy.spatial import KDTree

from prsmed.errors import DataError
from prsmed.geometry import mask_to_box
from prsmed.metrics.rows import MaskScores
from prsmed.text.findings import components, default_min_area_px

Spacing = tuple[float, float]

# The criterion of medical object detection, where the question is whether a lesion was seen, not how well it was
# outlined (Baumgartner et al. 2021, nnDetection). A mask over the whole picture reaches it with no small lesion.
LESION_MIN_IOU = 0.1


@dataclass(frozen=True)
class Tolerance:
    """How far two surfaces may lie apart and still agree: in mm where the pixel size is known, else in pixels."""

    mm: float = 2.0
    px: float = 2.0


def score_masks(
    predicted_HW: np.ndarray, truth_HW: np.ndarray, *, tolerance: Tolerance, spacing_hw_mm: Spacing | None = None
) -> MaskScores:
    """All scores of one mask. Both masks empty is right (1), one of two empty is wrong (0), for every score.

    Args:
        predicted_HW: bool, on the grid of the source picture.
        truth_HW: bool, the same grid.
        tolerance: of the NSD; `tolerance.mm` holds where the spacing is given, else `tolerance.px`.
        spacing_hw_mm: size of a pixel, rows then columns.

    Raises:
        DataError: a mask is not a bool picture, or the two lie on different grids.
    """
    _check(predicted_HW, truth_HW)
    min_area_px = default_min_area_px(truth_HW.shape)
    window = mask_to_box(predicted_HW | truth_HW)
    if window is not None:
        # Nothing outside counts, and a surface at the window's edge is the one at the picture's: MONAI pads with zero.
        x0, y0, x1, y1 = window
        predicted_HW, truth_HW = predicted_HW[y0:y1, x0:x1], truth_HW[y0:y1, x0:x1]
    predicted_px, truth_px = int(predicted_HW.sum()), int(truth_HW.sum())
    intersection_px = int((predicted_HW & truth_HW).sum())
    union_px = predicted_px + truth_px - intersection_px
    if predicted_px and truth_px:
        dice, iou = 2 * intersection_px / (predicted_px + truth_px), intersection_px / union_px
        nsd = _nsd(predicted_HW, truth_HW, tolerance, spacing_hw_mm)
        box_iou = box_iou_of(mask_to_box(predicted_HW), mask_to_box(truth_HW))  # type: ignore[arg-type]
    else:
        dice = iou = nsd = box_iou = float(union_px == 0)
    lesions = _match_lesions(predicted_HW, truth_HW, min_area_px)
    return MaskScores(dice, iou, nsd, intersection_px, union_px, box_iou, *lesions)


def _check(predicted_HW: np.ndarray, truth_HW: np.ndarray) -> None:
    for name, mask_HW in (("predicted", predicted_HW), ("true", truth_HW)):
        if mask_HW.ndim != 2 or mask_HW.dtype != np.bool_:
            raise DataError(f"{name} mask is {mask_HW.dtype} {mask_HW.shape}; expected bool (H, W): threshold it first")
    if predicted_HW.shape != truth_HW.shape:
        raise DataError(
            f"predicted mask is {predicted_HW.shape}, the true one is {truth_HW.shape}; bring it to the source grid"
        )


def _nsd(predicted_HW: np.ndarray, truth_HW: np.ndarray, tolerance: Tolerance, spacing_hw_mm: Spacing | None) -> float:
    """The surface Dice of two masks, neither empty, as MONAI's `compute_surface_dice` gives it, to the last digit.

    MONAI spends most of its time on looking for a GPU library and on cropping, which here has been done already.
    """
    size_hw = spacing_hw_mm or (1.0, 1.0)
    limit = np.float32(tolerance.px if spacing_hw_mm is None else tolerance.mm)
    outlines_N2 = [_outline_px(mask_HW) * size_hw for mask_HW in (predicted_HW, truth_HW)]
    trees = [KDTree(outline_N2, leafsize=32) for outline_N2 in outlines_N2]
    distances_N = [tree.query(outline_N2)[0] for tree, outline_N2 in zip(trees, reversed(outlines_N2), strict=True)]
    near = sum(int(np.count_nonzero(distance_N.astype(np.float32) <= limit)) for distance_N in distances_N)
    return float(np.float32(near / sum(map(len, distances_N))))


def _outline_px(mask_HW: np.ndarray) -> np.ndarray:
    """Row and column (N, 2) of the mask's pixels that have one of four neighbours outside, beyond the picture too."""
    padded_HW = np.pad(mask_HW, 1)
    inside_HW = padded_HW[:-2, 1:-1] & padded_HW[2:, 1:-1] & padded_HW[1:-1, :-2] & padded_HW[1:-1, 2:]
    return np.argwhere(mask_HW & ~inside_HW) + 1  # counted from MONAI's margin, or distances differ in the last digit


def box_iou_of(one_xyxy_px: Sequence[float], other_xyxy_px: Sequence[float]) -> float:
    """Intersection over union of two half-open boxes, in one unit."""
    x0, y0 = (max(pair) for pair in zip(one_xyxy_px[:2], other_xyxy_px[:2], strict=True))
    x1, y1 = (min(pair) for pair in zip(one_xyxy_px[2:], other_xyxy_px[2:], strict=True))
    overlap_px = max(0, x1 - x0) * max(0, y1 - y0)
    return overlap_px / (_area_px(one_xyxy_px) + _area_px(other_xyxy_px) - overlap_px)


def _area_px(box_xyxy_px: Sequence[float]) -> float:
    x0, y0, x1, y1 = box_xyxy_px
    return (x1 - x0) * (y1 - y0)


def _match_lesions(predicted_HW: np.ndarray, truth_HW: np.ndarray, min_area_px: int) -> tuple[int, int, int]:
    """True regions, true regions found, and predicted regions that are false.

    A true and a predicted region hit each other where their IoU reaches `LESION_MIN_IOU`. One region may hit several:
    two lesions drawn as one are both found, two pieces of one lesion are both right. What hits a true region that is
    too small to count is neither.
    """
    predicted_labels_HW, predicted = components(predicted_HW, min_area_px)
    truth_labels_HW, true = components(truth_HW, min_area_px)
    shape = int(truth_labels_HW.max(initial=0)) + 1, int(predicted_labels_HW.max(initial=0)) + 1
    pairs_HW = np.ravel_multi_index((truth_labels_HW, predicted_labels_HW), shape)
    pixels = np.bincount(pairs_HW.ravel(), minlength=shape[0] * shape[1]).reshape(shape)
    overlap_px = pixels[:, predicted]
    union_px = pixels.sum(axis=1)[:, None] + pixels.sum(axis=0)[predicted][None] - overlap_px
    hits = overlap_px / union_px >= LESION_MIN_IOU
    hits[0] = False  # the background
    return len(true), int(hits[true].any(axis=1).sum()), int((~hits.any(axis=0)).sum())


def giou(scores: Sequence[MaskScores]) -> float | None:
    """The mean IoU of images ("gIoU" of reasoning segmentation, not the generalised IoU); None without any."""
    return float(np.mean([score.iou for score in scores])) if scores else None


def ciou(scores: Sequence[MaskScores]) -> float | None:
    """Cumulative IoU: summed intersections over summed unions; 1 where all masks are empty, None without any."""
    union_px = sum(score.union_px for score in scores)
    if not scores or not union_px:
        return 1.0 if scores else None
    return sum(score.intersection_px for score in scores) / union_px


class MaskMetric(CumulativeIterationMetric):
    """`score_masks` over batches and processes: one float64 row [index, *MaskScores] a sample.

    Called with `y_pred` and `y` as lists of bool (1, H, W) of any sizes, the samples' `index`, and where known their
    `spacing_hw_mm`. Whole numbers up to 2**53 survive in float64.
    """

    def __init__(self, tolerance: Tolerance | None = None) -> None:
        self.tolerance = tolerance or Tolerance()
        super().__init__()

    def reset(self) -> None:
        """Forget all samples."""
        super().reset()
        # A process without a sample would not take part in MONAI's gathering, and the others would wait for ever.
        self.append(torch.full((1 + len(fields(MaskScores)),), -1.0, dtype=torch.float64))

    def _compute_list(self, y_pred: Any, y: Any = None, **kwargs: Any) -> torch.Tensor:
        rows = []
        spacings = kwargs.get("spacing_hw_mm") or [None] * len(y_pred)
        for predicted_1HW, truth_1HW, index, spacing in zip(y_pred, y, kwargs["index"], spacings, strict=True):
            masks = (mask_1HW[0].cpu().numpy() for mask_1HW in (predicted_1HW, truth_1HW))
            scores = score_masks(*masks, tolerance=self.tolerance, spacing_hw_mm=spacing)
            rows.append([index, *astuple(scores)])
        return torch.tensor(rows, dtype=torch.float64)

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        return self._compute_list(y_pred, y, **kwargs)

    def aggregate(self) -> dict[int, MaskScores]:
        """The scores of every sample of all processes by its index; one that two processes hold counts once."""
        rows = {int(row[0]): row[1:] for row in self.get_buffer().tolist() if row[0] >= 0}
        return {index: _from_row(rows[index]) for index in sorted(rows)}


def _from_row(row: Sequence[float]) -> MaskScores:
    dice, iou, nsd, intersection_px, union_px, box_iou, *lesions = row
    return MaskScores(dice, iou, nsd, int(intersection_px), int(union_px), box_iou, *map(int, lesions))
