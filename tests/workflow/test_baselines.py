"""Baselines through the whole evaluator: they must land where they must, or the evaluator is wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prsmed.data.manifest import read_manifest, write_manifest
from prsmed.data.phantoms import write_phantoms

Command = Callable[..., int]
PERFECT = {
    *("dice", "iou", "nsd", "ciou", "giou", "box_iou", "acc_at_0.5", "lesion_f1", "macro_lesion_dice"),
    *("zone_accuracy", "zone_balanced_accuracy", "zone_kappa", "zone_accuracy_unambiguous"),
    *("all_findings_accuracy", "rule_accuracy"),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """72 pictures, 14 questions in test: three images with two clear findings, two without any."""
    return write_phantoms(tmp_path_factory.mktemp("data") / "pictures", pictures=72, volumes=0, seed=2)


@pytest.fixture(scope="module")
def baselines(tmp_path_factory: pytest.TempPathFactory, pictures: Path, prsmed: Command, store: str) -> Path:
    """A folder with the evaluations `oracle` and `constant`."""
    folder = tmp_path_factory.mktemp("baselines")
    for name in ("oracle", "constant"):
        options = ("--baseline", name, "--out", folder / name, "--tracking-uri", store)
        assert prsmed("evaluate", "--dataset-dir", pictures, *options) == 0
    return folder


def scores_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "scores.json").read_text())


def test_the_oracle_is_perfect(baselines: Path) -> None:
    scores = scores_of(baselines / "oracle")
    assert scores["model"]["name"] == "oracle" and scores["overall"]["n"] == 12
    assert {name: scores["overall"][name] for name in PERFECT} == dict.fromkeys(PERFECT, 1.0)
    assert scores["overall"]["contradiction_rate"] == scores["overall"]["false_positives_per_image"] == 0
    negatives = scores["negatives"]
    assert (negatives["n"], negatives["specificity"], negatives["specificity_mask"]) == (2, 1.0, 1.0)
    assert (negatives["false_none"], negatives["sensitivity_presence"]) == (0.0, 1.0)
    assert scores["calibration"]["brier"] == 0
    assert {name: gate["passed"] for name, gate in scores["gates"].items()} == dict.fromkeys(scores["gates"], True)
    assert len(scores["gates"]) == 10 and all(gate["n"] for gate in scores["gates"].values())


def test_a_constant_answer_has_no_kappa_and_fails_the_gates(baselines: Path) -> None:
    scores = scores_of(baselines / "constant")
    assert scores["overall"]["zone_kappa"] == pytest.approx(0, abs=1e-12)  # one zone for each target
    assert scores["position"]["overall"]["kappa"] == scores["overall"]["zone_kappa"]
    assert scores["position"]["constant_label_sets"] == ["x-ray/phantom_x-ray/lungs"]
    assert scores["overall"]["zone_accuracy"] > scores["lesions"]["zone_accuracy"] > 0  # the lungs are always central
    failed = {name for name, gate in scores["gates"].items() if gate["passed"] is False}
    assert {"blank", "noise", "flip", "wrong_modality", "cross_target", "absent_target"} <= failed
    # ... and passes what asks for steadiness only: these gates say nothing alone
    assert {name for name, gate in scores["gates"].items() if gate["passed"]} >= {"paraphrase", "injection"}


def test_chance_is_at_chance(pictures: Path, tmp_path: Path, prsmed: Command, store: str) -> None:
    options = ("--baseline", "chance", "--no-gates", "--out", tmp_path, "--tracking-uri", store)
    assert prsmed("evaluate", "--dataset-dir", pictures, *options) == 0
    scores = scores_of(tmp_path)
    low, high = scores["overall"]["intervals"]["zone_kappa"]
    assert low < 0.1 and scores["overall"]["zone_kappa"] < high < 1
    assert scores["position"]["overall"]["random_accuracy"] == 0.2
    assert scores["overall"]["dice"] < 0.5


def test_a_peer_is_scored_as_if_it_were_evaluated(baselines: Path) -> None:
    beside = scores_of(baselines / "oracle")["baselines"]["constant"]
    alone = scores_of(baselines / "constant")
    for part in ("overall", "lesions", "organs", "negatives"):
        assert {**beside[part], "intervals": None} == {**alone[part], "intervals": None}


def test_two_evaluations_are_compared(
    baselines: Path, tmp_path: Path, prsmed: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = baselines / "constant", baselines / "oracle"
    assert prsmed("compare", *folders, "--out", tmp_path / "new" / "difference.json") == 0
    shown = capsys.readouterr().out
    assert "14 questions of" in shown and "zone_kappa" in shown
    compared = json.loads((tmp_path / "new" / "difference.json").read_text())
    constant, oracle = (scores_of(folder)["overall"] for folder in folders)
    told = compared["differences"]["dice"]
    assert (compared["n"], compared["only_a"], told["n"]) == (14, 0, 12)
    assert (told["a"], told["b"]) == (constant["dice"], oracle["dice"])
    assert told["difference"] == pytest.approx(1 - constant["dice"])
    low, high = told["interval"]
    assert 0 < low < told["difference"] < high < 1
    assert prsmed("compare", folders[0], folders[0]) == 0
    assert "+0.000" in capsys.readouterr().out


def test_what_cannot_be_compared(
    baselines: Path, tmp_path: Path, prsmed: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    oracle = baselines / "oracle"
    other = tmp_path / "other"
    other.mkdir()
    lines = (oracle / "rows.jsonl").read_text().splitlines()

    def refused(rows: list[str] | None) -> str:
        if rows is not None:
            (other / "rows.jsonl").write_text("\n".join(rows) + "\n")
        capsys.readouterr()
        assert prsmed("compare", oracle, other) == 1
        message = capsys.readouterr().err
        assert message.startswith("error: ") and message.count("\n") == 1
        return message

    assert "run `prsmed evaluate` first" in refused(None)
    assert "run `prsmed evaluate` first" in refused(["{}"])
    elsewhere = [json.dumps({**json.loads(line), "key": f"elsewhere{number}"}) for number, line in enumerate(lines)]
    assert "is shared; evaluate both systems on the same split" in refused(elsewhere)
    assert "twice" in refused([*lines, lines[0]])
    moved = [json.dumps({**json.loads(line), "group": "x"}) for line in lines]
    assert "has group" in refused(moved) and "same data" in refused(moved)


def test_without_a_training_split_there_is_nothing_to_learn_from(
    pictures: Path, tmp_path: Path, prsmed: Command, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [case for case in read_manifest(pictures).cases if case.split == "test"]
    write_manifest(tmp_path / "data", cases, {".": pictures})
    options = ("--no-gates", "--baseline", "constant", "--out", tmp_path / "out", "--tracking-uri", store)
    assert prsmed("evaluate", "--dataset-dir", tmp_path / "data", *options) == 1
    assert "no case of split 'train'" in capsys.readouterr().err
