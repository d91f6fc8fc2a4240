"""Time and peak memory of one question about a whole volume, for several numbers of slices.

    python -m scripts.benchmark_volume [--model tiny] [--slices 50,200,600] [--side 512] [--out volume.json]

Volumes are generated, int16 and uncompressed. An uncompressed NIfTI is mapped: its pages count as resident while they
are looked at, but the system may drop them at any time. So memory is told three ways: all that was resident, what of it
is no file (anonymous, above the loaded model), and that beyond the mask of one byte a voxel. The mask takes memory only
where something is drawn, so the last one may be below zero.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from prsmed.data.writers.nifti import write_nifti
from prsmed.predictor import Predictor
from prsmed.volumes import VolumeOptions
from scripts.benchmarking import peak_mib

QUESTION = "Where is the lung nodule in this CT image?"
MIB = 2**20


def write_volume(path: Path, *, side: int, slices: int) -> None:
    """A body of soft tissue with two lungs and some nodules, in noise, one slice after the other."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] / side - 0.5
    body, lungs = (x / 0.42) ** 2 + (y / 0.32) ** 2 < 1, ((np.abs(x) - 0.19) / 0.13) ** 2 + (y / 0.22) ** 2 < 1
    voxels_ijk = np.empty((side, side, slices), dtype=np.int16, order="F")
    for index in range(slices):
        plane = np.where(lungs, -800.0, np.where(body, 40.0, -1000.0))
        center = 0.19 if index // 12 % 2 else -0.19
        if index % 12 < 6:
            plane[(x - center) ** 2 + y**2 < 0.03**2] = 60.0
        voxels_ijk[:, :, index] = plane.T + rng.normal(0, 20, plane.shape)
    write_nifti(path, voxels_ijk, np.diag([0.7, 0.7, 1.0, 1.0]))


def ask_once(path: str, model: str, batch_size: int) -> dict[str, float]:
    """One question in this process: seconds, and peak memory in MiB above what the loaded model takes."""
    predictor = Predictor.load(model)
    before, most = anonymous_mib(), [0.0]
    is_done = threading.Event()

    def watch() -> None:
        while not is_done.wait(0.02):
            most[0] = max(most[0], anonymous_mib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    session = predictor.open(path, modality="ct", volume=VolumeOptions(batch_size=batch_size))
    answer = session.ask(QUESTION)
    seconds = time.perf_counter() - started
    is_done.set()
    watcher.join()
    mask_mib = answer.mask_ijk.nbytes / MIB
    anonymous = max(most[0], anonymous_mib()) - before
    return {
        "seconds": seconds,
        "peak_mib": peak_mib(),
        "volume_mib": session.source.array.nbytes / MIB,
        "mask_mib": mask_mib,
        "anonymous_mib": anonymous,
        "beyond_mask_mib": anonymous - mask_mib,
    }


def anonymous_mib() -> float:
    """Memory of this process that is backed by no file (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"RssAnon:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


def main(
    model: str = "tiny",
    slices: Annotated[str, typer.Option(help="Numbers of slices, with commas between.")] = "50,200,600",
    side: Annotated[int, typer.Option(help="Rows and columns of a slice.")] = 512,
    batch_size: int = 8,
    out: Annotated[Path | None, typer.Option(help="Write the figures as JSON.")] = None,
) -> None:
    """Print seconds and memory, each number of slices in a process of its own."""
    found = []
    for count in map(int, slices.split(",")):
        with TemporaryDirectory() as folder, multiprocessing.get_context("spawn").Pool(1) as pool:
            path = Path(folder) / "volume.nii"
            write_volume(path, side=side, slices=count)
            found.append({"slices": count, **pool.apply(ask_once, (str(path), model, batch_size))})
    title = f"one question about a volume of {side} x {side}, batches of {batch_size}, {model}"
    headings = {
        "slices": "slices",
        "seconds": "s",
        "ms": "ms / slice",
        "volume_mib": "volume MiB",
        "peak_mib": "peak resident MiB",
        "anonymous_mib": "anonymous above the model",
        "mask_mib": "mask MiB",
        "beyond_mask_mib": "beyond the mask",
    }
    table = Table(*headings.values(), title=title)
    for row in found:
        row["ms"] = 1000 * row["seconds"] / row["slices"]
        table.add_row(*(f"{row[name]:.4g}" for name in headings))
    Console().print(table)
    if out:
        out.write_text(json.dumps({"title": title, "volumes": found}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
