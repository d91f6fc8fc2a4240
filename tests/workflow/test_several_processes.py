"""Two processes on the CPU train together, and score a model as one process does."""

import json
import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import torch
from monai.bundle import run as run_bundle

from bundle.report import run_evaluation
from prsmed.metrics.answers import selection_score
from prsmed.models.checkpoints import read_info
from tests.workflow.conftest import Trained, command_line, run_process

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "monai.bundle", "run")


def test_two_processes_train_and_score(trained: Trained, tmp_path: Path) -> None:
    settings = trained.settings(runs_dir=str(tmp_path / "runs"), run_name="pair", max_epochs=1)
    del settings["device"]  # the overlay's
    configs = ["configs/train.json", "configs/multi_gpu_train.json"]
    process = run_process(*command_line([*TORCHRUN, "training", "--config_file", str(configs)], settings))
    assert process.returncode == 0, process.stdout + process.stderr
    folder = tmp_path / "runs" / "pair"
    assert read_info(folder / "last")["epoch"] == 1
    best = read_info(folder / "best")
    test, val = (evaluated(str(folder / "best"), split, trained, tmp_path / split) for split in ("test", "val"))
    assert json.loads((folder / "test" / "scores.json").read_text()) == test
    # In training, too: each rank's batch-norm statistics are its own until a validation starts.
    assert best["score"]["val/selection"] == pytest.approx(selection_score(val), abs=1e-12)


def test_two_processes_score_as_one(trained: Trained, tmp_path: Path) -> None:
    """Seven things to ask: one rank has four, the other three. Forked: starting them anew takes half a minute."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    settings = {"model": trained.model, "dataset_dir": str(trained.dataset_dir), "output_dir": str(tmp_path / "pair")}
    settings["tracking_uri"] = f"sqlite:///{tmp_path / 'store.db'}"
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=evaluate_as_rank, args=(rank, port, settings)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=120)
        process.kill()  # where it hangs
    assert [process.exitcode for process in ranks] == [0, 0]
    scores = json.loads((tmp_path / "pair" / "scores.json").read_text())
    assert scores == json.loads((trained.folder / "test" / "scores.json").read_text())
    pair, alone = (
        [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
        for folder in (tmp_path / "pair", trained.folder / "test")
    )
    assert [row.pop("presence_prob") for row in pair] == pytest.approx([row.pop("presence_prob") for row in alone])
    assert pair == alone


def evaluated(model: str, split: str, trained: Trained, folder: Path) -> dict:
    return run_evaluation(
        "configs/evaluate.json",
        model=model,
        split=split,
        dataset_dir=str(trained.dataset_dir),
        output_dir=str(folder),
        device="cpu",
        tracking_uri=f"sqlite:///{folder}/store.db",
    )


def evaluate_as_rank(rank: int, port: int, settings: dict) -> None:
    torch.set_num_threads(1)  # threads do not survive a fork
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    configs = ["configs/evaluate.json", "configs/multi_gpu_evaluate.json"]
    run_bundle(run_id="evaluating", config_file=configs, logging_file=False, **settings)
