"""Evaluation: ask what is not yet stored, score what is, and report it beside baselines and the gates."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from rich.progress import track

from bundle.console import print_scores
from bundle.failures import known_cause
from bundle.runs import git_commit
from bundle.scoring import Scorer, Truths, overlay, prediction_of
from bundle.trackers import Tracker
from prsmed.answers import described_zones, drawn
from prsmed.data.manifest import Manifest
from prsmed.data.predictions import Prediction, PredictionStore
from prsmed.data.preprocessing import Preprocessing
from prsmed.data.volumes import open_image
from prsmed.data.writers.atomic import write_atomically
from prsmed.data.writers.picture import write_picture
from prsmed.metrics.baselines import Asked, Baseline, Replied, TrainingMasks, get_baseline
from prsmed.metrics.gates import gate_scores
from prsmed.metrics.intervals import Bootstrap
from prsmed.metrics.masks import Tolerance
from prsmed.metrics.rows import ScoreRow
from prsmed.metrics.summary import flat_metrics, summarise
from prsmed.probes import probes_of
from prsmed.query_samples import query_items
from prsmed.report import CasePicture, write_report
from prsmed.samples import Item, findings_of, items_of, load_item, shown_spacing, shown_truth
from prsmed.text.templates import TemplateBank
from prsmed.types import NOT_A_MEDICAL_DEVICE

logger = logging.getLogger(__name__)

PREDICTIONS_FOLDER = "predictions"


def asks_queries(info: Mapping[str, Any]) -> bool:
    """Whether a system is asked the cases' own questions, as MediSee is; else questions come from the templates.

    Args:
        info: the model's `model.json`, or what `stored_info` knows.
    """
    return info.get("task") == "medisee" or bool(info.get("queries"))


def items_to_ask(
    manifest: Manifest,
    split: str,
    *,
    slices: Mapping[str, Any],
    gates: Mapping[str, Any] | None,
    truths: Truths,
    bank: TemplateBank,
    zone_rule: str,
    seed: int,
    queries: bool = False,
) -> list[Item]:
    """Everything an evaluation asks: the split's targets, then the probes of the gates.

    Args:
        gates: `per_gate` (how many pictures each gate looks at) and `thresholds`, or None for no gates.
        truths: of the same manifest; the gates choose their pictures by them.
        queries: ask the cases' own questions instead; the gates are about templates, and are left out.
    """
    if queries:
        return query_items(manifest, split, slices=slices)
    items = items_of(manifest, split, slices=slices)
    if gates is None:
        return items
    findings_of_item = partial(truths.findings, zone_rule=zone_rule)
    options = {"bank": bank, "zone_rule": zone_rule, "per_gate": gates["per_gate"], "seed": seed}
    return [*items, *probes_of(items, findings_of_item=findings_of_item, **options)]


def open_store(
    output_dir: str,
    *,
    items: Sequence[Item],
    manifest: Manifest,
    split: str,
    seed: int,
    system: Mapping[str, Any],
    info: Mapping[str, Any],
    bank: TemplateBank,
    queries: bool = False,
    mode: str = "free",
    words: bool = True,
) -> PredictionStore:
    """The store of an evaluation, in `output_dir/predictions`; what it holds from a killed run is kept.

    Args:
        system: who answers (`model_record` of a predictor, or the name of a baseline or external system).
        info: `thresholds`, `zone_rule` and `preprocessing` that answers are decided and shown with.
        bank: whose questions are asked where an item has none of its own.
        queries, mode, words: whether own questions are asked, how MediSee is, and whether sentences are wanted.
    """
    asked = [[item.key, _own_question(item), item.edit] for item in items]
    templates = [] if queries else bank.questions(split)
    about = {
        "schema_version": 1,
        "system": dict(system),
        "split": split,
        "data_fingerprint": manifest.fingerprint(),
        "questions_sha256": hashlib.sha256(json.dumps([seed, asked, templates]).encode()).hexdigest(),
        "thresholds": info["thresholds"],
        "zone_rule": info["zone_rule"],
        "preprocessing": info["preprocessing"],
        **({"queries": True, "mode": mode} if queries else {}),
        **({} if words else {"words": False}),
    }
    folder = Path(output_dir) / PREDICTIONS_FOLDER
    if idist.get_rank() == 0:
        PredictionStore(folder, about)
    idist.barrier()
    return PredictionStore(folder, about)


def stored_info(output_dir: str) -> dict[str, Any]:
    """What is known of the stored predictions of an evaluation, in place of the `model.json` of their model.

    Raises:
        DataError: no predictions are stored there.
    """
    return PredictionStore(Path(output_dir) / PREDICTIONS_FOLDER).about


def missing_from(store: PredictionStore, items: Sequence[Item]) -> list[int]:
    """Indices of the items that the store does not answer; the same list for every process."""
    missing = [index for index, item in enumerate(items) if item.key not in store]
    if idist.get_world_size() > 1:  # another process may have stored something since this one looked
        missing = json.loads(str(idist.broadcast(json.dumps(missing), src=0)))
    if 0 < len(missing) < len(items) and idist.get_rank() == 0:
        logger.info("%s: %d of %d answers are stored already", store.folder, len(items) - len(missing), len(items))
    return missing


class PredictionWriter:
    """Stores what an evaluator's network answers, batch by batch."""

    def __init__(self, store: PredictionStore):
        self.store = store

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write)

    def _write(self, engine: Engine) -> None:
        batch, raw = engine.state.batch, engine.state.output["pred"]
        for row in range(len(batch["key"])):
            self.store.add(prediction_of(raw, batch, row), rank=idist.get_rank())


