"""The U-Net baseline by MONAI's command: an overlay of the training config."""

import json
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from monai.bundle import run as run_bundle

from bundle.trackers import default_tracking_uri
from bundle.unet import UNetPredictor
from prsmed.data.manifest import read_manifest
from prsmed.models.checkpoints import read_info
from tests.workflow.conftest import SHORT

CONFIGS = ["configs/train.json", "configs/train_unet.json"]
NARROW = {"widths": [4, 8, 8], "frame_px": 32}


def train_unet(phantoms: Path, runs: Path, **changes: object) -> Path:
    """A run folder."""
    settings = {**SHORT, **NARROW, "dataset_dir": str(phantoms), "runs_dir": str(runs), "run_name": "unet", **changes}
    run_bundle(run_id="training", config_file=CONFIGS, logging_file=False, **settings)
    return runs / "unet"


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory, phantoms: Path) -> Path:
    return train_unet(phantoms, tmp_path_factory.mktemp("runs"))


def test_the_run_folder_has_a_model_that_loads(unet: Path, phantoms: Path) -> None:
    info = read_info(unet / "best")
    assert (info["task"], info["zone_rule"], info["network"]["widths"]) == ("unet", "posmed", [4, 8, 8])
    predictor = UNetPredictor.load(unet / "best")
    seen = {(case.modality, target.name) for case in read_manifest(phantoms).split("train") for target in case.targets}
    assert set(predictor.network.channel_of) == seen
    logits = predictor.network(torch.rand(1, 3, 60, 40), [("mri", "kneecap")], obj_image=torch.tensor([0]))
    assert logits.shape == (1, 1, 60, 40) and (logits == -torch.inf).all()


def test_the_model_is_scored_like_any_other_and_has_no_words(unet: Path) -> None:
    scores = json.loads((unet / "test" / "scores.json").read_text())
    assert scores["model"]["weights_sha256"] == read_info(unet / "best")["weights"]["sha256"]
    assert scores["overall"]["n"] > 0 and 0 <= scores["overall"]["dice"] <= 1
    assert scores["overall"]["zone_accuracy"] is None


def test_mlflow_has_the_training(unet: Path) -> None:
    client = MlflowClient(default_tracking_uri(unet.parent))
    runs = client.search_runs([entry.experiment_id for entry in client.search_experiments()])
    [run] = [run for run in runs if run.info.run_name == "unet"]
    assert run.info.status == "FINISHED"
    assert [other.data.tags["mlflow.parentRunId"] for other in runs if other is not run] == [run.info.run_id]
    assert (run.data.params["task"], run.data.params["max_minutes"]) == ("unet", "10")
    assert json.loads((unet / "config.json").read_text())["loss_weights"] == {"bce": 1.0, "dice": 1.0}
    assert {"train/loss", "train/dice", "val/overall/dice"} <= set(run.data.metrics)
    rates = [point.value for point in client.get_metric_history(run.info.run_id, "train/learning_rate")]
    assert rates == sorted(rates, reverse=True)


def test_the_clock_ends_the_training(phantoms: Path, tmp_path: Path) -> None:
    """A thousandth of a second: one iteration, and yet a validated model."""
    folder = train_unet(phantoms, tmp_path, max_minutes=1e-3 / 60, val_interval=50)
    assert read_info(folder / "best")["epoch"] == read_info(folder / "last")["epoch"] == 1
