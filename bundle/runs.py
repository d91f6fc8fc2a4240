"""One training run: its name, its folder, what is written about it, and how it is continued."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ignite.distributed as idist

from prsmed import __version__
from prsmed.data.manifest import Manifest
from prsmed.errors import CheckpointError
from prsmed.models.checkpoints import load_training_state

LIBRARIES = ("torch", "monai", "transformers", "pytorch-ignite", "mlflow", "numpy")


class Run:
    """A run's name and folders.

    Args:
        runs_dir: where runs are kept.
        preset: part of the name.
        resume: folder of the run to continue, or None for a new one.
        name: a name to use; None makes a unique one from the time.

    Raises:
        CheckpointError: `resume` names a folder without a last checkpoint.
    """

    def __init__(self, runs_dir: str, preset: str, *, resume: str | None = None, name: str | None = None):
        if resume and not (Path(resume) / "last" / "model.json").is_file():
            raise CheckpointError(
                f"{resume}: has no last/model.json to resume from; give a folder such as {runs_dir}/NAME"
            )
        unique = f"{datetime.now():%Y%m%d-%H%M%S}-{preset}-{secrets.token_hex(2)}"
        self.name = Path(resume).name if resume else idist.broadcast(name or unique, safe_mode=True)
        self.folder = Path(resume) if resume else Path(runs_dir) / self.name
        self.resumed = bool(resume)
        self.tracking_id = load_training_state(self.last)["tracking_id"] if resume else None

    @property
    def best(self) -> Path:
        """Model folder of the best epoch."""
        return self.folder / "best"

    @property
    def last(self) -> Path:
        """Model folder of the last epoch, with the state to resume from."""
        return self.folder / "last"


def git_commit() -> str:
    """The commit of the working copy, with `-dirty` where it has changes; "unknown" outside one."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def run_parameters(manifest: Manifest, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a run stands on, for MLflow: settings, data fingerprint, commit, library versions."""
    return {
        **settings,
        "data_fingerprint": manifest.fingerprint(),
        "data_cases": len(manifest.cases),
        "git_commit": git_commit(),
        "prsmed_version": __version__,
        "versions": {name: version(name) for name in LIBRARIES},
        "world_size": idist.get_world_size(),
    }


def model_info(
    manifest: Manifest, *, task: str, preset: str, name: str, preprocessing: list, zone_rule: str, thresholds: Mapping
) -> dict[str, Any]:
    """What a checkpoint says about itself: all that inference needs, and what it was trained on."""
    seen = [case for case in manifest.split("train") if case.modality]
    by_modality: dict[str, set[str]] = {}
    for case in seen:
        by_modality.setdefault(str(case.modality), set()).update(target.name for target in case.targets)
    licences = sorted({str(case.source.get("licence", "unstated")) for case in seen})
    return {
        "schema_version": 1,
        "name": name,
        "version": __version__,
        "task": task,
        "preset": preset,
        "base": None,
        "preprocessing": preprocessing,
        "zone_rule": zone_rule,
        "thresholds": dict(thresholds),
        "modalities": sorted({case.modality for case in seen if case.modality}),
        "targets": {target.name: target.kind for case in seen for target in case.targets},
        "targets_by_modality": {modality: sorted(names) for modality, names in sorted(by_modality.items())},
        "datasets": sorted({case.dataset for case in seen}),
        "data_fingerprint": manifest.fingerprint(),
        "data_licences": licences,
        "licence": "Apache-2.0" if licences == ["Apache-2.0"] else "research use: see data_licences",
    }
