"""What a run leaves behind: its record in MLflow, and the report of an evaluation (table, scores.json, pictures)."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from rich.console import Console
from rich.table import Table

from bundle.failures import known_cause
from bundle.runs import Run, git_commit, run_parameters
from bundle.scoring import ScoreHandler, score_answer
from bundle.trackers import Tracker
from prsmed.data.manifest import Manifest
from prsmed.data.writers.picture import write_picture
from prsmed.metrics.answers import ScoreRow, flat_metrics, summarise
from prsmed.metrics.baselines import ConstantBaseline
from prsmed.models.checkpoints import write_atomically
from prsmed.predictor import Predictor, described_zones
from prsmed.samples import findings_of, items_of, truth_of
from prsmed.types import NOT_A_MEDICAL_DEVICE

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


class EvaluationReport:
    """Writes and prints what an evaluator scored, beside the constant baseline on the same images.

    Args:
        scores: the evaluator's handler, after its run.
        slices: how volumes were cut, to fit the baseline on the training split in the same way.
    """

    def __init__(
        self,
        scores: ScoreHandler,
        *,
        predictor: Predictor,
        manifest: Manifest,
        split: str,
        slices: Mapping[str, Any],
        output_dir: str,
        tracker: Tracker,
        baseline: bool = True,
    ):
        self.scores, self.predictor, self.manifest = scores, predictor, manifest
        self.split, self.slices, self.baseline = split, dict(slices), baseline
        self.output_dir, self.tracker = Path(output_dir), tracker

    def write(self) -> dict[str, Any]:
        """scores.json, answers.jsonl, pictures/, the table on the console, and a run in MLflow. Rank 0 only."""
        if idist.get_rank() > 0:
            return {}
        content = {
            "model": self.predictor.model_record(),
            "data_fingerprint": self.manifest.fingerprint(),
            "split": self.split,
            **self.scores.scores,
            "baselines": {"mean_mask_majority_zone": summarise(self._baseline_rows())} if self.baseline else {},
            "notice": NOT_A_MEDICAL_DEVICE,
        }
        self.output_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(self.output_dir / "scores.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        lines = [json.dumps(row.to_json(), ensure_ascii=False) for row in self.scores.rows]
        write_atomically(self.output_dir / "answers.jsonl", "\n".join(lines) + "\n")
        for name, picture in self.scores.pictures.items():
            write_picture(self.output_dir / "pictures" / f"{name}.png", picture)
        print_scores(content, title=f"{content['model']['name']} on {self.split}")
        self._track(content)
        return content

    def _baseline_rows(self) -> list[ScoreRow]:
        rule = self.scores.zone_rule
        baseline = ConstantBaseline()
        examples = []
        for item in items_of(self.manifest, "train", slices=self.slices):
            mask_HW = truth_of(self.manifest, item)[1]
            zones = described_zones(findings_of(mask_HW, item.target.kind, zone_rule=rule))
            examples.append((item.case.modality or "", item.target.name, mask_HW, zones))
        baseline.fit(examples)
        rows = []
        for index, item in enumerate(self.scores.items):
            truth_HW = self.scores.truth(index)
            thing, sentence = baseline.answer(
                item.case.modality or "", item.target.name, item.target.kind, truth_HW.shape, zone_rule=rule
            )
            rows.append(
                score_answer(
                    item, index=index, question="", thing=thing, model_text=sentence, truth_HW=truth_HW, zone_rule=rule
                )
            )
        return rows

    def _track(self, content: Mapping[str, Any]) -> None:
        self.tracker.log_params({"model": content["model"], "split": self.split, "git_commit": git_commit()})
        self.tracker.log_dataset(self.split, content["data_fingerprint"], len(self.scores.items))
        self.tracker.log_metrics(flat_metrics(self.scores.scores, self.split), step=0)
        for name in ("scores.json", "answers.jsonl"):
            self.tracker.log_file(self.output_dir / name)
        for name, picture in self.scores.pictures.items():
            self.tracker.log_picture(picture, f"overlays/{name}.png")
        self.tracker.finish()


def print_scores(content: Mapping[str, Any], *, title: str) -> None:
    """One line per modality and kind; the constant baseline beside the model."""
    baseline = content.get("baselines", {}).get("mean_mask_majority_zone")
    table = Table(title=title)
    for heading in ("", "n", "Dice", "IoU", "zone accuracy (n)", "baseline Dice", "baseline zone"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, block in _blocks(content):
        other = dict(_blocks(baseline)).get(name, {}) if baseline else {}
        table.add_row(
            name,
            str(block["n"]),
            _number(block["dice"]),
            _number(block["iou"]),
            f"{_number(block['zone_accuracy'])} ({block['zone_n']})",
            _number(other.get("dice")),
            _number(other.get("zone_accuracy")),
        )
    console = Console()
    console.width = max(console.width, 100)
    console.print(table)
    for name, block in (("model", content), ("baseline", baseline)):
        if not block:
            continue
        seen = block["negatives"]
        console.print(
            f"{name}: {seen['n']} images without the target: specificity {_number(seen['specificity'])} by sentence,"
            f" {_number(seen['specificity_presence'])} by the presence head; {seen['n_positive']} with it: false"
            f" 'not visible' {_number(seen['false_none'])} and {_number(seen['false_none_presence'])};"
            f" contradictions {_number(block['overall']['contradiction_rate'])}"
        )
    console.print(NOT_A_MEDICAL_DEVICE, style="italic")


def _blocks(content: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    rows = []
    for modality, scores in content["modalities"].items():
        rows += [(f"{modality} {kind}", scores[kind]) for kind in ("lesions", "organs") if scores[kind]["n"]]
    rows += [(kind, content[kind]) for kind in ("lesions", "organs") if content[kind]["n"]]
    return [*rows, ("overall", content["overall"])]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def run_evaluation(config_file: str | Path, **overrides: Any) -> dict[str, Any]:
    """Run an evaluating config with some values replaced; what `prsmed evaluate` and the end of a training call.

    Returns:
        the content of scores.json.

    Raises:
        PrsmedError: whatever is wrong with the model or the data, as itself and not as MONAI wraps it.
    """
    parser = ConfigParser()
    parser.read_config(str(config_file))
    parser.update(overrides)
    parser.parse()
    try:
        parser.get_parsed_content("initialize")
        return parser.get_parsed_content("evaluating")[-1]
    except RuntimeError as error:
        raise known_cause(error) or error from error


def evaluation_name(predictor: Predictor, split: str) -> str:
    """A run name that is told from others of the same model by its time."""
    return f"{predictor.model_record()['name']}-{split}-{datetime.now():%Y%m%d-%H%M%S}"


def parent_tags(training_run_id: str | None) -> dict[str, str]:
    """Links an evaluation to its training run, in MLflow's own way."""
    return {"mlflow.parentRunId": training_run_id} if training_run_id else {}


def finish_training(recorder: RunRecorder, test: Mapping[str, str], *, device: Any, dataset_dir: str) -> dict[str, Any]:
    """Score the best model of a finished training, as a linked run, and say where everything lies."""
    tracker, run = recorder.tracker, recorder.run
    idist.barrier()  # rank 0 may still be writing the best model
    if not recorder.manifest.split(test["split"]):
        logger.warning("no case of split %r: the best model, %s, is not scored", test["split"], run.best)
        return {}
    scores = run_evaluation(
        test["config_file"],
        model=str(run.best),
        device=device,
        dataset_dir=dataset_dir,
        split=test["split"],
        output_dir=str(run.folder / test["split"]),
        tracking_uri=tracker.tracking_uri,
        experiment_name=tracker.experiment,
        training_run_id=tracker.run_id,
    )
    if idist.get_rank() == 0:
        console = Console(soft_wrap=True)
        console.print(f"best model: {run.best}   scores: {run.folder / test['split'] / 'scores.json'}")
        console.print(f"look at the run: mlflow ui --backend-store-uri {tracker.tracking_uri}")
        console.print(f'ask it: prsmed ask IMAGE "Where is the lesion?" --modality MODALITY --model {run.best}')
    return scores
