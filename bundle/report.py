"""What a training run leaves behind: its record in MLflow, and the scores of its best model."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from rich.console import Console

from bundle.console import print_scores
from bundle.evaluation import run_evaluation
from bundle.runs import Run, run_parameters
from bundle.scoring import ScoreHandler
from bundle.trackers import Tracker
from prsmed.data.manifest import Manifest
from prsmed.data.writers.atomic import write_atomically
from prsmed.predictor import SHIPPED

logger = logging.getLogger(__name__)


class RunRecorder:
    """Records a training run: settings and data at the start, scores and pictures at validation, the best model last.

    Args:
        settings: the resolved values of the config, plain data.
        scores: the handler of the validating `evaluator`.
    """

    def __init__(
        self,
        tracker: Tracker,
        run: Run,
        *,
        manifest: Manifest,
        settings: Mapping[str, Any],
        scores: ScoreHandler,
        evaluator: Engine,
    ):
        self.tracker, self.run, self.scores, self.evaluator = tracker, run, scores, evaluator
        self.settings = dict(settings)
        self.manifest = manifest

    def attach(self, trainer: Engine) -> None:
        trainer.add_event_handler(Events.STARTED, self._start)
        trainer.add_event_handler(Events.COMPLETED, self._complete)
        trainer.add_event_handler(Events.EXCEPTION_RAISED, self._fail)
        self.evaluator.add_event_handler(Events.COMPLETED, self._validated, trainer)

    def _start(self, trainer: Engine) -> None:
        if idist.get_rank() > 0:
            return
        self.run.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.settings, indent=2, ensure_ascii=False, default=str) + "\n"
        write_atomically(self.run.folder / "config.json", text)
        self.tracker.log_text(text, "config.json")
        self.tracker.log_params(run_parameters(self.manifest, self.settings))
        self.tracker.log_dataset("train", self.manifest.fingerprint(), len(self.manifest.split("train")))

    def _validated(self, evaluator: Engine, trainer: Engine) -> None:
        self.tracker.log_metrics(evaluator.state.metrics, trainer.state.epoch)
        if idist.get_rank() == 0:
            print_scores(self.scores.scores, title=f"validation after epoch {trainer.state.epoch}")
        for name, picture in self.scores.pictures.items():
            self.tracker.log_picture(picture, f"overlays/{name}.png")

    def _complete(self, trainer: Engine) -> None:
        if idist.get_rank() == 0:
            for path in sorted(self.run.best.glob("*")):
                self.tracker.log_file(path, "best")
            self.tracker.finish()

    def _fail(self, trainer: Engine, error: BaseException) -> None:
        self.tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise error


def finish_training(recorder: RunRecorder, test: Mapping[str, Any], *, device: Any, dataset_dir: str) -> dict[str, Any]:
    """Score the best model of a finished training, as a linked run, and say where everything lies.

    Args:
        test: `config_file` of the evaluation, `split`, and whatever else is to differ from that config.
    """
    tracker, run = recorder.tracker, recorder.run
    idist.barrier()  # rank 0 may still be writing the best model
    if not recorder.manifest.split(test["split"]):
        logger.warning("no case of split %r: the best model, %s, is not scored", test["split"], run.best)
        return {}
    scores = run_evaluation(
        **test,
        model=str(run.best),
        device=device,
        dataset_dir=dataset_dir,
        output_dir=str(run.folder / test["split"]),
        tracking_uri=tracker.tracking_uri,
        experiment_name=tracker.experiment,
        training_run_id=tracker.run_id,
    )
    if idist.get_rank() == 0:
        console = Console(soft_wrap=True)
        console.print(f"best model: {run.best}   scores: {run.folder / test['split'] / 'scores.json'}")
        console.print(f"look at the run: mlflow ui --backend-store-uri {tracker.tracking_uri}")
        if recorder.settings["task"] in SHIPPED:  # a U-Net has no words
            console.print(f'ask it: prsmed ask IMAGE "Where is the lesion?" --modality MODALITY --model {run.best}')
    return scores
