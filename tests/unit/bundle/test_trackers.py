"""What reaches MLflow, read back with MLflow's own client, and what happens where MLflow does not answer."""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from mlflow import MlflowClient
from mlflow.entities import Run
from monai.engines import SupervisedTrainer

from bundle import trackers
from bundle.trackers import Tracker, TrackingHandler, default_tracking_uri


@pytest.fixture(scope="module")
def store_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One SQLite store for all tests, for its tables take seconds to make; its folder's name is a hard one."""
    return default_tracking_uri(tmp_path_factory.mktemp("a store") / "50% é #1" / "out")


@pytest.fixture
def tracker(store_uri: str) -> Tracker:
    return Tracker(store_uri, run_name="test")


def stored_run(tracker: Tracker) -> Run:
    return MlflowClient(tracker.tracking_uri).get_run(tracker.run_id)


def history(tracker: Tracker, name: str) -> list[tuple[int, float]]:
    points = MlflowClient(tracker.tracking_uri).get_metric_history(tracker.run_id, name)
    return [(point.step, point.value) for point in points]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_params_are_flat_text(tracker: Tracker) -> None:
    tracker.log_params({"model": {"preset": "tiny", "depths": [2, 6]}, "seed": 7, "long": "x" * 9000, "none": None})
    params = stored_run(tracker).data.params
    assert params.pop("long") == "x" * 6000  # MLflow's limit
    assert params == {"model.preset": "tiny", "model.depths": "[2, 6]", "seed": "7", "none": "None"}


def test_metrics_are_scalars_under_clean_names(tracker: Tracker) -> None:
    tracker.log_metrics(
        {
            "val/x-ray/dice": torch.tensor(0.5),
            "val/X-Ray (PA), left": np.float32(0.25),
            "/a//../b": True,
            "count": 3,
            "none": None,
            "vector": np.zeros(3),
            "text": "0.5",
            "nested": {"dice": 1.0},
        },
        step=4,
    )
    metrics = stored_run(tracker).data.metrics
    assert metrics == {"val/x-ray/dice": 0.5, "val/X-Ray _PA__ left": 0.25, "a/b": 1.0, "count": 3.0}
    assert history(tracker, "count") == [(4, 3.0)]


def test_nan_is_kept(tracker: Tracker) -> None:
    tracker.log_metrics({"train/loss": float("nan")}, step=1)
    assert np.isnan(stored_run(tracker).data.metrics["train/loss"])


def test_files_texts_and_pictures_are_kept_beside_the_store(tracker: Tracker, tmp_path: Path) -> None:
    (tmp_path / "scores.json").write_text("{}")
    tracker.log_file(tmp_path / "scores.json", "scores")
    tracker.log_text("{}", "config/train.json")
    tracker.log_picture(np.zeros((4, 5, 3), np.uint8), "overlays/mri/epoch_1.png")
    client = MlflowClient(tracker.tracking_uri)
    for folder, name in (("scores", "scores.json"), ("config", "train.json"), ("overlays/mri", "epoch_1.png")):
        assert [file.path for file in client.list_artifacts(tracker.run_id, folder)] == [f"{folder}/{name}"]
    store = Path(tracker.tracking_uri.removeprefix("sqlite:///").replace("%25", "%")).parent
    assert (store / "mlruns" / tracker.run_id / "artifacts" / "overlays" / "mri" / "epoch_1.png").is_file()


def test_a_dataset_is_listed(tracker: Tracker) -> None:
    tracker.log_dataset("train", "0123456789abcdef" * 4, count=12)
    (entry,) = stored_run(tracker).inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == ("train", "0123456789abcdef0123456789abcdef0123")
    assert entry.dataset.profile == f'{{"cases": 12, "fingerprint": "{"0123456789abcdef" * 4}"}}'


def test_nothing_names_a_person_or_a_folder(store_uri: str) -> None:
    tracker = Tracker(store_uri, run_name="test", tags={"mlflow.parentRunId": "abc", "data": "/data/ward 3/set"})
    tracker.log_params({"out": Path("/data/jane/out"), "roots": ["/data/jane/a", r"D:\jane\b"], "rate": "1/2"})
    tracker.set_tags({"site": "one"})
    run = stored_run(tracker)
    assert run.info.user_id == "unknown"
    assert run.data.tags == {"mlflow.runName": "test", "mlflow.parentRunId": "abc", "data": "set", "site": "one"}
    assert run.data.params == {"out": "out", "roots": "[a, b]", "rate": "1/2"}
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == os.environ["DO_NOT_TRACK"] == "true"


def test_runs_of_one_name_stay_apart(store_uri: str) -> None:
    first, second = Tracker(store_uri, run_name="same"), Tracker(store_uri, run_name="same")
    first.log_metrics({"loss": 1.0}, step=1)
    second.log_metrics({"loss": 2.0}, step=1)
    assert first.run_id != second.run_id
    assert (history(first, "loss"), history(second, "loss")) == ([(1, 1.0)], [(1, 2.0)])


