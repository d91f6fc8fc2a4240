"""Scoring a model by the bundle's command and by `prsmed evaluate`: the same thing, killed or not, asked or not."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from monai.bundle import run as run_bundle

from bundle.failures import known_cause
from prsmed.errors import CheckpointError, DataError, PrsmedError, RequestError
from tests.workflow.conftest import Trained, train

Command = Callable[..., int]
ANSWERS = "predictions/answers-0.jsonl"
BATCH = 16


def content(folder: Path) -> tuple[str, str]:
    """The two files that hold everything an evaluation found."""
    return (folder / "scores.json").read_text(), (folder / "rows.jsonl").read_text()


@pytest.fixture
def evaluated(trained: Trained, tmp_path: Path) -> Path:
    """A copy of the evaluation that ended the training."""
    return Path(shutil.copytree(trained.folder / "test", tmp_path / "evaluated"))


def test_the_bundle_s_command_gives_what_training_gave(trained: Trained, tmp_path: Path, store: str) -> None:
    run_bundle(
        run_id="evaluating",
        config_file="configs/evaluate.json",
        logging_file=False,
        model=trained.model,
        dataset_dir=str(trained.dataset_dir),
        output_dir=str(tmp_path / "out"),
        tracking_uri=store,
    )
    assert content(tmp_path / "out") == content(trained.folder / "test")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"predictions", "scores.json", "rows.jsonl", "report.html", "report.md", "plots", "pictures"}
    pictures = {path.name for path in (tmp_path / "out" / "pictures").iterdir()}
    assert {"mri-best-0.png", "mri-worst-0.png", "x-ray-example-1.png"} <= pictures


def test_a_killed_evaluation_goes_on_where_it_stopped(
    evaluated: Path, trained: Trained, prsmed: Command, store: str
) -> None:
    """Killed in the middle of its second batch; the batches that are left are those of a run that was not killed."""
    lines = (evaluated / ANSWERS).read_bytes().splitlines(keepends=True)
    kept = b"".join(lines[:BATCH])
    for line in lines[BATCH + 1 :]:
        (evaluated / "predictions" / json.loads(line)["mask"]).unlink()
    (evaluated / ANSWERS).write_bytes(kept + lines[BATCH][:50])
    before = content(evaluated)
    (evaluated / "scores.json").unlink()
    options = ("--model", trained.model, "--out", evaluated, "--tracking-uri", store)
    assert prsmed("evaluate", "--dataset_dir", trained.dataset_dir, *options) == 0
    assert content(evaluated) == before
    again = (evaluated / ANSWERS).read_bytes()
    assert again.startswith(kept)  # those that were stored were not asked again
    assert [json.loads(line)["key"] for line in again.splitlines()] == [json.loads(line)["key"] for line in lines]


def test_scoring_again_needs_no_model(
    evaluated: Path, trained: Trained, tmp_path: Path, prsmed: Command, store: str
) -> None:
    before = content(evaluated)
    for path in evaluated.iterdir():
        if path.name != "predictions":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    options = ("--score-only", "--model", tmp_path / "deleted", "--out", evaluated, "--tracking-uri", store)
    assert prsmed("evaluate", "--dataset-dir", trained.dataset_dir, *options) == 0
    assert content(evaluated) == before
    assert (evaluated / "report.html").is_file() and any((evaluated / "pictures").iterdir())


def test_another_split_without_gates_by_the_authors_protocol(
    trained: Trained, tmp_path: Path, prsmed: Command, store: str
) -> None:
    options = ("--model", trained.model, "--out", tmp_path, "--tracking-uri", store, "--no-gates", "--protocol")
    assert prsmed("evaluate", "--dataset-dir", trained.dataset_dir, "--split", "val", *options) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert (scores["split"], scores["gates"]) == ("val", {})
    assert scores["reference_protocol"]["n"] == scores["overall"]["n"] == 6
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 7


def fails(prsmed: Command, capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line that a command ends with."""
    capsys.readouterr()
    assert prsmed("evaluate", *words) == 1
    message = capsys.readouterr().err
    assert message.count("error: ") == 1 and "Traceback" not in message
    return message[message.index("error: ") :].strip()


@pytest.mark.parametrize(
    ("options", "different"),
    [
        (("--model", "tiny"), {"system"}),
        (("--baseline", "constant"), {"system"}),
        (("--split", "val"), {"questions_sha256", "split"}),
        (("--no-gates",), {"questions_sha256"}),
    ],
)
def test_two_evaluations_into_one_folder_refuse_each_other(
    options: tuple[str, ...],
    different: set[str],
    evaluated: Path,
    trained: Trained,
    prsmed: Command,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = content(evaluated), (evaluated / ANSWERS).read_bytes()
    words = ("--dataset-dir", trained.dataset_dir, "--out", evaluated, "--model", trained.model, *options)
    message = fails(prsmed, capsys, *words)
    assert different <= set(re.findall(r"\w+", message.partition("(different:")[2]))
    assert "choose another --out, or delete the folder" in message
    assert (content(evaluated), (evaluated / ANSWERS).read_bytes()) == before


def test_scoring_what_was_not_answered(
    evaluated: Path, trained: Trained, tmp_path: Path, prsmed: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--dataset-dir", trained.dataset_dir, "--score-only", "--out")
    assert "holds no predictions" in fails(prsmed, capsys, *words, tmp_path / "none")
    lines = (evaluated / ANSWERS).read_bytes().splitlines(keepends=True)
    (evaluated / ANSWERS).write_bytes(b"".join(lines[:-1]))
    message = fails(prsmed, capsys, *words, evaluated)
    assert json.loads(lines[-1])["key"] in message and "run the evaluation again to add it" in message
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--baseline", "best"), "baseline 'best': unknown; choose one of constant, chance, oracle"),
        (("--baseline", "oracle", "--answers", "a.csv"), "give one of them"),
        (("--baseline", "oracle", "--score-only"), "leave --baseline and --answers away"),
        (("--answers", "none.csv"), "none.csv: cannot be read"),
        (("--split", "dev"), "train, val, test"),
    ],
)
def test_options_that_cannot_be_followed(
    options: tuple[str, ...],
    says: str,
    trained: Trained,
    tmp_path: Path,
    prsmed: Command,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("--dataset-dir", trained.dataset_dir, "--model", trained.model, "--out", tmp_path / "out", "--no-gates")
    assert says in fails(prsmed, capsys, *words, *options)


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
