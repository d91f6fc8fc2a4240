"""Seeds by epoch, clipping, early stopping and the writing of answers."""

import json
import logging
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents

from bundle.handlers import AnswerWriter, Checkpoints, EpochSeeds, GradientClipper
from bundle.runs import Run
from bundle.schedule import StagedSchedule
from bundle.trackers import Tracker
from prsmed.data.writers.answer import write_answer
from prsmed.errors import DataError
from prsmed.models.checkpoints import load_training_state, read_info
from prsmed.types import Answer, AnswerObject


def test_each_epoch_has_its_own_repeatable_randomness() -> None:
    def draws(first_epoch: int) -> dict[int, float]:
        drawn: dict[int, float] = {}
        epochs: list[int] = []
        dataset = SimpleNamespace(set_epoch=epochs.append)
        engine = Engine(lambda engine, batch: drawn.setdefault(engine.state.epoch, torch.rand(1).item()))
        EpochSeeds(dataset, seed=4).attach(engine)
        engine.add_event_handler(Events.STARTED, lambda: setattr(engine.state, "epoch", first_epoch - 1))
        torch.rand(first_epoch)  # whatever was drawn before
        engine.run([0], max_epochs=4)
        assert epochs == list(drawn)
        return drawn

    whole, resumed = draws(1), draws(3)
    assert resumed == {epoch: whole[epoch] for epoch in (3, 4)}
    assert len(set(whole.values())) == 4


def clipped_norm(gradient: Sequence[float]) -> float:
    network = torch.nn.Linear(2, 1, bias=False)
    network.weight.grad = torch.tensor([gradient])
    engine = Engine(lambda engine, batch: engine.fire_event(IterationEvents.BACKWARD_COMPLETED))
    engine.register_events(*IterationEvents)
    engine.network = network
    GradientClipper(1.0).attach(engine)
    engine.run([0])
    return network.weight.grad.norm().item()


def test_a_long_gradient_is_clipped_and_a_short_one_is_not() -> None:
    assert clipped_norm([3.0, 4.0]) == pytest.approx(1.0, abs=1e-5)
    assert clipped_norm([0.3, 0.4]) == pytest.approx(0.5)


def test_a_gradient_that_is_not_finite_ends_the_run() -> None:
    with pytest.raises(RuntimeError, match="non-finite"):
        clipped_norm([math.nan, 1.0])


class OneBatch(Engine):
    """Is run as MONAI's evaluators are."""

    def run(self, global_epoch: int) -> None:
        super().run([0])


def run_with_scores(
    scores: list[float], tmp_path: Path, repository: Path, *, patience: int | None = None, resume: str | None = None
) -> Run:
    """An epoch and a validation for each score, where not a number an error; the one weight counts epochs."""
    run = Run(str(tmp_path), "tiny", name="run", resume=resume)
    network = torch.nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    stages = [{"name": "all", "share": 1.0, "trainable": ["*"]}]
    schedule = StagedSchedule(network, optimizer, stages=stages, max_epochs=len(scores), epoch_length=1)
    evaluator = OneBatch(lambda engine, batch: None)
    trainer = Engine(lambda engine, batch: network.weight.data.fill_(engine.state.epoch) and None)

    def validate(engine: Engine) -> None:
        evaluator.run(engine.state.epoch)

    def score(engine: Engine) -> None:
        if math.isnan(scores[trainer.state.epoch - 1]):
            raise InterruptedError
        engine.state.metrics["val/selection"] = scores[trainer.state.epoch - 1]

    trainer.add_event_handler(Events.EPOCH_COMPLETED, validate)
    evaluator.add_event_handler(Events.EPOCH_COMPLETED, score)
    checkpoints = Checkpoints(
        run,
        network=network,
        optimizer=optimizer,
        schedule=schedule,
        info={"task": "prs_med", "preset": "tiny"},
        tokenizer_file=repository / "models" / "tiny" / "tokenizer.json",
        evaluator=evaluator,
        tracker=Tracker(None, run_name="run", enabled=False),
        patience=patience,
    )
    checkpoints.attach(trainer)
    trainer.run([0], max_epochs=len(scores))
    return run


def test_best_and_last_are_kept(tmp_path: Path, repository: Path) -> None:
    run = run_with_scores([0.1, 0.5, 0.5, 0.2], tmp_path, repository)
    best, last = read_info(run.best), read_info(run.last)
    assert (best["epoch"], best["score"], last["epoch"]) == (2, {"val/selection": 0.5}, 4)
    state = load_training_state(run.last)
    assert (state["best_score"], state["best_epoch"], state["validations_without_gain"]) == (0.5, 2, 2)
    assert len(list(run.best.iterdir())) == 3 and len(list(run.last.iterdir())) == 4  # nothing old is left


def test_a_validation_that_was_stopped_is_made_up_for(tmp_path: Path, repository: Path) -> None:
    with pytest.raises(InterruptedError):
        run_with_scores([0.1, math.nan], tmp_path, repository)
    assert read_info(tmp_path / "run" / "last")["epoch"] == 2  # what was learned is not lost
    run = run_with_scores([0.1, 0.5], tmp_path, repository, resume=str(tmp_path / "run"))
    assert read_info(run.best)["epoch"] == 2 and read_info(run.best)["score"] == {"val/selection": 0.5}
    state = load_training_state(run.last)
    assert (state["best_score"], state["validation_due"]) == (0.5, False)


@pytest.mark.parametrize(("patience", "last_epoch"), [(None, 6), (2, 4), (1, 3)])
def test_a_run_that_no_longer_improves_stops(
    patience: int | None, last_epoch: int, tmp_path: Path, repository: Path
) -> None:
    run = run_with_scores([0.1, 0.5, 0.5, 0.2, 0.6, 0.7], tmp_path, repository, patience=patience)
    assert read_info(run.last)["epoch"] == last_epoch
    again = run_with_scores(
        [0.1, 0.5, 0.5, 0.2, 0.6, 0.7], tmp_path, repository, patience=patience, resume=str(tmp_path / "run")
    )
    assert read_info(again.last)["epoch"] == last_epoch  # resumed, it has still ended


def test_answers_are_written_and_an_error_does_not_stop_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    thing = AnswerObject(np.eye(6, 8, dtype=bool), (0, 0, 6, 6), True, 0.9, [])
    texts = {"model_text": "a", "rule_text": "b", "text": "b", "text_source": "rule"}
    answer = Answer(
        "Où ?",
        **texts,
        objects=[thing],
        contradictions=[],
        modality="ct",
        modality_source="caller",
        timings_s={},
        model={},
    )
    session = SimpleNamespace(write=partial(write_answer, picture_HWC=np.zeros((6, 8, 3), dtype=np.uint8)))
    outputs = [DataError("a.png: empty"), (session, answer)]
    engine = Engine(lambda engine, batch: {"pred": batch})
    AnswerWriter(str(tmp_path / "out")).attach(engine)
    with caplog.at_level(logging.INFO, logger="bundle.handlers"):
        engine.run(outputs)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["0002"]
    assert json.loads((tmp_path / "out" / "0002" / "answer.json").read_text(encoding="utf-8"))["question"] == "Où ?"
    assert caplog.messages == ["request 0001: a.png: empty", "request 0002: b"]
