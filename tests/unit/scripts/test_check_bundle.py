"""scripts/check_bundle.py: each rule refuses metadata that breaks it. Rules: MONAI bundle specification, metadata."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

import prsmed
from scripts.check_bundle import metadata_problems, workflow_problems

PINS = {"monai": "1.6.1", "torch": "2.13.0", "numpy": "2.4.6", "transformers": "5.23.0"}
_TENSOR = {
    "type": "image",
    "format": "magnitude",
    "num_channels": 3,
    "spatial_shape": [128, 128],
    "dtype": "float32",
    "value_range": [0, 1],
}
METADATA: dict[str, Any] = {
    "schema": "https://project-monai.github.io/schema/meta_schema_20240725.json",
    "version": prsmed.__version__,
    "changelog": {prsmed.__version__: "first"},
    "monai_version": "1.6.1",
    "pytorch_version": "2.13.0",
    "numpy_version": "2.4.6",
    "required_packages_version": {"transformers": "5.23.0"},
    "task": "t",
    "description": "d",
    "authors": "a",
    "copyright": "c",
    "network_data_format": {
        "inputs": {"image": _TENSOR, "question": "free text"},
        "outputs": {"pred": _TENSOR, "answer": "free text"},
    },
}


def test_good_metadata_passes() -> None:
    assert metadata_problems(METADATA, PINS) == []


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("authors", None, "authors"),
        ("version", "9.9.9", "version is 9.9.9"),
        ("changelog", {}, "changelog has no entry"),
        ("numpy_version", "1.0.0", "numpy is 1.0.0"),
        ("required_packages_version", {"transformers": "4.0"}, "transformers is 4.0"),
        ("references", "a paper", "references"),
        ("network_data_format/inputs", {"question": "free text", "image": _TENSOR}, "question comes first"),
        ("network_data_format/outputs", {"pred": {"type": "image", "dtype": "float32"}}, "outputs/pred"),
    ],
)
def test_each_rule_can_fail(path: str, value: Any, complaint: str) -> None:
    metadata = copy.deepcopy(METADATA)
    *sections, key = path.split("/")
    inner = metadata
    for section in sections:
        inner = inner[section]
    if value is None:
        del inner[key]
    else:
        inner[key] = value
    problems = metadata_problems(metadata, PINS)
    assert problems and complaint in problems[0]


def test_a_missing_property_is_found_and_nothing_is_built(tmp_path: Path) -> None:
    """The ids that monai.bundle.properties requires; building `no.such.Class` would fail."""
    nothing = {"_target_": "no.such.Class"}
    variables = {"bundle_root": ".", "device": "cpu", "dataset_dir": "data"}
    train = {"trainer": {**nothing, "max_epochs": 1}, "dataset": nothing, "inferer": nothing}
    infer = {**variables, "dataset": nothing, "evaluator": nothing, "network_def": nothing, "inferer": nothing}
    files = {"metadata": METADATA, "train": {**variables, "train": train}, "evaluate": infer, "inference": infer}
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    assert workflow_problems(tmp_path) == []
    del train["trainer"]["max_epochs"], infer["inferer"]
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    assert workflow_problems(tmp_path) == [
        "train.json: property max_epochs is missing",
        "evaluate.json: property inferer is missing",
        "inference.json: property inferer is missing",
    ]
