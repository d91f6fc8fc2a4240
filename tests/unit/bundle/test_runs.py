"""A run's name and folders, and what is written down about it."""

from pathlib import Path

import pytest
import torch

import bundle.runs
from bundle.runs import Run, git_commit, model_info, run_parameters
from prsmed import __version__
from prsmed.data.manifest import Manifest
from prsmed.errors import CheckpointError
from prsmed.models.checkpoints import save_model


def test_names_are_unique_and_nothing_is_made(tmp_path: Path) -> None:
    runs = [Run(str(tmp_path), "tiny") for _ in range(3)]
    assert len({run.name for run in runs}) == 3 and all("-tiny-" in run.name for run in runs)
    assert runs[0].folder == tmp_path / runs[0].name and not runs[0].resumed
    assert (runs[0].best, runs[0].last) == (runs[0].folder / "best", runs[0].folder / "last")
    assert not list(tmp_path.iterdir())


def test_a_name_can_be_given(tmp_path: Path) -> None:
    assert Run(str(tmp_path), "tiny", name="first").folder == tmp_path / "first"


def test_a_run_is_found_again(tmp_path: Path, repository: Path) -> None:
    tokenizer = repository / "models" / "tiny" / "tokenizer.json"
    info = {"task": "prs_med", "preset": "tiny"}
    state = {"tracking_id": "abc"}
    save_model(tmp_path / "old" / "last", torch.nn.Linear(1, 1), info, tokenizer_file=tokenizer, training_state=state)
    run = Run("elsewhere", "tiny", resume=str(tmp_path / "old"))
    assert (run.name, run.folder, run.tracking_id, run.resumed) == ("old", tmp_path / "old", "abc", True)


def test_only_a_run_with_a_last_checkpoint_can_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"last/model\.json to resume from; give a folder such as runs/NAME"):
        Run("runs", "tiny", resume=str(tmp_path))


def test_outside_a_working_copy_the_commit_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle.runs, "__file__", str(tmp_path / "bundle" / "runs.py"))
    assert git_commit() == "unknown"


def test_parameters_say_what_a_run_stands_on(phantom_manifest: Manifest) -> None:
    parameters = run_parameters(phantom_manifest, {"seed": 3})
    assert (parameters["seed"], parameters["data_cases"], parameters["world_size"]) == (3, 26, 1)
    assert parameters["data_fingerprint"] == phantom_manifest.fingerprint()
    assert parameters["versions"]["torch"] == torch.__version__


def test_a_model_says_what_it_was_trained_on(phantom_manifest: Manifest) -> None:
    info = model_info(
        phantom_manifest,
        task="prs_med",
        preset="tiny",
        name="first",
        preprocessing=[{"transform": "ToCanonicald", "long_side_px": 128}],
        zone_rule="posmed",
        thresholds={"mask": 0.5, "presence": 0.5},
    )
    assert info["modalities"] == ["ct", "dermoscopy", "endoscopy", "mri", "ultrasound", "x-ray"]
    assert (info["targets"]["polyp"], info["targets"]["lungs"]) == ("lesion", "organ")
    assert info["targets_by_modality"]["endoscopy"] == ["polyp"]
    assert (info["version"], info["data_licences"], info["licence"]) == (__version__, ["Apache-2.0"], "Apache-2.0")
