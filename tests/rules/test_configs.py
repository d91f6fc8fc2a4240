"""Every value of a config is read: referenced from a config, or known to MONAI by its name."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser
from monai.bundle.properties import InferProperties, TrainProperties

# Run ids: `initialize`, `run`, `finalize` are MONAI's defaults, the others are what our commands name.
RUN_IDS = {"imports", "initialize", "run", "finalize", "training", "evaluating", "inferring"}
RUN_IDS |= {"predicting", "scoring", "questions"}
OVERLAYS = {
    "encoder_open.json": "train.json",
    "evaluate_baseline.json": "evaluate.json",
    "evaluate_external.json": "evaluate.json",
    "evaluate_stored.json": "evaluate.json",
    "finetune.json": "train.json",
    "finetune_similarity.json": "task_medisee.json",
    "medisee_adapters.json": "task_medisee.json",
    "medisee_coarse.json": "task_medisee.json",
    "medisee_further.json": "medisee_coarse.json",
    "medisee_llava_med_7b.json": "task_medisee.json",
    "multi_gpu_evaluate.json": "evaluate.json",
    "multi_gpu_train.json": "train.json",
    "preset_llava_med_7b.json": "train.json",
    "preset_small.json": "train.json",
    "task_medisee.json": "train.json",
    "train_unet.json": "train.json",
}
"""Configs that replace values of another one, which is read before them."""
MONAI_IDS = {entry["id"] for properties in (TrainProperties, InferProperties) for entry in properties.values()}
MONAI_IDS |= {"output_dir"}  # of `run --tracking mlflow`
_REFERENCE = re.compile(r"[@%]([A-Za-z_]\w*(?:(?:::|#)\w+)*)")


def normal_id(item_id: str) -> str:
    """An id as MONAI keeps it: `+train#handlers` (merge, old separator) is `train::handlers`."""
    return item_id.lstrip("+").replace("#", "::")


def references(content: Any) -> Iterator[str]:
    """Every id that the strings of a config refer to."""
    if isinstance(content, dict):
        for value in content.values():
            yield from references(value)
    elif isinstance(content, list):
        for value in content:
            yield from references(value)
    elif isinstance(content, str) and content[:1] in ("$", "@", "%"):
        yield from (normal_id(item_id) for item_id in _REFERENCE.findall(content))


def unread_ids(configs: dict[str, dict[str, Any]], overlays: dict[str, str]) -> list[str]:
    """Ids of values nobody reads, as `file: id`. A config reads its own values, and those of all overlays on it."""
    unread = []
    for name, content in configs.items():
        read, base = {*references(content)} | MONAI_IDS | RUN_IDS, name
        while base := overlays.get(base):
            read |= {*references(configs[base])}
        unread += [f"{name}: {item_id}" for item_id in _unread(content, "", read)]
    return unread


def _unread(content: dict[str, Any], section: str, read: set[str]) -> Iterator[str]:
    for key, value in content.items():
        item_id = section + normal_id(key)
        parts = item_id.split("::")
        if any("::".join(parts[: depth + 1]) in read for depth in range(len(parts))):
            continue
        is_section = isinstance(value, dict) and value and "_target_" not in value
        if is_section and any(other.startswith(f"{item_id}::") for other in read):
            yield from _unread(value, f"{item_id}::", read)
        elif not any(other.startswith(f"{item_id}::") for other in read):
            yield item_id


def test_every_config_value_is_read(repository: Path) -> None:
    files = [file for file in sorted((repository / "configs").glob("*.json")) if file.name != "metadata.json"]
    configs = {file.name: json.loads(file.read_text(encoding="utf-8")) for file in files}
    assert set(OVERLAYS) < set(configs)
    unread = unread_ids(configs, OVERLAYS)
    assert not unread, f"nobody reads {unread}"


def test_training_further_takes_all_of_its_epochs_for_words_and_drawing(repository: Path) -> None:
    """Its shares are set into the stages of medisee_coarse.json, by their numbers."""
    parser = ConfigParser()
    names = ("train", "preset_small", "task_medisee", "medisee_adapters", "medisee_coarse", "medisee_further")
    parser.read_config([str(repository / "configs" / f"{name}.json") for name in names])
    epochs = {stage["name"]: stage["share"] * parser["max_epochs"] for stage in parser["stages"]}
    assert epochs == pytest.approx({"see": 0, "words": 12, "draw": 2}, abs=0.01)
    assert sum(epochs.values()) == pytest.approx(parser["max_epochs"])


def test_unread_values_are_found() -> None:
    train = {
        "device": "cpu",
        "epochs": 3,
        "forgotten": 1,
        "train": {
            "optimizer": {"_target_": "torch.optim.AdamW", "lr": "@rate"},
            "schedule": {"warm_up": 2},
            "trainer": {"_target_": "Trainer", "max_epochs": "@epochs", "optimizer": "@train#optimizer"},
        },
        "run": ["$@train#trainer.run()"],
    }
    overlay = {"rate": 0.1, "train#optimizer#lr": 0.2, "train#sampler": None}
    other = {"rate": 0.3}
    configs = {"train.json": train, "preset_small.json": overlay, "evaluate.json": other}
    assert unread_ids(configs, {"preset_small.json": "train.json"}) == [
        "train.json: forgotten",
        "train.json: train::schedule",
        "preset_small.json: train::sampler",
        "evaluate.json: rate",
    ]
