"""What `python -m monai.bundle run training` leaves behind: a run folder and a record in MLflow."""

import getpass
import json
import logging
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from mlflow import MlflowClient
from mlflow.entities import Run
from monai.bundle import ConfigWorkflow
from safetensors.torch import load_file

from prsmed.data.manifest import read_manifest
from prsmed.metrics.rows import read_rows
from prsmed.models.checkpoints import read_info, verified_file
from prsmed.types import MODALITIES
from tests.workflow.conftest import Trained, train


def stored_runs(tracking_uri: str) -> dict[str, Run]:
    """All runs of a store by name; an evaluation's name without its time."""
    client = MlflowClient(tracking_uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return {str(run.info.run_name).partition("-2")[0]: run for run in client.search_runs(experiments)}


def artifacts(tracking_uri: str, run: Run, folder: str | None = None) -> set[str]:
    return {Path(entry.path).name for entry in MlflowClient(tracking_uri).list_artifacts(run.info.run_id, folder)}


@pytest.mark.parametrize("name", ["best", "last"])
def test_the_run_folder_has_whole_models(trained: Trained, name: str) -> None:
    info = read_info(trained.folder / name)
    assert load_file(verified_file(trained.folder / name, "weights"))
    assert verified_file(trained.folder / name, "tokenizer").suffix == ".json"
    assert ("training_state" in info) == (name == "last")
    assert (info["preset"], info["zone_rule"]) == ("tiny", "posmed")
    assert info["modalities"] == sorted(MODALITIES) and info["targets"]["polyp"] == "lesion"


def test_the_resolved_settings_are_kept(trained: Trained) -> None:
    settings = json.loads((trained.folder / "config.json").read_text())
    assert (settings["max_epochs"], settings["batch_size"], settings["val_interval"]) == (3, 6, 1)
    assert settings["dataset_dir"] == str(trained.dataset_dir)
    assert settings["stages"][-1]["trainable"] == ["*"]
    assert not [value for value in settings.values() if isinstance(value, str) and value.startswith(("@", "$", "%"))]


def test_the_best_model_is_scored_on_the_test_split(trained: Trained) -> None:
    folder = trained.folder / "test"
    scores = json.loads((folder / "scores.json").read_text())
    rows = read_rows(folder / "rows.jsonl")
    asked = [row for row in rows if not row.probe]
    cases = read_manifest(trained.dataset_dir).split("test")
    assert len(asked) == sum(len(case.targets) for case in cases) == 7 < len(rows)
    assert scores["model"]["weights_sha256"] == read_info(trained.folder / "best")["weights"]["sha256"]
    assert set(scores["modalities"]) == set(MODALITIES)
    assert scores["overall"]["n"] == sum(row.present for row in asked)
    dices = [row.mask.dice for row in asked if row.present]
    assert scores["overall"]["dice"] == pytest.approx(sum(dices) / len(dices))
    assert {name: peer["overall"]["n"] for name, peer in scores["baselines"].items()} == dict.fromkeys(
        ("constant", "chance", "oracle"), scores["overall"]["n"]
    )


def test_mlflow_has_the_training(trained: Trained) -> None:
    run = stored_runs(trained.tracking_uri)["whole"]
    assert run.info.status == "FINISHED"
    params, metrics = run.data.params, run.data.metrics
    assert (params["batch_size"], params["loss_weights.dice"], params["world_size"]) == ("6", "1.0", "1")
    assert params["data_fingerprint"] == read_manifest(trained.dataset_dir).fingerprint()
    assert params["git_commit"] and params["versions.torch"] == torch.__version__
    assert {"train/loss", "train/learning_rate", "train/dice", "train/ce", "train/presence"} <= set(metrics)
    assert {"val/overall/dice", "val/overall/zone_accuracy", "val/mri/dice", "val/mri/zone_accuracy"} <= set(metrics)
    history = MlflowClient(trained.tracking_uri).get_metric_history(run.info.run_id, "val/overall/dice")
    assert [point.step for point in history] == [1, 2, 3]
    assert [entry.dataset.name for entry in run.inputs.dataset_inputs] == ["train"]


def test_mlflow_has_the_pictures_the_settings_and_the_best_model(trained: Trained) -> None:
    run = stored_runs(trained.tracking_uri)["whole"]
    assert artifacts(trained.tracking_uri, run, "overlays") == {f"{modality}-0.png" for modality in MODALITIES}
    assert "config.json" in artifacts(trained.tracking_uri, run)
    assert artifacts(trained.tracking_uri, run, "best") == {path.name for path in (trained.folder / "best").iterdir()}


def test_mlflow_has_the_evaluation_as_a_run_of_its_own(trained: Trained) -> None:
    runs = stored_runs(trained.tracking_uri)
    run = runs["whole-test"]
    assert run.data.tags["mlflow.parentRunId"] == runs["whole"].info.run_id
    scores = json.loads((trained.folder / "test" / "scores.json").read_text())
    assert run.data.metrics["test/overall/dice"] == pytest.approx(scores["overall"]["dice"])
    assert {"scores.json", "rows.jsonl", "report"} <= artifacts(trained.tracking_uri, run)
    report = artifacts(trained.tracking_uri, run, "report")
    assert {"report.html", "report.md", "plots", "pictures"} == report
    pictures = artifacts(trained.tracking_uri, run, "report/pictures")
    assert pictures == {path.name for path in (trained.folder / "test" / "pictures").iterdir()}


def test_mlflow_names_no_person_and_no_machine(trained: Trained) -> None:
    for run in stored_runs(trained.tracking_uri).values():
        values = [*run.data.params.values(), *run.data.tags.values()]
        assert "mlflow.user" not in run.data.tags and run.info.user_id in (None, "", "unknown")
        assert not [value for value in values if value in (getpass.getuser(), socket.gethostname())]
        assert not [value for value in values if str(Path.home()) + "/" in value or str(trained.dataset_dir) in value]


def test_stages_freeze_and_thaw(trained: Trained, tmp_path: Path) -> None:
    """First what joins image and words, then all. What rests keeps its weights and its batch-norm statistics."""
    stages = [
        {"name": "join", "share": 0.5, "trainable": ["fusion.*", "decoder.*", "presence.*"]},
        {"name": "all", "share": 0.5, "trainable": ["*"], "learning_rate": 0.5},
    ]
    settings = trained.settings(runs_dir=str(tmp_path), stages=stages, max_epochs=2, val_interval=2)
    workflow = ConfigWorkflow("configs/train.json", workflow_type="train", logging_file=False, **settings)
    workflow.initialize()
    network = workflow.parser.get_parsed_content("network_def")
    states = [{name: tensor.clone() for name, tensor in network.state_dict().items()}]
    trainer = workflow.parser.get_parsed_content("train::trainer")
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED,
        lambda: states.append({name: value.clone() for name, value in network.state_dict().items()}),
    )
    workflow.run()
    before, joined, after = states

    def changed(first: dict[str, Any], second: dict[str, Any], part: str) -> list[str]:
        return [name for name in first if name.startswith(part) and not torch.equal(first[name], second[name])]

    resting = [name for name in before if not name.startswith(("fusion.", "decoder.", "presence."))]
    assert any("running_mean" in name for name in resting)
    assert not [name for name in resting if not torch.equal(before[name], joined[name])]
    assert changed(before, joined, "fusion.") and changed(before, joined, "decoder.")
    assert changed(joined, after, "encoder.") and changed(joined, after, "language.")
    assert any("running_mean" in name for name in changed(joined, after, "encoder."))


