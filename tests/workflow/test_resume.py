"""A run that was killed and resumed is the run that was never killed, to the last bit."""

import json
from pathlib import Path

import torch
from mlflow import MlflowClient
from safetensors.torch import load_file

from prsmed.models.checkpoints import load_training_state, read_info, verified_file
from tests.workflow.conftest import Trained, command_line, run_process, train

# Four batches an epoch: iteration 6 is in the middle of epoch 2.
DIE_IN_EPOCH_2 = """
import os, signal
from bundle.handlers import GradientClipper
clip = GradientClipper._clip
def clip_or_die(self, engine):
    if engine.state.iteration == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    clip(self, engine)
GradientClipper._clip = clip_or_die
"""
# The weights of `last` are renamed into place, its training state is half written, model.json is the old one.
DIE_WHILE_WRITING = """
import os, signal, torch
def half(state, path):
    path.write_bytes(b"half a checkpoint")
    os.kill(os.getpid(), signal.SIGKILL)
torch.save = half
"""
AS_COMMAND = "import runpy, sys\nsys.argv[0] = 'monai.bundle'\nrunpy.run_module('monai.bundle', run_name='__main__')\n"


def start_and_die(how: str, settings: dict) -> None:
    words = command_line(["run", "training", "--config_file", "configs/train.json"], settings)
    process = run_process("-c", how + AS_COMMAND, *words)
    assert process.returncode == -9, process.stdout + process.stderr


def test_a_killed_run_goes_on_exactly(trained: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    settings = trained.settings(runs_dir=str(tmp_path))
    start_and_die(DIE_IN_EPOCH_2, {**settings, "run_name": "killed"})
    assert read_info(folder / "last")["epoch"] == 1
    tracking_id = load_training_state(folder / "last")["tracking_id"]

    start_and_die(DIE_WHILE_WRITING, {**settings, "resume": str(folder)})
    assert read_info(folder / "last")["epoch"] == 1
    assert any(path.suffix == ".part" for path in (folder / "last").iterdir())

    train(**settings, resume=str(folder))
    for name in ("last", "best"):
        weights, expected = (load_file(verified_file(run / name, "weights")) for run in (folder, trained.folder))
        assert weights.keys() == expected.keys()
        assert not [key for key in weights if not torch.equal(weights[key], expected[key])]
        assert read_info(folder / name)["epoch"] == read_info(trained.folder / name)["epoch"]
    state, whole = load_training_state(folder / "last"), load_training_state(trained.folder / "last")
    assert state["best_score"] == whole["best_score"]
    assert state["scheduler"] == whole["scheduler"]
    assert not any(path.suffix == ".part" for path in (folder / "last").iterdir())

    assert state["tracking_id"] == tracking_id
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlruns.db'}")
    experiment = client.get_experiment_by_name("prsmed")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(len(run.data.tags.get("mlflow.parentRunId", "")) for run in runs) == [0, 32]
    assert client.get_run(tracking_id).info.status == "FINISHED"
    scores = (json.loads((run / "test" / "scores.json").read_text()) for run in (folder, trained.folder))
    assert len({json.dumps({**content, "model": None}) for content in scores}) == 1
