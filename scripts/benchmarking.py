"""What the benchmarks share: alternating timings in one run, peak memory per variant, ratios as a table and JSON."""

from __future__ import annotations

import json
import multiprocessing
import re
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

Variant = Callable[[], object]


def alternate(variants: Mapping[str, Variant], *, rounds: int) -> dict[str, list[float]]:
    """Seconds of each variant, taken in turn (A B C, A B C, ...) after one warm-up, so that drift hits all alike."""
    for run in variants.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def peak_memory_mib(make: Callable[[], Mapping[str, Variant]], name: str, *, repeats: int = 3) -> float:
    """Peak resident memory of a fresh process that runs one variant, in MiB."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_measure, (make, name, repeats))


def _measure(make: Callable[[], Mapping[str, Variant]], name: str, repeats: int) -> float:
    run = make()[name]
    for _ in range(repeats):
        run()
    return peak_mib()


def peak_mib() -> float:
    """Peak resident memory of this process so far."""
    # ru_maxrss would do elsewhere; on Linux a new process starts with its parent's.
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return int(re.search(r"VmHWM:\s+(\d+)", status.read_text(encoding="utf-8"))[1]) / 1024  # type: ignore[index]


def report(
    title: str, seconds: Mapping[str, list[float]], memory_mib: Mapping[str, float], *, ours: str, out: Path | None
) -> None:
    """Print medians and the ratio of `ours` to every variant, round by round; write the same as JSON."""
    table = Table(title=title)
    for heading in ("variant", "median s", f"{ours} / variant", "peak MiB", "memory ratio"):
        table.add_column(heading)
    content = {}
    for name, values in seconds.items():
        ratio = statistics.median(mine / other for mine, other in zip(seconds[ours], values, strict=True))
        memory_ratio = memory_mib[ours] / memory_mib[name]
        content[name] = {
            "median_s": statistics.median(values),
            "ratio": ratio,
            "peak_mib": memory_mib[name],
            "memory_ratio": memory_ratio,
        }
        cells = (statistics.median(values), ratio, memory_mib[name], memory_ratio)
        table.add_row(name, *(f"{cell:.3g}" for cell in cells))
    Console().print(table)
    if out:
        out.write_text(json.dumps({"title": title, "variants": content}, indent=2) + "\n", encoding="utf-8")
