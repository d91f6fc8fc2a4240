"""Scoring a model by the bundle's command and by `prsmed evaluate`: the same thing."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from monai.bundle import run as run_bundle

from bundle.failures import known_cause
from prsmed.errors import CheckpointError, DataError, PrsmedError, RequestError
from tests.workflow.conftest import Trained, train


def test_both_commands_give_the_same_scores(trained: Trained, tmp_path: Path, prsmed: Callable[..., int]) -> None:
    store = f"sqlite:///{tmp_path / 'store.db'}"
    data = trained.dataset_dir
    run_bundle(
        run_id="evaluating",
        config_file="configs/evaluate.json",
        logging_file=False,
        model=trained.model,
        dataset_dir=str(data),
        output_dir=str(tmp_path / "bundle"),
        tracking_uri=store,
    )
    options = ("--model", trained.model, "--out", tmp_path / "prsmed", "--tracking-uri", store)
    assert prsmed("evaluate", "--dataset-dir", data, *options) == 0
    for name in ("scores.json", "answers.jsonl"):
        contents = [(tmp_path / folder / name).read_text() for folder in ("bundle", "prsmed")]
        assert contents[0] == contents[1] == (trained.folder / "test" / name).read_text()
    pictures = {path.name for path in (tmp_path / "prsmed" / "pictures").iterdir()}
    assert {"mri-0.png", "x-ray-0.png", "x-ray-1.png"} <= pictures


def test_another_split(trained: Trained, tmp_path: Path, prsmed: Callable[..., int]) -> None:
    options = ("--model", trained.model, "--out", tmp_path, "--tracking-uri", f"sqlite:///{tmp_path / 'store.db'}")
    assert prsmed("evaluate", "--dataset-dir", trained.dataset_dir, "--split", "val", *options) == 0
    assert json.loads((tmp_path / "scores.json").read_text())["split"] == "val"


def bad_data(kind: str, tmp_path: Path) -> Path:
    folder = tmp_path / kind
    folder.mkdir()
    if kind == "empty manifest":
        (folder / "manifest.jsonl").write_text("")
    return folder


@pytest.mark.parametrize("kind", ["no manifest", "empty manifest"])
def test_evaluating_bad_data(
    kind: str, trained: Trained, tmp_path: Path, prsmed: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = bad_data(kind, tmp_path)
    options = ("--model", trained.model, "--out", tmp_path / "out", "--tracking-uri", f"sqlite:///{tmp_path}/store.db")
    assert prsmed("evaluate", "--dataset-dir", folder, *options) == 1
    message = capsys.readouterr().err
    assert message.count("error:") == 1 and str(folder) in message and "Traceback" not in message
    assert not (tmp_path / "out").exists() and not (tmp_path / "store.db").exists()


def test_evaluating_with_a_missing_model(
    trained: Trained, tmp_path: Path, prsmed: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert prsmed("evaluate", "--dataset-dir", trained.dataset_dir, "--model", tmp_path / "none") == 1
    assert "the folder that training wrote" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"dataset_dir": "no manifest"}, DataError, "prsmed data build"),
        ({"dataset_dir": "empty manifest"}, DataError, "empty manifest"),
        ({"resume": "."}, CheckpointError, "last/model.json"),
        ({"preset": "enormous"}, RequestError, "there is: tiny"),
        ({"stages": [{"name": "half", "share": 0.5, "trainable": ["*"]}]}, RequestError, "must add up to 1"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_training_that_cannot_start(
    changes: dict, kind: type[PrsmedError], says: str, trained: Trained, tmp_path: Path
) -> None:
    if "dataset_dir" in changes:
        changes = {"dataset_dir": str(bad_data(changes["dataset_dir"], tmp_path))}
    with pytest.raises(RuntimeError) as raised:
        train(**trained.settings(runs_dir=str(tmp_path / "runs"), **changes))
    known = known_cause(raised.value)
    assert type(known) is kind and says in str(known)
    assert not (tmp_path / "runs").exists()
