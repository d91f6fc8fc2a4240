"""MediSee from its configs: trained, killed and resumed, evaluated both ways, asked, and fine-tuned."""

import json
from pathlib import Path

import pytest
import torch
from monai.bundle import run as run_bundle
from safetensors.torch import load_file

from bundle.engines import build_trainable
from bundle.handlers import GradientClipper
from prsmed.models.checkpoints import read_info, verified_file
from prsmed.models.presets import build_text
from tests.unit.queries_set import write_query_set

CONFIGS = ["configs/train.json", "configs/task_medisee.json"]
SETTINGS = {"max_epochs": 2, "val_interval": 1, "batch_size": 2, "num_workers": 0, "device": "cpu"}
TERMS = {"ce", "bce", "dice", "l1", "giou"}


def _train(configs: list[str], **overrides: object) -> None:
    run_bundle(run_id="training", config_file=configs, logging_file=False, **{**SETTINGS, **overrides})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures to train on, two to validate on, none for a test."""
    folder = tmp_path_factory.mktemp("queries") / "data"
    write_query_set(folder, splits=("train", "train", "val", "val"))
    return folder


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    _train(CONFIGS, dataset_dir=str(data), runs_dir=str(runs), run_name="whole")
    return runs / "whole"


def test_a_model_knows_its_task_and_what_it_was_trained_with(trained: Path) -> None:
    info = read_info(trained / "best")
    assert (info["task"], info["preset"]) == ("medisee", "tiny")
    assert info["targets"] == {"liver": "organ", "spleen": "organ"}
    assert list(info["score"]) == ["val/overall/giou"]
    settings = json.loads((trained / "config.json").read_text(encoding="utf-8"))
    assert settings["mixture"] == {"naming": 7, "reasoning": 3} and set(settings["loss_weights"]) == TERMS | {
        "absent",
        "coarse",
        "named",
        "recall",
    }


def test_a_killed_run_goes_on_exactly(data: Path, trained: Path, tmp_path: Path, monkeypatch) -> None:
    clip = GradientClipper._clip

    def die_in_epoch_2(self, engine):
        if engine.state.epoch == 2:
            raise KeyboardInterrupt
        clip(self, engine)

    settings = {"dataset_dir": str(data), "runs_dir": str(tmp_path)}
    with monkeypatch.context() as patch, pytest.raises((KeyboardInterrupt, RuntimeError)):
        patch.setattr(GradientClipper, "_clip", die_in_epoch_2)
        _train(CONFIGS, run_name="killed", **settings)
    assert read_info(tmp_path / "killed" / "last")["epoch"] == 1
    _train(CONFIGS, resume=str(tmp_path / "killed"), **settings)
    weights, expected = (load_file(verified_file(run / "last", "weights")) for run in (tmp_path / "killed", trained))
    assert weights.keys() == expected.keys()
    assert not [name for name in weights if not torch.equal(weights[name], expected[name])]


@pytest.mark.parametrize("mode", ["free", "forced"])
def test_own_questions_are_evaluated_by_kind_and_length(mode: str, data, trained, tmp_path, prsmed, store) -> None:
    out = tmp_path / "evaluation"
    arguments = ("--dataset-dir", data, "--model", trained / "best", "--split", "val", "--out", out)
    assert prsmed("evaluate", *arguments, "--mode", mode, "--tracking-uri", store) == 0
    scores = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    assert set(scores["queries"]) == {
        *("attribute/long", "attribute/short", "location/short", "naming/long", "naming/short")
    }
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 12 and all(row["decoder_box_iou"] is not None for row in rows)
    assert prsmed("evaluate", *arguments, "--score-only", "--tracking-uri", store) == 0
    again = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    assert again["overall"] == scores["overall"]
    other = "forced" if mode == "free" else "free"
    assert prsmed("evaluate", *arguments, "--mode", other, "--tracking-uri", store) == 1  # another evaluation's folder


def test_a_baseline_is_asked_the_same_questions(data, tmp_path, prsmed, store) -> None:
    out = tmp_path / "constant"
    arguments = ("--dataset-dir", data, "--split", "val", "--out", out, "--baseline", "constant", "--queries")
    assert prsmed("evaluate", *arguments, "--tracking-uri", store) == 0
    scores = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    assert scores["queries"]["naming/short"]["n"] == 4
    assert scores["overall"]["decoder_box_iou"] is None
    assert scores["overall"]["names_target"] == 1  # a baseline is told what is meant


def test_it_is_asked_on_the_command_line(data: Path, trained: Path, tmp_path: Path, prsmed, capsys) -> None:
    command = ("ask", "--task", "medisee", data / "image0.png", "Which organ makes bile?", "--modality", "ct")
    arguments = ("--model", trained / "best", "--out", tmp_path / "answer", "--mode", "forced")
    assert prsmed(*command, *arguments) == 0
    record = json.loads((tmp_path / "answer" / "answer.json").read_text(encoding="utf-8"))
    assert record["question"] == "Which organ makes bile?" and "detected_box_xyxy_px" in record["objects"][0]
    assert prsmed("ask", "--task", "prs_med", *command[3:], *arguments) == 1
    assert "was trained for medisee, not for prs_med" in capsys.readouterr().err


def test_the_similarity_loss_goes_on_from_a_trained_model(data: Path, trained: Path, tmp_path: Path) -> None:
    configs = [*CONFIGS, "configs/finetune_similarity.json"]
    stages = [{"name": "tune", "share": 1.0, "trainable": ["language.*", "heads.[!c]*", "prompting.decoder.*"]}]
    settings = {"dataset_dir": str(data), "runs_dir": str(tmp_path), "run_name": "tuned", "max_epochs": 1}
    _train(configs, start_from=str(trained / "best"), stages=stages, **settings)
    before, after = (load_file(verified_file(run / "best", "weights")) for run in (trained, tmp_path / "tuned"))
    assert before.keys() == after.keys()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert any(name.startswith("heads.seg_router") for name in changed)
    assert not any(name.startswith("prompting.prompts") for name in changed)


def test_a_coarse_mask_learns_from_names_then_words_then_drawing(data: Path, tmp_path: Path, prsmed) -> None:
    parts = ("context.", "cells.", "named.", "bias", "log_sharpness")
    resting = tuple(f"heads.coarse.{part}" for part in parts)
    patterns = {
        "see": [f"{name}*" for name in resting],
        "words": ["language.*", "heads.seg_router.*", "heads.box_*", "heads.coarse.query.*"],
        "draw": ["heads.project.*", "heads.coarse.shown", "prompting.decoder.*"],
    }
    weights = {**dict.fromkeys(TERMS, 1.0), "coarse": 2.0, "named": 2.0, "absent": 0.5, "recall": 1.0}
    kept: dict[str, dict[str, torch.Tensor]] = {}
    for name, stages in (("see", ["see"]), ("whole", [*patterns])):
        stages = [{"name": stage, "share": 1 / len(stages), "trainable": patterns[stage]} for stage in stages]
        settings = {"preset": "tiny_coarse", "stages": stages, "loss_weights": weights, "run_name": name}
        epochs = {"max_epochs": len(stages), "val_interval": len(stages)}
        _train(CONFIGS, dataset_dir=str(data), runs_dir=str(tmp_path), **settings, **epochs)
        kept[name] = load_file(verified_file(tmp_path / name / "last", "weights"))
    changed = {name for name in kept["see"] if not torch.equal(kept["see"][name], kept["whole"][name])}
    assert any(name.startswith("language.") for name in changed)
    assert any(name.startswith("prompting.decoder.") for name in changed) and "heads.coarse.shown" in changed
    assert not any(name.startswith((*resting, "encoder.")) for name in changed)
    text = build_text("medisee", "tiny_coarse")
    first = build_trainable("medisee", "tiny_coarse", text=text, device="cpu", seed=0).state_dict()
    learned = {name for name in kept["see"] if not torch.equal(kept["see"][name], first[name])}
    assert "heads.coarse.cells.0.weight" in learned and "heads.coarse.named.1.weight" in learned
    assert not any(name.startswith(("language.", "prompting.", "heads.box", "heads.project")) for name in learned)
    command = ("ask", "--task", "medisee", data / "image0.png", "Which organ makes bile?", "--modality", "ct")
    assert prsmed(*command, "--model", tmp_path / "whole" / "last", "--out", tmp_path / "answer") == 0
