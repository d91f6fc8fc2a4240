"""A small phantom data set, and what the training config says about preparing it."""

import json
from pathlib import Path
from typing import Any

import pytest

from prsmed.data.manifest import Manifest, read_manifest
from prsmed.data.phantoms import write_phantoms
from prsmed.data.preprocessing import Preprocessing


@pytest.fixture(scope="session")
def phantom_manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """24 pictures of the six modalities and 2 volumes."""
    return read_manifest(write_phantoms(tmp_path_factory.mktemp("bundle") / "data", pictures=24, volumes=2, seed=3))


@pytest.fixture(scope="session")
def train_config(repository: Path) -> dict[str, Any]:
    """configs/train.json as plain data."""
    return json.loads((repository / "configs" / "train.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def preprocessing(train_config: dict[str, Any]) -> Preprocessing:
    """The steps of the training config."""
    return Preprocessing(train_config["preprocessing_steps"])
