"""Two processes on the CPU train together, and score a model as one process does."""

import multiprocessing
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import run as run_bundle

from bundle.evaluation import run_evaluation
from prsmed.metrics.summary import selection_score
from prsmed.models.checkpoints import read_info
from tests.workflow.conftest import Trained, command_line, run_process

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "monai.bundle", "run")


FEW = {"gates::per_gate": 3, "batch_size": 1}
"""45 things to ask, one at a time: in batches of other sizes the same sums may end in another last bit."""


def test_two_processes_train_and_score(trained: Trained, tmp_path: Path, store: str) -> None:
    settings = trained.settings(runs_dir=str(tmp_path / "runs"), run_name="pair", max_epochs=1)
    del settings["device"]  # the overlay's
    configs = ["configs/train.json", "configs/multi_gpu_train.json"]
    process = run_process(*command_line([*TORCHRUN, "training", "--config_file", str(configs)], settings))
    assert process.returncode == 0, process.stdout + process.stderr
    folder = tmp_path / "runs" / "pair"
    assert read_info(folder / "last")["epoch"] == 1
    best = read_info(folder / "best")
    settings = evaluation(trained, store, model=str(folder / "best"), device="cpu")
    run_evaluation("configs/evaluate.json", **settings, output_dir=str(tmp_path / "test"))
    val = run_evaluation("configs/evaluate.json", **settings, output_dir=str(tmp_path / "val"), split="val", gates=None)
    assert (folder / "test" / "scores.json").read_text() == (tmp_path / "test" / "scores.json").read_text()
    # In training, too: each rank's batch-norm statistics are its own until a validation starts.
    assert best["score"]["val/selection"] == pytest.approx(selection_score(val), abs=1e-12)


def test_two_processes_score_as_one(trained: Trained, tmp_path: Path, store: str) -> None:
    """One rank has 23 of 45 things to ask, the other 22. Forked: starting them anew takes half a minute."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    settings = evaluation(trained, store, model=trained.model, **FEW)
    fork = multiprocessing.get_context("fork")
    ranks = [
        fork.Process(target=evaluate_as_rank, args=(rank, port, {**settings, "output_dir": str(tmp_path / "pair")}))
        for rank in range(2)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=120)
        process.kill()  # where it hangs
    assert [process.exitcode for process in ranks] == [0, 0]
    stored = [(tmp_path / "pair" / "predictions" / f"answers-{rank}.jsonl").read_text() for rank in range(2)]
    assert [len(answers.splitlines()) for answers in stored] == [23, 22]
    run_evaluation("configs/evaluate.json", **settings, output_dir=str(tmp_path / "alone"), device="cpu")
    for name in ("scores.json", "rows.jsonl"):
        assert (tmp_path / "pair" / name).read_text() == (tmp_path / "alone" / name).read_text()


def evaluation(trained: Trained, store: str, **changes: Any) -> dict[str, Any]:
    """Settings of an evaluation on the test split."""
    return {"dataset_dir": str(trained.dataset_dir), "tracking_uri": store, **changes}


def evaluate_as_rank(rank: int, port: int, settings: dict) -> None:
    torch.set_num_threads(1)  # threads do not survive a fork
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    configs = ["configs/evaluate.json", "configs/multi_gpu_evaluate.json"]
    run_bundle(run_id="evaluating", config_file=configs, logging_file=False, **settings)


def test_a_rank_that_fails_ends_the_run(trained: Trained, tmp_path: Path) -> None:
    """The other rank is already waiting for it; nobody may wait for ever."""
    settings = trained.settings(runs_dir=str(tmp_path / "runs"), run_name="broken", max_epochs=1)
    del settings["device"]  # the overlay's
    settings["learning_rate"] = "$1 / (1 - idist.get_rank())"
    configs = ["configs/train.json", "configs/multi_gpu_train.json"]
    process = run_process(*command_line([*TORCHRUN, "training", "--config_file", str(configs)], settings))
    assert process.returncode != 0
    assert "ZeroDivisionError" in process.stderr