def test_training_goes_on_without_a_tracking_server(
    trained: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that dies in the middle is in tests/unit/bundle/test_trackers.py; here nothing listens at all."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        settings = trained.settings(runs_dir=str(tmp_path), run_name="alone", tracking_uri=address, max_epochs=1)
        with caplog.at_level(logging.WARNING, logger="bundle.trackers"):
            train(**settings)
    messages = [record.getMessage() for record in caplog.records if record.name == "bundle.trackers"]
    assert len(messages) == 2  # one for the training, one for the evaluation
    assert all("does not answer" in message and "Training goes on" in message for message in messages)
    assert (tmp_path / "alone" / "test" / "scores.json").is_file()


def test_without_a_test_split_the_training_still_ends_well(
    trained: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [json.loads(line) for line in (trained.dataset_dir / "manifest.jsonl").read_text().splitlines()]
    data = tmp_path / "data"
    data.mkdir()
    (data / "manifest.jsonl").write_text("\n".join(json.dumps(row) for row in rows if row["split"] != "test"))
    (data / "roots.json").write_text(json.dumps({".": str(trained.dataset_dir)}))
    train(**trained.settings(runs_dir=str(tmp_path), run_name="untested", dataset_dir=str(data), max_epochs=1))
    assert read_info(tmp_path / "untested" / "best")["epoch"] == 1
    assert "is not scored" in caplog.text
