"""Throughput of slice preparation beside a plain PIL and NumPy loop of the same work, one process and two.

    python -m scripts.benchmark_slices [--slices 100] [--rounds 5] [--out slices.json]

A synthetic CT volume (512 x 512, int16, 0.8 mm) lies in memory, stored in RAS order. Both ways take each axial slice as
displayed, apply the CT window of configs/train.json, resample to 1 mm and then to the configured long side, and give
three channels of float32. `prsmed` runs the steps of configs/train.json; the loop does the same with PIL and NumPy.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image

from prsmed.data.preprocessing import Preprocessing
from prsmed.types import SliceRef, SourceImage
from scripts.benchmarking import alternate, peak_memory_mib, report

STEPS = json.loads((Path(__file__).parents[1] / "configs/train.json").read_text(encoding="utf-8"))[
    "preprocessing_steps"
]
SPACING_MM = (0.8, 0.8, 1.0)
OURS, PLAIN = "prsmed", "PIL and NumPy"


def make_volume(slices: int) -> SourceImage:
    """Smooth blobs of -1000 to 1000 HU, so that a difference between the two ways would show."""
    generator = np.random.default_rng(0)
    coarse = generator.normal(size=(16, 16, slices)).astype(np.float32)
    array_ijk = np.empty((512, 512, slices), np.int16, order="F")
    for index in range(slices):
        blobs = Image.fromarray(coarse[:, :, index]).resize((512, 512), Image.Resampling.BICUBIC)
        array_ijk[:, :, index] = np.clip(np.asarray(blobs) * 500, -1000, 1000)
    return SourceImage(array_ijk, np.diag([*SPACING_MM, 1.0]), SPACING_MM, path="synthetic")


def prepare_by_prsmed(volume: SourceImage, indices: range) -> np.ndarray:
    """The last of the canonical images, float32 (3, h, w)."""
    torch.set_num_threads(1)
    prepared = Preprocessing(STEPS).prepare(volume, modality="ct")
    for index in indices:
        canonical, _ = prepared.slice(SliceRef("axial", index))
    return canonical.numpy()


def prepare_by_loop(volume: SourceImage, indices: range) -> np.ndarray:
    """The same by hand: turn, window, resize twice, three channels."""
    window = next(step for step in STEPS if step["transform"] == "ScaleIntensityRanged")
    side = STEPS[-1]["long_side_px"]
    low, high = window["a_min"], window["a_max"]
    size_1mm = (round(512 * SPACING_MM[0]), round(512 * SPACING_MM[1]))
    for index in indices:
        shown_HW = volume.array[::-1, ::-1, index].T.astype(np.float32)
        grey_HW = np.clip((shown_HW - low) / (high - low), 0, 1)
        square = Image.fromarray(grey_HW).resize(size_1mm, Image.Resampling.BILINEAR)
        resized = square.resize((side, side), Image.Resampling.BILINEAR)
        canonical = np.repeat(np.asarray(resized)[None], 3, axis=0)
    return canonical


def make_variants(slices: int) -> dict[str, Callable[[], object]]:
    """Both ways, in this process."""
    volume = make_volume(slices)
    return {
        OURS: partial(prepare_by_prsmed, volume, range(slices)),
        PLAIN: partial(prepare_by_loop, volume, range(slices)),
    }


def in_two_processes(prepare: Callable[[SourceImage, range], np.ndarray], volume: SourceImage, slices: int) -> None:
    """Each of two forked processes does half, as two workers of a data loader would."""
    context = multiprocessing.get_context("fork")
    halves = (range(slices // 2), range(slices // 2, slices))
    workers = [context.Process(target=prepare, args=(volume, half)) for half in halves]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def main(
    slices: int = 100,
    rounds: int = 5,
    out: Annotated[Path | None, typer.Option(help="Write the figures as JSON, one file for each number.")] = None,
) -> None:
    """Print seconds and ratios for all slices, in one process and in two."""
    make = partial(make_variants, slices)
    variants = make()
    difference = float(np.abs(variants[OURS]() - variants[PLAIN]()).max())
    typer.echo(f"largest difference of the last slice between the two ways: {difference:.3f} of 1")
    memory = {name: peak_memory_mib(make, name, repeats=1) for name in variants}
    seconds = alternate(variants, rounds=rounds)
    report(f"{slices} slices, one process", seconds, memory, ours=OURS, out=out)
    volume = make_volume(slices)
    ways = {OURS: prepare_by_prsmed, PLAIN: prepare_by_loop}
    pairs = {name: partial(in_two_processes, way, volume, slices) for name, way in ways.items()}
    report(
        f"{slices} slices, two processes (memory: of one)",
        alternate(pairs, rounds=rounds),
        memory,
        ours=OURS,
        out=out and out.with_stem(f"{out.stem}_two"),
    )


if __name__ == "__main__":
    typer.run(main)
