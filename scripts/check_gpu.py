"""The first things to run on a machine with a GPU, in order, with a report (docs/gpu_checklist.md).

python -m scripts.check_gpu --out gpu_report.md
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
_LIBRARIES = ("torch", "transformers", "peft", "monai", "bitsandbytes")
_TAIL_LINES = 25


@dataclass(frozen=True)
class Check:
    """One line of the list: what it shows, and the command; `gpus` are how many it needs."""

    title: str
    command: tuple[str, ...]
    gpus: int = 1


@dataclass(frozen=True)
class Result:
    """How a check ended."""

    check: Check
    outcome: str
    seconds: float
    output: str = ""


def checks(scratch: Path) -> list[Check]:
    """The list, cheap and telling things first."""
    train = ("-m", "monai.bundle", "run", "training", "--config_file")
    short = ("--max_epochs", "2", "--runs_dir", str(scratch / "runs"), "--phantoms_dir", str(scratch / "phantoms"))
    pair = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    both = "['configs/train.json','configs/multi_gpu_train.json']"
    return [
        Check("memory of every preset, on shapes alone", ("-m", "scripts.memory_budget"), gpus=0),
        Check("tests that need CUDA", ("-m", "pytest", "-q", "-m", "cuda", "tests/cuda")),
        Check("parity with the original networks", ("-m", "pytest", "-q", "tests/parity"), gpus=0),
        Check("a short training of tiny, bf16", (*train, "configs/train.json", "--run_name", "one", *short)),
        Check("two GPUs, whole copies (DDP)", (*pair, *train, both, "--run_name", "ddp", *short), gpus=2),
        Check(
            "two GPUs, shards (FSDP)", (*pair, *train, both, "--run_name", "fsdp", "--sharded", "True", *short), gpus=2
        ),
    ]


def run(check: Check, *, minutes: float) -> Result:
    """Run one check in a process of its own; a check that lacks GPUs is skipped and says so."""
    found = torch.cuda.device_count()
    if found < check.gpus:
        return Result(check, f"skipped: needs {check.gpus} GPU, found {found}", 0.0)
    started = time.perf_counter()
    command = [sys.executable, *check.command]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60 * minutes, check=False
        )
    except subprocess.TimeoutExpired:
        return Result(check, f"FAILED: not done after {minutes:g} minutes", time.perf_counter() - started)
    output = "\n".join((done.stdout + done.stderr).splitlines()[-_TAIL_LINES:])
    outcome = "passed" if done.returncode == 0 else f"FAILED: exit code {done.returncode}"
    return Result(check, outcome, time.perf_counter() - started, output)


def machine() -> list[str]:
    """GPUs and library versions."""
    lines = [] if torch.cuda.is_available() else ["no GPU: torch finds no CUDA device on this machine"]
    for index in range(torch.cuda.device_count()):
        one = torch.cuda.get_device_properties(index)
        lines.append(f"GPU {index}: {one.name}, {one.total_memory / 1e9:.0f} GB, compute {one.major}.{one.minor}")
    lines.append(f"bf16: {torch.cuda.is_available() and torch.cuda.is_bf16_supported()}; CUDA: {torch.version.cuda}")
    return lines + [f"{name} {_version(name)}" for name in _LIBRARIES]


def report(results: list[Result]) -> str:
    """The report as Markdown."""
    lines = ["# GPU check", "", *(f"- {line}" for line in machine()), "", "| check | outcome | s |", "|---|---|---|"]
    lines += [f"| {one.check.title} | {one.outcome} | {one.seconds:.0f} |" for one in results]
    for one in results:
        if one.output:
            command = " ".join(one.check.command)
            lines += ["", f"## {one.check.title}", "", f"`python {command}`", "", "```", one.output, "```"]
    return "\n".join(lines) + "\n"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def main(
    out: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("gpu_report.md"),
    minutes: Annotated[float, typer.Option(help="The most a check may take.")] = 30.0,
) -> None:
    """Run every check; the exit code is 1 where one failed."""
    console, results = Console(stderr=True), []
    with tempfile.TemporaryDirectory() as scratch:
        for check in checks(Path(scratch)):
            results.append(run(check, minutes=minutes))
            console.print(f"{check.title}: {results[-1].outcome}")
            out.write_text(report(results), encoding="utf-8")
    typer.echo(str(out))
    raise typer.Exit(int(any(one.outcome.startswith("FAILED") for one in results)))


if __name__ == "__main__":
    typer.run(main)
