"""A system that ran elsewhere: it gets questions and pictures, and hands in masks and sentences."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from monai.bundle import ConfigParser
from PIL import Image

from prsmed.data.manifest import read_manifest
from prsmed.metrics.rows import read_rows
from prsmed.samples import findings_of, truth_of
from prsmed.text.templates import rule_text
from tests.workflow.conftest import Trained

Command = Callable[..., int]
Rows = list[dict[str, str]]
EVIL = '<script>alert("1")</script> | <img src=x>'


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory, phantoms: Path, prsmed: Command) -> Path:
    """The folder that `prsmed questions` wrote, and truth.csv: the truth about these questions and the gates'."""
    folder = tmp_path_factory.mktemp("questions")
    assert prsmed("questions", "--dataset-dir", phantoms, "--out", folder, "--no-gates") == 0
    asked = read_table(folder / "questions.csv")
    parser = ConfigParser()
    parser.read_config("configs/evaluate.json")
    parser.update({"dataset_dir": str(phantoms)})
    manifest = read_manifest(phantoms)
    (folder / "masks").mkdir()
    rows = []
    for number, item in enumerate(parser.get_parsed_content("items")):
        mask_HW = truth_of(manifest, item)[1]
        mask = f"masks/{number}.png"
        Image.fromarray(mask_HW.astype(np.uint8) * 255).save(folder / mask)
        text = rule_text(findings_of(mask_HW, item.target.kind, zone_rule="posmed"), target=item.target.name)
        question = item.question or asked[number]["question"]
        row = {"key": item.key, "question": question, "mask": mask, "text": text}
        rows.append({**row, "presence": str(float(mask_HW.any()))})
    assert [row["key"] for row in asked] == [row["key"] for row in rows[: len(asked)]]
    write_table(folder / "truth.csv", rows)
    return folder


def read_table(path: Path) -> Rows:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def write_table(path: Path, rows: Rows) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def test_the_questions_come_with_their_pictures(asked: Path) -> None:
    rows = read_table(asked / "questions.csv")
    assert list(rows[0]) == ["key", "image", "modality", "target", "question", "mask", "text", "presence"]
    assert not any(row["mask"] or row["text"] or row["presence"] for row in rows)
    assert all(row["question"] and (asked / row["image"]).is_file() for row in rows)
    assert len({row["key"] for row in rows}) == len(rows) == 7


def test_the_truth_is_perfect(asked: Path, trained: Trained, tmp_path: Path, prsmed: Command, store: str) -> None:
    options = ("--answers", asked / "truth.csv", "--name", "theirs", "--out", tmp_path, "--tracking-uri", store)
    assert prsmed("evaluate", "--dataset-dir", trained.dataset_dir, *options) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    overall = scores["overall"]
    assert scores["model"]["name"] == "theirs" and scores["model"]["answers_sha256"]
    assert overall["dice"] == overall["iou"] == overall["zone_accuracy"] == overall["rule_accuracy"] == 1
    assert overall["zone_kappa"] is None  # one image of each target: nothing to agree on beyond chance
    assert overall["contradiction_rate"] == 0 and scores["negatives"]["false_none"] == 0
    assert {gate["passed"] for gate in scores["gates"].values() if gate["n"]} == {True}
    rows = read_rows(tmp_path / "rows.jsonl")
    assert {row.query_kind for row in rows if row.probe} == {"probe"}
    assert set(scores["query_kinds"]) == {"template"}
    assert [row.question for row in rows] == [row["question"] for row in read_table(asked / "truth.csv")]


def test_masks_alone_and_a_hostile_name(
    asked: Path, trained: Trained, tmp_path: Path, prsmed: Command, store: str
) -> None:
    """No sentence is no wrong sentence. Masks lie elsewhere than the table."""
    rows = [row for row in read_table(asked / "truth.csv") if "#" not in row["key"]]
    for row in rows:
        del row["text"], row["presence"]
        row["question"] = EVIL
    answers = write_table(tmp_path / "answers.csv", rows)
    options = ("--answers", answers, "--masks", asked, "--name", EVIL, "--no-gates", "--tracking-uri", store)
    out = tmp_path / "out"
    assert prsmed("evaluate", "--dataset-dir", trained.dataset_dir, *options, "--out", out) == 0
    scores = json.loads((out / "scores.json").read_text())
    overall = scores["overall"]
    assert (overall["dice"], overall["rule_accuracy"]) == (1, 1)
    assert [overall[name] for name in ("zone_accuracy", "zone_kappa", "zone_n", "contradiction_rate")] == [
        *(None, None, 0),
        None,
    ]
    assert {row.text_kind for row in read_rows(out / "rows.jsonl")} == {"silent"}
    page, markdown = ((out / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    assert "<script" not in page and "<img src=x" not in page and page.count("&lt;script&gt;") > 3
    assert "<script" not in markdown and "<img" not in markdown and "\\| &lt;img src=x>" in markdown


def without_masks(rows: Rows, folder: Path) -> None:
    for row in rows:
        del row["mask"]


def coloured(rows: Rows, folder: Path) -> None:
    Image.new("RGB", (60, 60)).save(folder / "bad.png")
    rows[0]["mask"] = "bad.png"


def narrow(rows: Rows, folder: Path) -> None:
    Image.new("L", (20, 90)).save(folder / "bad.png")
    rows[0]["mask"] = "bad.png"


def no_picture(rows: Rows, folder: Path) -> None:
    (folder / "bad.png").write_text("mask")
    rows[0]["mask"] = "bad.png"


BAD: dict[str, tuple[Callable[[Rows, Path], object], str]] = {
    "missing column": (without_masks, "answers.csv: has no column mask; `prsmed questions` writes them"),
    "unanswered question": (lambda rows, folder: rows.pop(), "1 of 7 questions are not answered"),
    "mask outside the folder": (lambda rows, folder: rows[0].update(mask="../a.png"), "climbs out with '..'"),
    "colour mask": (coloured, "expected an 8-bit grey mask"),
    "wrong shape": (narrow, "as wide for its height as its picture"),
    "presence 7": (lambda rows, folder: rows[0].update(presence="7"), "is '7'; expected a number from 0 to 1"),
    "text file as PNG": (no_picture, "bad.png"),
}


@pytest.mark.parametrize(("spoil", "says"), BAD.values(), ids=BAD.keys())
def test_bad_answers_are_one_clear_line(
    spoil: Callable[[Rows, Path], object],
    says: str,
    asked: Path,
    trained: Trained,
    tmp_path: Path,
    prsmed: Command,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [{**row, "mask": ""} for row in read_table(asked / "truth.csv") if "#" not in row["key"]]
    spoil(rows, tmp_path)
    options = ("--answers", write_table(tmp_path / "answers.csv", rows), "--no-gates", "--out", tmp_path / "out")
    assert prsmed("evaluate", "--dataset-dir", trained.dataset_dir, *options) == 1
    message = capsys.readouterr().err
    lines = [line for line in message.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and says in lines[0] and "Traceback" not in message
    assert not (tmp_path / "out" / "scores.json").exists()
