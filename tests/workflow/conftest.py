"""Two small phantom data sets, one short training that all workflow tests look at, and the two commands."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import run as run_bundle

from bundle.trackers import default_tracking_uri
from prsmed.cli import main
from prsmed.data.phantoms import write_phantoms

SHORT = {"max_epochs": 3, "val_interval": 1, "batch_size": 6, "device": "cpu"}
"""Three epochs over 19 things to ask: seconds. Nothing is learned that would be worth scoring."""


@dataclass(frozen=True)
class Trained:
    """A finished run: its folder, the MLflow store it was recorded in, the data it saw."""

    folder: Path
    tracking_uri: str
    dataset_dir: Path

    @property
    def model(self) -> str:
        """The best model's folder, as `--model` takes it."""
        return str(self.folder / "best")

    def settings(self, **changes: Any) -> dict[str, Any]:
        """Config values of a run like this one, which was called `whole`."""
        return {**SHORT, "dataset_dir": str(self.dataset_dir), "runs_dir": str(self.folder.parent), **changes}


@pytest.fixture(autouse=True, scope="session")
def at_the_bundle_root(repository: Path):
    """Configs name each other relative to the bundle's root."""
    with contextlib.chdir(repository):
        yield


@pytest.fixture(autouse=True)
def the_usual_excepthook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run sets its own."""
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 pictures and 2 volumes; 7 things to ask in val (one is absent) and 7 in test, each with one finding."""
    return write_phantoms(tmp_path_factory.mktemp("data") / "phantoms", pictures=24, volumes=2, seed=3)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, phantoms: Path, repository: Path) -> Trained:
    """A short training from its config, never interrupted, then scored on the test split."""
    runs = tmp_path_factory.mktemp("runs")
    whole = Trained(runs / "whole", default_tracking_uri(runs), phantoms)
    train(**whole.settings(run_name="whole"))
    return whole


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An MLflow store for evaluations nobody looks up: making one takes longer than filling it."""
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'store.db'}"


@pytest.fixture(scope="session")
def prsmed() -> Callable[..., int]:
    """The `prsmed` command in this process; gives its exit code."""

    def command(*arguments: object) -> int:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as exit_:
            patch.setattr(sys, "argv", ["prsmed", *map(str, arguments)])
            main()
        return exit_.value.code or 0

    return command


def train(**overrides: Any) -> None:
    """`python -m monai.bundle run training --config_file configs/train.json` in this process."""
    run_bundle(run_id="training", config_file="configs/train.json", logging_file=False, **overrides)


def command_line(words: Sequence[str], overrides: dict[str, Any]) -> list[str]:
    """Arguments of `monai.bundle run` with overrides, as a person types them."""
    options = [
        [f"--{name}", value if isinstance(value, str) else json.dumps(value)] for name, value in overrides.items()
    ]
    return [*words, *(word for option in options for word in option)]


def run_process(*words: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, with this process's number of threads: sums depend on it."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": os.getcwd()}
    command = [sys.executable, *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