def predict_baseline(
    name: str,
    store: PredictionStore,
    items: Sequence[Item],
    *,
    manifest: Manifest,
    truths: Truths,
    slices: Mapping[str, Any],
    zone_rule: str,
) -> None:
    """Store a baseline's answers to all items; see `prsmed.metrics.baselines`."""
    answer = get_baseline(name)
    training = training_masks(manifest, slices=slices, zone_rule=zone_rule)
    for index in track(missing_from(store, items)[idist.get_rank() :: idist.get_world_size()], description=name):
        item = items[index]
        reply = answer(_asked(item, *truths(item)), training, zone_rule=zone_rule)
        question = _own_question(item) or f"Where is the {item.target.name}?"
        store.add(_prediction(item, reply, question), rank=idist.get_rank())


def training_masks(manifest: Manifest, *, slices: Mapping[str, Any], zone_rule: str) -> TrainingMasks:
    """Masks and zones of the training split, for the baselines."""

    def examples() -> Iterable[tuple[str, str, Any, tuple[str, ...]]]:
        for item in items_of(manifest, "train", slices=slices):
            image = open_image(manifest, item.case, values=False)
            mask_HW, spacing_hw_mm = shown_truth(manifest, item, image), shown_spacing(item, image)
            findings = findings_of(mask_HW, item.target.kind, zone_rule=zone_rule, spacing_hw_mm=spacing_hw_mm)
            zones = described_zones(findings)
            yield item.case.modality or "", item.target.name, mask_HW, zones

    return TrainingMasks(examples())


def _own_question(item: Item) -> str | None:
    return item.query.question if item.query else item.question


def _asked(item: Item, truth_HW: Any, spacing_hw_mm: tuple[float, float] | None) -> Asked:
    return Asked(item.key, item.case.modality or "", item.target.name, item.target.kind, truth_HW, spacing_hw_mm)


def _prediction(item: Item, reply: Replied, question: str) -> Prediction:
    soft_HW = reply.mask_HW * np.uint8(255)
    query_kind = item.query.kind if item.query else "probe" if item.probe else "template"
    return Prediction(item.key, question, query_kind, soft_HW, reply.presence_prob, reply.model_text)


