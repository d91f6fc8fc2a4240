"""The table, the links between runs, and how a run that failed is closed."""

import re
from pathlib import Path

import pytest
from ignite.engine import Engine

from bundle.report import RunRecorder, evaluation_name, finish_training, parent_tags, print_scores, run_evaluation
from bundle.runs import Run
from bundle.scoring import ScoreHandler
from bundle.trackers import Tracker
from prsmed.data.manifest import Manifest
from prsmed.errors import DataError
from prsmed.metrics.answers import ScoreRow, summarise


def row(modality: str, kind: str, dice: float, *, right: bool) -> ScoreRow:
    facts = {"key": "k", "dataset": "d", "target": "polyp", "group": "g", "question": "q", "model_text": "m"}
    zones = {"zones_truth": ("center",), "zones_text": ("center",), "zones_right": right, "text_kind": "positions"}
    said = {"presence_prob": 0.9, "says_present": True, "mask_is_empty": False, "contradiction": False}
    return ScoreRow(
        index=0,
        modality=modality,
        kind=kind,
        present=True,
        dice=dice,
        iou=dice,
        border_ambiguous=False,
        **facts,
        **zones,
        **said,
    )


def test_the_table_has_a_line_for_each_modality_and_kind(capsys: pytest.CaptureFixture[str]) -> None:
    scores = summarise([row("ct", "lesion", 0.25, right=True), row("ct", "organ", 0.75, right=False)])
    baseline = summarise([row("ct", "lesion", 0.125, right=False), row("ct", "organ", 0.5, right=False)])
    print_scores({**scores, "baselines": {"mean_mask_majority_zone": baseline}}, title="first on test")
    cells = [re.split(r"\s*│\s*", line.strip(" │")) for line in capsys.readouterr().out.splitlines() if "│" in line]
    table = {line[0]: line[1:] for line in cells}
    assert table["ct lesions"] == ["1", "0.250", "0.250", "1.000 (1)", "0.125", "0.000"]
    assert table["overall"] == ["2", "0.500", "0.500", "0.500 (2)", "0.312", "0.000"]
    assert set(table) >= {"ct lesions", "ct organs", "lesions", "organs", "overall"}


def test_an_evaluation_is_linked_to_its_training() -> None:
    assert parent_tags("abc") == {"mlflow.parentRunId": "abc"}
    assert parent_tags(None) == {}


def test_an_evaluation_s_name_has_its_model_split_and_time() -> None:
    class Named:
        def model_record(self) -> dict:
            return {"name": "first"}

    assert re.fullmatch(r"first-val-\d{8}-\d{6}", evaluation_name(Named(), "val"))  # type: ignore[arg-type]


def test_a_config_s_own_errors_come_out_as_themselves(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="prsmed data build"):
        run_evaluation(
            repository / "configs" / "evaluate.json",
            manifest={"_target_": "prsmed.data.manifest.read_manifest", "folder": str(tmp_path)},
            predictor=None,
            evaluating=["$@manifest"],
        )


class Recorded(Tracker):
    """A tracker that only remembers how its run ended."""

    def __init__(self) -> None:
        super().__init__(None, run_name="run", enabled=False)
        self.ends: list[str] = []

    def finish(self, status: str = "FINISHED") -> None:
        self.ends.append(status)


@pytest.fixture
def recorder(phantom_manifest: Manifest, tmp_path: Path) -> RunRecorder:
    scores = ScoreHandler([], manifest=phantom_manifest, thresholds={}, zone_rule="posmed")
    evaluator = Engine(lambda engine, batch: None)
    run = Run(str(tmp_path), "tiny", name="run")
    return RunRecorder(
        Recorded(), run, manifest=phantom_manifest, settings={"seed": 1}, scores=scores, evaluator=evaluator
    )


@pytest.mark.parametrize(
    ("error", "ends"), [(None, {"FINISHED"}), (ValueError("x"), {"FAILED"}), (KeyboardInterrupt(), {"KILLED"})]
)
def test_a_run_is_closed_as_it_ended(recorder: RunRecorder, error: BaseException | None, ends: set[str]) -> None:
    def step(engine: Engine, batch: int) -> None:
        if error:
            raise error

    trainer = Engine(step)
    recorder.attach(trainer)
    if error:
        with pytest.raises(type(error)):
            trainer.run([0])
    else:
        trainer.run([0])
    assert set(recorder.tracker.ends) == ends  # type: ignore[attr-defined]  # ignite tells of an error twice
    assert (recorder.run.folder / "config.json").read_text().strip() == '{\n  "seed": 1\n}'


def test_data_without_the_split_to_score_is_no_error(recorder: RunRecorder, caplog: pytest.LogCaptureFixture) -> None:
    kept = tuple(case for case in recorder.manifest.cases if case.split != "test")
    recorder.manifest = Manifest(recorder.manifest.folder, kept, recorder.manifest.roots)
    assert finish_training(recorder, {"config_file": "x", "split": "test"}, device="cpu", dataset_dir="y") == {}
    assert "is not scored" in caplog.text
