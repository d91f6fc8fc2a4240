"""Encoding a picture with and without kept memory: CPU seconds, page faults and peak memory, in processes of their own.

    python -m scripts.benchmark_allocation [--rounds 3] [--out allocation.json]

The setting holds for a whole process, so each round starts one process for each way, in turn. See
docs/decisions/kept_memory.md.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import statistics
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from prsmed.models.allocation import keep_freed_memory
from prsmed.models.presets import build_encoder, sizes
from scripts.benchmarking import peak_mib

PICTURES = 4


def encode(preset: str, keep: bool) -> tuple[float, float, float]:
    """CPU seconds and page faults of a picture after the first, and the process's peak memory in MiB."""
    if keep:
        keep_freed_memory()
    torch.set_num_threads(1)
    encoder = build_encoder(sizes("prs_med", preset)).eval()
    frame_BCHW = torch.rand(1, 3, encoder.frame.size_px, encoder.frame.size_px)
    with torch.no_grad():
        encoder(frame_BCHW)
        faults, started = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
        for _ in range(PICTURES):
            encoder(frame_BCHW)
    seconds = (time.process_time() - started) / PICTURES
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults) / PICTURES, peak_mib()


def main(
    preset: str = "small",
    rounds: int = 3,
    out: Annotated[Path | None, typer.Option(help="Write the figures as JSON.")] = None,
) -> None:
    """Print medians of both ways and their ratio."""
    found: dict[str, list[tuple[float, float, float]]] = {"kept": [], "returned": []}
    for _ in range(rounds):
        for name, rows in found.items():
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                rows.append(pool.apply(encode, (preset, name == "kept")))
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in found.items()}
    ratios = [kept / returned for kept, returned in zip(medians["kept"], medians["returned"], strict=True)]
    table = Table("freed memory is", "CPU s", "page faults", "peak MiB", title=f"one picture, {preset}, one thread")
    for name, row in {**medians, "kept / returned": ratios}.items():
        table.add_row(name, *(f"{value:.3g}" for value in row))
    Console().print(table)
    if out:
        out.write_text(json.dumps({**medians, "ratio": ratios}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