class EvaluationReport:
    """Scores a store and writes everything that is known about it.

    Args:
        truths: what is true of `items`.
        slices: how volumes were cut, to fit the baselines on the training split in the same way.
        peers: names of baselines to score beside the system on the same questions.
        gates: as `items_to_ask`.
        tolerance: `mm` and `px` of the surface Dice.
        protocol: add the authors' protocol.
        bootstrap_draws: of the intervals.
        pictures: best and worst cases, and examples, per modality.
    """

    def __init__(
        self,
        store: PredictionStore,
        *,
        items: Sequence[Item],
        manifest: Manifest,
        truths: Truths,
        slices: Mapping[str, Any],
        output_dir: str,
        tracker: Tracker,
        peers: Sequence[str] = (),
        gates: Mapping[str, Any] | None = None,
        tolerance: Mapping[str, float] | None = None,
        protocol: bool = False,
        bootstrap_draws: int = 1000,
        pictures: int = 2,
        seed: int = 0,
    ):
        self.store, self.items, self.manifest = store, items, manifest
        self.slices, self.output_dir, self.tracker = dict(slices), Path(output_dir), tracker
        self.peers, self.pictures = tuple(peers), pictures
        self.gates = gates if any(item.probe for item in items) else None
        self.bootstrap = Bootstrap(n_draws=bootstrap_draws, seed=seed)
        self.truths = truths
        self.zone_rule = store.about["zone_rule"]
        self.scoring = {
            "thresholds": store.about["thresholds"],
            "zone_rule": self.zone_rule,
            "tolerance": Tolerance(**(tolerance or {})),
            "protocol": protocol,
        }

    def write(self) -> dict[str, Any]:
        """scores.json, rows.jsonl, the report with its pictures, the table on the console, and a run in MLflow.

        Every process scores its share of the store; the first one writes.

        Returns:
            the content of scores.json (empty on the other processes).
        """
        idist.barrier()  # others may still be storing
        self.store.refresh()
        rows = self._scored(range(len(self.items)), lambda index: self.store.get(self.items[index].key))
        content = {
            "model": self.store.about["system"],
            "split": self.store.about["split"],
            "data_fingerprint": self.store.about["data_fingerprint"],
            "settings": self._settings(),
            **summarise(rows, intervals=self.bootstrap),
            "gates": gate_scores(rows, self.gates["thresholds"]) if self.gates else {},
            "baselines": self._peers(),
            "notice": NOT_A_MEDICAL_DEVICE,
        }
        if idist.get_rank() > 0:
            return {}
        write_atomically(self.output_dir / "scores.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        lines = [json.dumps(row.to_json()) for row in rows]  # ASCII: many readers take U+2028 for the end of a line
        write_atomically(self.output_dir / "rows.jsonl", "\n".join(lines) + "\n")
        pictures = self._draw(rows)
        written = write_report(self.output_dir, content, rows, pictures)
        print_scores(content, title=f"{content['model']['name']} on {content['split']}")
        self._track(content, written, pictures)
        return content

    def _settings(self) -> dict[str, Any]:
        """How the numbers were made, for the reader of scores.json."""
        return {
            "tolerance": vars(self.scoring["tolerance"]),
            "thresholds": self.scoring["thresholds"],
            "zone_rule": self.zone_rule,
            "intervals": {"coverage": self.bootstrap.coverage, "draws": self.bootstrap.n_draws, "drawn": "patients"},
        }

    def _scored(self, indices: Iterable[int], predicted: Callable[[int], Prediction]) -> list[ScoreRow]:
        scorer = Scorer(self.items, self.truths, **self.scoring)
        for index in list(indices)[idist.get_rank() :: idist.get_world_size()]:
            scorer.add(index, predicted(index))
        return scorer.rows()

    def _peers(self) -> dict[str, Any]:
        """The baselines on the ordinary questions of the split."""
        if not self.peers:
            return {}
        if not self.manifest.split("train"):
            logger.warning("no case of split 'train': the baselines %s are not scored", ", ".join(self.peers))
            return {}
        training = training_masks(self.manifest, slices=self.slices, zone_rule=self.zone_rule)
        ordinary = [index for index, item in enumerate(self.items) if not item.probe]
        scores = {}
        for name in self.peers:
            answer = get_baseline(name)

            def predicted(index: int, answer: Baseline = answer) -> Prediction:
                item = self.items[index]
                asked = _asked(item, *self.truths(item))
                return _prediction(item, answer(asked, training, zone_rule=self.zone_rule), "")

            scores[name] = summarise(self._scored(ordinary, predicted), intervals=None)
        return scores

    def _draw(self, rows: Sequence[ScoreRow]) -> list[CasePicture]:
        """Best and worst cases of each modality, and the first ones as examples, as overlays in `pictures/`."""
        preprocessing = Preprocessing(self.store.about["preprocessing"])
        shown: list[CasePicture] = []
        for modality in sorted({row.modality for row in rows}):
            asked = [row for row in rows if row.modality == modality and not row.probe]
            ranked = sorted((row for row in asked if row.present), key=lambda row: row.mask.dice)
            chosen = {
                "best": ranked[: -self.pictures - 1 : -1],
                "worst": ranked[: self.pictures],
                "example": asked[: self.pictures],
            }
            for kind, cases in chosen.items():
                for number, row in enumerate(cases):
                    path = f"pictures/{modality}-{kind}-{number}.png"
                    write_picture(self.output_dir / path, self._overlay(row, preprocessing))
                    shown.append(CasePicture(path, f"{row.question} — {row.model_text}", kind, modality, row.mask.dice))
        return shown

    def _overlay(self, row: ScoreRow, preprocessing: Preprocessing) -> Any:
        prediction = self.store.get(row.key)
        sample = load_item(self.manifest, self.items[row.index], preprocessing)
        mask_HW, _ = drawn(prediction.soft_HW, prediction.presence_prob, self.scoring["thresholds"])
        truth_HW = self.truths(self.items[row.index])[0]
        return overlay(sample["image"], sample["geometry"], prediction, mask_HW, truth_HW)

    def _track(self, content: Mapping[str, Any], written: Sequence[Path], pictures: Sequence[CasePicture]) -> None:
        split = content["split"]
        self.tracker.log_params({"model": content["model"], "split": split, "git_commit": git_commit()})
        cases = {item.case.id for item in self.items if not item.probe}
        self.tracker.log_dataset(split, content["data_fingerprint"], len(cases))
        self.tracker.log_metrics(flat_metrics(content, split), step=0)
        for name in ("scores.json", "rows.jsonl"):
            self.tracker.log_file(self.output_dir / name)
        for path in [*written, *(self.output_dir / picture.path for picture in pictures)]:
            folder = path.relative_to(self.output_dir).parent
            self.tracker.log_file(path, "report" if folder == Path() else f"report/{folder}")
        self.tracker.finish()


def run_evaluation(
    config_file: str | Path | Sequence[str | Path], run_id: str = "evaluating", **overrides: Any
) -> dict[str, Any]:
    """Run an evaluating config with some values replaced; what `prsmed evaluate` and the end of a training call.

    Args:
        config_file: one config, or a config and its overlays.
        run_id: "evaluating", or "scoring" (with the overlay `evaluate_stored.json`) to score again what is stored.

    Returns:
        the content of scores.json.

    Raises:
        PrsmedError: whatever is wrong with the model or the data, as itself and not as MONAI wraps it.
    """
    parser = ConfigParser()
    files = [config_file] if isinstance(config_file, (str, Path)) else config_file
    parser.read_config([str(file) for file in files])
    parser.update(overrides)
    parser.parse()
    try:
        parser.get_parsed_content("initialize")
        return parser.get_parsed_content(run_id)[-1]
    except RuntimeError as error:
        if known := known_cause(error):
            raise known from error
        raise


def evaluation_name(system: Mapping[str, Any], split: str) -> str:
    """A run name that is told from others of the same model by its time."""
    return f"{system['name']}-{split}-{datetime.now():%Y%m%d-%H%M%S}"


def parent_tags(training_run_id: str | None) -> dict[str, str]:
    """Links an evaluation to its training run, in MLflow's own way."""
    return {"mlflow.parentRunId": training_run_id} if training_run_id else {}
