"""Time and peak memory of one question about a whole volume, for several numbers of slices and formats.

    python -m scripts.benchmark_volume [--model tiny] [--slices 50,200,600] [--formats nii,nii.gz,dicom] [--out v.json]

Volumes are generated, int16. What the readers map (an uncompressed NIfTI, the temporary file of all others) counts as
resident while it is looked at, but the system may drop it at any time. So memory is told three ways: all that was
resident, what of it is no file (anonymous, above the loaded model), and that beyond the mask of one byte a voxel. The
mask takes memory only where something is drawn, so the last one may be below zero. DICOM files are those of the tests:
uncompressed, JPEG-LS, or all frames in one enhanced file.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import threading
import time
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from prsmed.data.writers.nifti import write_nifti
from prsmed.data.writers.nrrd import write_label_nrrd
from prsmed.predictor import Predictor
from prsmed.types import SourceImage
from prsmed.volumes import VolumeOptions
from scripts.benchmarking import peak_mib
from tests.unit.data.readers.made_dicom import enhanced, save, save_compressed, slice_of

QUESTION = "Where is the lung nodule in this CT image?"
MIB = 2**20
JPEG_LS = "1.2.840.10008.1.2.4.80"
"""The transfer syntax JPEG-LS Lossless (PS3.5 A.4.3)."""


def write_volume(folder: Path, kind: str, *, side: int, slices: int) -> Path:
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
    path = folder / f"volume.{kind.removeprefix('raw ')}"
    affine_ijk_to_ras = np.diag([0.7, 0.7, 1.0, 1.0])
    if kind.startswith("nii"):
        write_nifti(path, voxels_ijk, affine_ijk_to_ras)
        return path
    if kind.endswith("nrrd"):
        grid = SourceImage(voxels_ijk, affine_ijk_to_ras=affine_ijk_to_ras)
        write_label_nrrd(path, voxels_ijk, grid, compress=kind == "nrrd")
        return path
    write_dicom(folder, kind, voxels_ijk.transpose(2, 1, 0))
    return folder


def write_dicom(folder: Path, kind: str, voxels_KHW: np.ndarray) -> None:
    """The same as DICOM: one file a slice, plain or compressed, or one file."""
    tags = {"PixelSpacing": [0.7, 0.7], "SliceThickness": 1}
    if kind == "enhanced":
        positions = [[0.0, 0.0, float(index)] for index in range(len(voxels_KHW))]
        save(folder, enhanced(voxels_KHW, positions, [1.0] * len(voxels_KHW)))
        return
    for index, pixels_HW in enumerate(voxels_KHW):
        dataset = slice_of(index, pixels_HW, ImagePositionPatient=[0, 0, index], **tags)
        if kind == "jpeg-ls":
            save_compressed(folder / f"{index}.dcm", dataset, JPEG_LS)
        else:
            save(folder, dataset, names=[f"{index}.dcm"])


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
    started, cpu_started = time.perf_counter(), time.process_time()
    session = predictor.open(path, modality="ct", volume=VolumeOptions(batch_size=batch_size))
    opened = time.perf_counter() - started
    answer = session.ask(QUESTION)
    seconds = time.perf_counter() - started
    is_done.set()
    watcher.join()
    mask_mib = answer.mask_ijk.nbytes / MIB
    anonymous = max(most[0], anonymous_mib()) - before
    return {
        "seconds": seconds,
        "cpu_s": time.process_time() - cpu_started,
        "peak_mib": peak_mib(),
        "open_s": opened,
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
    formats: Annotated[str, typer.Option(help="Of nii, nii.gz, nrrd, raw nrrd, dicom, jpeg-ls and enhanced.")] = (
        "nii,nii.gz,nrrd,dicom"
    ),
    side: Annotated[int, typer.Option(help="Rows and columns of a slice.")] = 512,
    batch_size: int = 8,
    out: Annotated[Path | None, typer.Option(help="Write the figures as JSON.")] = None,
) -> None:
    """Print seconds and memory, each volume in a process of its own."""
    found: list[dict[str, Any]] = []
    for kind, count in product(formats.split(","), map(int, slices.split(","))):
        with TemporaryDirectory() as folder, multiprocessing.get_context("spawn").Pool(1) as pool:
            path = write_volume(Path(folder), kind, side=side, slices=count)
            found.append({"format": kind, "slices": count, **pool.apply(ask_once, (str(path), model, batch_size))})
    title = f"one question about a volume of {side} x {side}, batches of {batch_size}, {model}"
    headings = {
        "format": "format",
        "slices": "slices",
        "seconds": "s",
        "cpu_s": "CPU s",
        "open_s": "s to open",
        "ms": "CPU ms / slice",
        "volume_mib": "volume MiB",
        "peak_mib": "peak resident MiB",
        "anonymous_mib": "anonymous above the model",
        "mask_mib": "mask MiB",
        "beyond_mask_mib": "beyond the mask",
    }
    table = Table(*headings.values(), title=title)
    for row in found:
        row["ms"] = 1000 * row["cpu_s"] / row["slices"]
        table.add_row(row["format"], *(f"{row[name]:.4g}" for name in list(headings)[1:]))
    Console().print(table)
    if out:
        out.write_text(json.dumps({"title": title, "volumes": found}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
