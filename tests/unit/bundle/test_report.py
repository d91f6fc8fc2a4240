"""How a training run is closed, and that data without the split to score are no error."""

from pathlib import Path

import pytest
from ignite.engine import Engine

from bundle.report import RunRecorder, finish_training
from bundle.runs import Run
from bundle.scoring import ScoreHandler
from bundle.trackers import Tracker
from prsmed.data.manifest import Manifest


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
