"""Time and memory of the authors' protocol on 50 soft maps, beside the loop over its 256 thresholds.

    python -m scripts.benchmark_protocol [--masks "FOLDER/**/masks/*.png"] [--rounds 3] [--out protocol.json]

Two tables: maps of 8 bits, and of float32. The loop computes Dice and IoU; ours computes the E-measure as well. Without
`--masks`, the masks are those of phantoms.
"""

from __future__ import annotations

import glob
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from scipy import ndimage

from prsmed.data.phantoms import make_picture
from prsmed.data.readers.picture import read_picture
from prsmed.metrics.protocol import THRESHOLDS, protocol_scores, protocol_scores_float
from prsmed.types import MODALITIES
from scripts.benchmarking import Variant, alternate, peak_memory_mib, report

N_MASKS = 50
SHIFT_PX = (6, -9)
BLUR_PX = 4.0


def read_masks(pattern: str | None) -> list[np.ndarray]:
    """Fifty bool masks that are not empty, evenly from the files of the pattern, or from phantoms."""
    if pattern is None:
        makers = [partial(make_picture, MODALITIES[index % len(MODALITIES)], 0, index) for index in range(4 * N_MASKS)]
        masks = (make()[1] > 0 for make in makers)
    else:
        files = sorted(glob.glob(pattern, recursive=True))
        masks = (read_picture(file).array[..., 0] > 0 for file in files[:: max(1, len(files) // (2 * N_MASKS))])
    return [mask_HW for mask_HW, _ in zip((mask for mask in masks if mask.any()), range(N_MASKS), strict=False)]


def soften(mask_HW: np.ndarray) -> np.ndarray:
    """A prediction that is off: the mask moved and blurred, float32 in 0 to 1."""
    moved_HW = ndimage.shift(mask_HW.astype(np.float32), SHIFT_PX, order=0)
    return np.clip(ndimage.gaussian_filter(moved_HW, BLUR_PX), 0, 1)


def threshold_loop(prob_HW: np.ndarray, truth_HW: np.ndarray) -> tuple[float, float]:
    """Dice and IoU averaged over the thresholds, one comparison of the whole map for each."""
    dice, iou = [], []
    for threshold in THRESHOLDS:
        predicted_HW = prob_HW >= threshold
        hit_px = np.logical_and(predicted_HW, truth_HW).sum()
        total_px = predicted_HW.sum() + truth_HW.sum()
        dice.append(2 * hit_px / total_px if hit_px else 0.0)
        iou.append(hit_px / (total_px - hit_px) if hit_px else 0.0)
    return float(np.mean(dice)), float(np.mean(iou))


def make_variants(pattern: str | None, bits: str) -> dict[str, Callable[[], object]]:
    """All maps scored in one pass each, and by the loop."""
    masks = read_masks(pattern)
    soft = [soften(mask_HW) for mask_HW in masks]
    if bits == "float32":
        pairs = list(zip(soft, masks, strict=True))
        return {
            "ours": lambda: [protocol_scores_float(*pair) for pair in pairs],
            "loop over thresholds": lambda: [threshold_loop(*pair) for pair in pairs],
        }
    coded = [(np.rint(prob_HW * 255).astype(np.uint8), mask_HW) for prob_HW, mask_HW in zip(soft, masks, strict=True)]
    return {
        "ours": lambda: [protocol_scores(*pair) for pair in coded],
        "loop over thresholds": lambda: [threshold_loop(codes_HW / 255, mask_HW) for codes_HW, mask_HW in coded],
    }


def main(
    masks: Annotated[
        str | None, typer.Option(help="Glob pattern of mask pictures, ** for folders of any depth.")
    ] = None,
    rounds: int = 3,
    out: Annotated[Path | None, typer.Option(help="Write the figures as JSON, one file per table.")] = None,
) -> None:
    """Print ratios of the protocol."""
    for bits in ("8-bit", "float32"):
        make = partial(make_variants, masks, bits)
        variants: dict[str, Variant] = make()
        seconds = alternate(variants, rounds=rounds)
        memory = {name: peak_memory_mib(make, name, repeats=1) for name in variants}
        target = out.with_stem(f"{out.stem}_{bits}") if out else None
        report(f"authors' protocol, {bits} maps", seconds, memory, ours="ours", out=target)


if __name__ == "__main__":
    typer.run(main)