def test_a_run_goes_on_under_its_id(tracker: Tracker, caplog: pytest.LogCaptureFixture) -> None:
    tracker.log_params({"epochs": 10, "seed": 7})
    tracker.log_metrics({"loss": 1.0}, step=1)
    tracker.finish("KILLED")
    assert stored_run(tracker).info.status == "KILLED"

    resumed = Tracker(tracker.tracking_uri, run_name="another name", run_id=tracker.run_id)
    resumed.log_params({"epochs": 20, "seed": 7, "resumed_at": 1})
    resumed.log_metrics({"loss": 0.5}, step=2)
    run = stored_run(resumed)
    assert run.info.run_id == tracker.run_id and run.info.run_name == "test" and run.info.status == "RUNNING"
    assert run.data.params == {"epochs": "10", "seed": "7", "resumed_at": "1"}
    assert run.data.tags["changed.epochs"] == "20"
    assert history(resumed, "loss") == [(1, 1.0), (2, 0.5)]
    resumed.finish()
    assert stored_run(resumed).info.status == "FINISHED"
    assert not warnings(caplog)


def test_a_run_that_the_store_lost_is_made_anew(store_uri: str, caplog: pytest.LogCaptureFixture) -> None:
    deleted = Tracker(store_uri, run_name="deleted")
    MlflowClient(store_uri).delete_run(deleted.run_id)
    for lost_id in ("0" * 32, deleted.run_id):
        tracker = Tracker(store_uri, run_name="test", run_id=lost_id)
        tracker.log_metrics({"loss": 1.0}, step=1)
        assert tracker.run_id != lost_id and history(tracker, "loss") == [(1, 1.0)]
    assert [message.endswith("a new run is made") for message in warnings(caplog)] == [True, True]


def test_a_refused_item_does_not_stop_the_others(tracker: Tracker, caplog: pytest.LogCaptureFixture) -> None:
    tracker.log_file("missing.json")
    tracker.log_file("missing.json")
    tracker.log_picture(np.zeros((2, 2)), "a.png")
    tracker.log_metrics({"loss": 1.0}, step=1)
    assert history(tracker, "loss") == [(1, 1.0)]
    assert [message.partition(" (")[0] for message in warnings(caplog)] == [
        "MLflow did not take a file",
        "MLflow did not take a picture",
    ]


def test_disabled_does_nothing(tmp_path: Path) -> None:
    tracker = Tracker(default_tracking_uri(tmp_path), run_name="rank 1", enabled=False)
    tracker.log_metrics({"loss": 1.0}, step=1)
    tracker.finish()
    assert tracker.run_id is None
    assert not list(tmp_path.iterdir())


def test_the_environment_counts_only_where_nothing_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert Tracker("http://127.0.0.1:2", run_name="a").tracking_uri == "http://127.0.0.1:2"
    assert Tracker(None, run_name="a").tracking_uri == "http://127.0.0.1:1"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(tmp_path)
    assert Tracker(None, run_name="a").tracking_uri == default_tracking_uri(tmp_path)


class Unreliable:
    """Stands in for a client whose store can be switched off; counts how often it was asked for metrics."""

    alive = True
    asked = 0

    def __init__(self, real: MlflowClient) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def log_batch(self, *args: Any, **kwargs: Any) -> None:
        Unreliable.asked += 1
        if not Unreliable.alive:
            raise ConnectionError("connection refused")
        self._real.log_batch(*args, **kwargs)


def test_logging_goes_on_when_the_store_answers_again(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trackers, "MlflowClient", lambda **kwargs: Unreliable(MlflowClient(**kwargs)))
    monkeypatch.setattr(Unreliable, "asked", 0)
    tracker.log_metrics({"loss": 1.0}, step=1)
    monkeypatch.setattr(Unreliable, "alive", False)
    for step in range(2, 50):
        tracker.log_metrics({"loss": 1.0}, step=step)
    assert Unreliable.asked == 2  # the one that went well, and one try of the 48
    monkeypatch.setattr(tracker, "_retry_at_s", time.monotonic())  # a minute is over
    tracker.log_metrics({"loss": 1.0}, step=49)
    assert Unreliable.asked == 3
    monkeypatch.setattr(Unreliable, "alive", True)
    monkeypatch.setattr(tracker, "_retry_at_s", time.monotonic())  # and another
    tracker.log_metrics({"loss": 0.5}, step=50)
    assert history(tracker, "loss") == [(1, 1.0), (50, 0.5)]
    (message,) = warnings(caplog)
    assert message == (
        f"MLflow at {tracker.tracking_uri} does not answer (ConnectionError: connection refused). "
        "Training goes on; nothing more is logged until it answers again"
    )


def test_a_store_that_cannot_be_opened_costs_no_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "mlruns.db").write_text("not a database, but long enough to be taken for the header of one" * 9)
    started_s = time.monotonic()
    for folder in (tmp_path / "file", tmp_path):
        tracker = Tracker(default_tracking_uri(folder), run_name="test")
        tracker.log_metrics({"loss": 1.0}, step=1)
        tracker.finish()
        assert tracker.run_id is None
    assert time.monotonic() - started_s < 2  # MLflow alone: 102 s of retries each
    assert len(warnings(caplog)) == 2


