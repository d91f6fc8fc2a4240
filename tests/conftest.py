"""What every test shares: quiet, offline, single-threaded libraries, and the way to real data where there is any."""

import os
from pathlib import Path

import pytest

# Before torch or mlflow is imported. The tests' tensors are too small to be worth a second thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository, which is the root of the bundle."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images: PRSMED_SHARED_DATA, else ../shared/data beside the repository; skips where absent."""
    folder = Path(os.environ.get("PRSMED_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real images are not on this machine: {folder} is absent; set PRSMED_SHARED_DATA to their folder")
    return folder
