"""Ignite handlers of a training run: seeds, clipping, checkpoints with exact resume, early stopping."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.handlers.tqdm_logger import ProgressBar
from monai.engines.utils import IterationEvents

from bundle.data import AskDataset
from bundle.distributed import load_optimizer_state, optimizer_state, put_together, spread, whole
from bundle.runs import Run
from bundle.schedule import StagedSchedule
from bundle.trackers import Tracker
from prsmed.errors import PrsmedError
from prsmed.models.checkpoints import load_training_state, load_weights, save_model

logger = logging.getLogger(__name__)


class EpochSeeds:
    """Seeds everything random from (seed, epoch), so that an epoch can be repeated exactly after a kill."""

    def __init__(self, dataset: AskDataset, *, seed: int):
        self.dataset = dataset
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self._seed)

    def _seed(self, engine: Engine) -> None:
        epoch = engine.state.epoch
        self.dataset.set_epoch(epoch)
        torch.manual_seed(self.seed * 100_003 + epoch * 101 + idist.get_rank())


class GradientClipper:
    """Clips the gradient's norm before each step; a norm that is not finite ends the run, the last checkpoint stays."""

    def __init__(self, max_norm: float):
        self.max_norm = max_norm

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._clip)

    def _clip(self, engine: Engine) -> None:
        torch.nn.utils.clip_grad_norm_(engine.network.parameters(), self.max_norm, error_if_nonfinite=True)


class Checkpoints:
    """Writes `last` after every epoch and `best` where the score rose; stops a run that no longer improves; resumes.

    `last` is written before a validation, too: whoever is stopped in it goes on with the validation.

    Args:
        run: where to write.
        info: the model's description.
        evaluator: whose `state.metrics[score]` decides; higher is better.
        patience: validations without a better score before the run stops; None never stops.
        tracker: whose run id is stored, so that a resumed run goes on in the same MLflow run.
    """

    def __init__(
        self,
        run: Run,
        *,
        network: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: StagedSchedule,
        info: Mapping[str, Any],
        tokenizer_file: Path,
        evaluator: Engine,
        tracker: Tracker,
        score: str = "val/selection",
        patience: int | None = None,
    ):
        self.run, self.info, self.tokenizer_file = run, dict(info), tokenizer_file
        self.network, self.optimizer, self.schedule = network, optimizer, schedule
        self.evaluator, self.score, self.patience = evaluator, score, patience
        self.tracker = tracker
        self.together = ExitStack()
        self.best_score = float("-inf")
        self.best_epoch = 0
        self.judged_epoch = 0
        self.validations_without_gain = 0

    def attach(self, trainer: Engine) -> None:
        """Attach after the validation handler: a checkpoint holds the epoch's own score."""
        self.trainer = trainer
        trainer.add_event_handler(Events.STARTED, self._resume)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._validate_last)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._save)
        self.evaluator.add_event_handler(Events.STARTED, self._prepare)
        self.evaluator.add_event_handler(Events.COMPLETED, self._judge)

    def _prepare(self, engine: Engine) -> None:
        # All ranks must judge what rank 0 will save, to the last bit.
        if idist.get_world_size() > 1:
            for values in self.network.buffers():
                values.copy_(idist.broadcast(values, src=0))
        if self.trainer.last_event_name == Events.EPOCH_COMPLETED:
            self._save(self.trainer, validation_due=True)
        self.together.enter_context(put_together(self.network))

    def _judge(self, engine: Engine) -> None:
        self.together.close()
        plain = whole(self.network)
        score = engine.state.metrics[self.score]
        epoch = self.judged_epoch = self.trainer.state.epoch
        if score > self.best_score:
            self.best_score, self.best_epoch, self.validations_without_gain = score, epoch, 0
            if idist.get_rank() == 0:
                info = {**self.info, "epoch": epoch, "score": {self.score: score}}
                save_model(self.run.best, plain, info, tokenizer_file=self.tokenizer_file)
            return
        self.validations_without_gain += 1
        if self._is_out_of_patience():
            logger.info("no better score for %d validations: stopping after epoch %d", self.patience, epoch)
            self.trainer.terminate()

    def _is_out_of_patience(self) -> bool:
        return self.patience is not None and self.validations_without_gain >= self.patience

    def _validate_last(self, trainer: Engine) -> None:
        # Whatever the interval, the last epoch is judged: a run always ends with a best model.
        epoch = trainer.state.epoch
        if epoch == trainer.state.max_epochs and self.judged_epoch != epoch:
            self.evaluator.run(epoch)

    def _save(self, trainer: Engine, *, validation_due: bool = False) -> None:
        plain, optimizer = whole(self.network), optimizer_state(self.optimizer)
        if idist.get_rank() > 0:
            return
        state = {
            "epoch": trainer.state.epoch,
            "epoch_length": trainer.state.epoch_length,
            "optimizer": optimizer,
            "scheduler": self.schedule.scheduler.state_dict(),
            "best_score": self.best_score,
            "best_epoch": self.best_epoch,
            "validations_without_gain": self.validations_without_gain,
            "validation_due": validation_due,
            "tracking_id": self.tracker.run_id,
        }
        state["scheduler"].pop("lr_lambdas", None)
        save_model(
            self.run.last,
            plain,
            {**self.info, "epoch": trainer.state.epoch},
            tokenizer_file=self.tokenizer_file,
            training_state=state,
        )

    def _resume(self, trainer: Engine) -> None:
        if not self.run.resumed:
            return
        state = load_training_state(self.run.last)
        load_weights(self.run.last, whole(self.network))
        spread(self.network)
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.schedule.scheduler.load_state_dict({**state["scheduler"], "lr_lambdas": [None]})
        self.best_score, self.best_epoch = state["best_score"], state["best_epoch"]
        self.validations_without_gain = state["validations_without_gain"]
        trainer.state.epoch = state["epoch"]
        trainer.state.iteration = state["epoch"] * state["epoch_length"]
        logger.info("resuming %s after epoch %d", self.run.folder, state["epoch"])
        if state.get("validation_due"):
            self.evaluator.run(state["epoch"])
            self._save(trainer)
        elif self._is_out_of_patience():  # it had ended, and was stopped while its best model was scored
            trainer.terminate()


class Progress:
    """A progress bar for each epoch of an engine, on rank 0.

    Args:
        terms: numbers of the last iteration to show beside the bar.
    """

    def __init__(self, terms: Callable[[], Mapping[str, Any]] | None = None):
        self.terms = terms

    def attach(self, engine: Engine) -> None:
        if idist.get_rank() > 0:
            return
        bar = ProgressBar(mininterval=1.0, bar_format="{desc} {n_fmt}/{total_fmt} {bar:20} {rate_fmt} {postfix}")
        shown = None if self.terms is None else lambda _: {name: float(term) for name, term in self.terms().items()}
        bar.attach(engine, output_transform=shown)


class AnswerWriter:
    """Writes each answer of an inference run into a folder of its own, as its session does.

    A request that cannot be answered is logged with its reason and does not stop the rest.
    """

    def __init__(self, output_dir: str):
        self.output_dir = Path(output_dir)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write)

    def _write(self, engine: Engine) -> None:
        answered = engine.state.output["pred"]
        name = f"{engine.state.iteration:04d}"
        if isinstance(answered, PrsmedError):
            logger.error("request %s: %s", name, answered)
            return
        session, answer = answered
        session.write(self.output_dir / name, answer)
        logger.info("request %s: %s", name, answer.text)