def test_a_silent_server_costs_one_timeout(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        tracker = Tracker(f"http://jane:secret@127.0.0.1:{port}", run_name="test")
        started_s = time.monotonic()
        for step in range(100):
            tracker.log_metrics({"loss": 1.0}, step=step)
    assert time.monotonic() - started_s < 6  # two tries of 1 s, and some pause between them
    (message,) = warnings(caplog)
    assert "does not answer" in message and "secret" not in message and "jane" not in message


@pytest.fixture
def server(store_uri: str, tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A real MLflow server on a free port of this machine, in a process group of its own."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", store_uri, "--artifacts-destination", str(tmp_path / "files")]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # else it starts eight more processes
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        _wait_for_health(f"http://127.0.0.1:{port}/health", process, tmp_path / "server.log")
        yield f"http://127.0.0.1:{port}", process
    finally:
        _kill(process)


def _wait_for_health(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + 90
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=1):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"the MLflow server did not start:\n{log.read_text()[-2000:]}")


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_training_survives_its_server(
    server: tuple[str, subprocess.Popen[bytes]], store_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    address, process = server
    tracker = Tracker(address, experiment="live", run_name="test")
    tracker.log_params({"seed": 7})
    tracker.log_metrics({"val/mri/dice": 0.5, "nan": float("nan")}, step=1)
    tracker.log_picture(np.zeros((4, 5, 3), np.uint8), "overlays/mri.png")
    tracker.log_dataset("train", "abc", count=3)
    client = MlflowClient(address)
    assert [file.path for file in client.list_artifacts(tracker.run_id, "overlays")] == ["overlays/mri.png"]
    assert client.get_run(tracker.run_id).data.tags == {"mlflow.runName": "test"}
    assert not warnings(caplog)

    _kill(process)
    started_s = time.monotonic()
    for step in range(2, 100):
        tracker.log_metrics({"val/mri/dice": 0.6}, step=step)
    tracker.log_picture(np.zeros((4, 5, 3), np.uint8), "overlays/late.png")
    tracker.finish()
    assert time.monotonic() - started_s < 10
    (message,) = warnings(caplog)
    assert message.startswith(f"MLflow at {address} does not answer (ConnectionRefusedError: ")
    # the store itself has what was logged while the server lived
    run = MlflowClient(store_uri).get_run(tracker.run_id)
    assert run.data.params == {"seed": "7"} and run.data.metrics["val/mri/dice"] == 0.5


def small_trainer(iterations: int, handlers: list[Any]) -> SupervisedTrainer:
    network = torch.nn.Linear(2, 1)
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=[{"image": torch.ones(3, 2), "label": torch.zeros(3, 1)}] * iterations,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.125),
        loss_function=torch.nn.MSELoss(),
        train_handlers=handlers,
    )


def test_training_curves_of_a_monai_trainer(tracker: Tracker) -> None:
    losses: list[float] = []
    handler = TrackingHandler(tracker, every=2, terms=lambda: {"dice": 0.25, "skipped": None})
    trainer = small_trainer(iterations=5, handlers=[handler])
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: losses.append(float(e.state.output[0]["loss"])))
    trainer.run()
    assert history(tracker, "train/loss") == [(2, losses[1]), (4, losses[3])]
    assert history(tracker, "train/dice") == [(2, 0.25), (4, 0.25)]
    assert history(tracker, "train/learning_rate") == [(2, 0.125), (4, 0.125)]
    assert set(stored_run(tracker).data.metrics) == {"train/loss", "train/dice", "train/learning_rate"}


def test_a_mapping_of_losses_gives_a_curve_each(tracker: Tracker) -> None:
    engine = Engine(lambda engine, batch: {"loss": {"total": 2.0, "text": 0.5}})
    TrackingHandler(tracker, every=1).attach(engine)
    engine.run([0], max_epochs=1)
    assert stored_run(tracker).data.metrics == {"train/total": 2.0, "train/text": 0.5}


def test_a_validation_is_logged_at_the_trainers_step(tracker: Tracker) -> None:
    evaluator = Engine(lambda engine, batch: None)

    @evaluator.on(Events.EPOCH_COMPLETED)
    def measure(engine: Engine) -> None:
        engine.state.metrics = {"val/dice": 0.75, "val/x-ray/dice": 0.5, "table": {"mri": 1.0}}

    TrackingHandler(tracker).attach_evaluator(evaluator, step=lambda: 17)
    evaluator.run([0])
    assert history(tracker, "val/dice") == [(17, 0.75)]
    assert set(stored_run(tracker).data.metrics) == {"val/dice", "val/x-ray/dice"}


def test_a_rank_that_does_not_log_computes_no_terms(tmp_path: Path) -> None:
    def terms() -> dict[str, float]:
        raise AssertionError("reading a loss from the GPU waits for it")

    disabled = Tracker(default_tracking_uri(tmp_path), run_name="rank 1", enabled=False)
    small_trainer(iterations=2, handlers=[TrackingHandler(disabled, every=1, terms=terms)]).run()
