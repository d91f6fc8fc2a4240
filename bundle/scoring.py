"""Scoring answers during validation and evaluation, on the grid of the source picture, with any number of processes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.utils import string_list_all_gather

from prsmed.data.manifest import Manifest
from prsmed.data.writers.picture import draw_overlay, to_display
from prsmed.metrics.answers import ScoreRow, dice_iou, flat_metrics, score_text, selection_score, summarise
from prsmed.predictor import RawAnswers, contradictions_of, decide, described_zones
from prsmed.samples import Item, findings_of, truth_of
from prsmed.types import AnswerObject


def score_answer(
    item: Item,
    *,
    index: int,
    question: str,
    thing: AnswerObject,
    model_text: str,
    truth_HW: np.ndarray,
    zone_rule: str,
) -> ScoreRow:
    """One row: what was said and drawn against the true mask of the source picture."""
    findings = findings_of(truth_HW, item.target.kind, zone_rule=zone_rule)
    zones_truth = described_zones(findings)
    dice, iou = dice_iou(thing.mask, truth_HW)
    return ScoreRow(
        index=index,
        key=item.key,
        modality=item.case.modality or "",
        dataset=item.case.dataset,
        target=item.target.name,
        kind=item.target.kind,
        group=item.case.group,
        present=bool(truth_HW.any()),
        dice=dice,
        iou=iou,
        presence_prob=thing.presence_prob,
        says_present=thing.present,
        mask_is_empty=not thing.mask.any(),
        zones_truth=zones_truth if len(findings) <= 2 else (),
        border_ambiguous=any(finding.border_ambiguous for finding in findings),
        contradiction=bool(contradictions_of(model_text, thing, target=item.target.name)),
        question=question,
        model_text=model_text,
        **score_text(model_text, zones_truth, target=item.target.name, present=bool(findings)),
    )


class ScoreHandler:
    """Scores every answer of an evaluator and puts flat metrics into `engine.state.metrics`.

    Args:
        items, manifest: what the evaluator's dataset asks, in its order.
        thresholds, zone_rule: as in the model's description.
        pictures: how many overlays to keep per modality.
        prefix: of the metric names.

    After an epoch `scores` (see `prsmed.metrics.answers.summarise`), `rows` and `pictures` are set.
    """

    def __init__(
        self,
        items: Sequence[Item],
        *,
        manifest: Manifest,
        thresholds: Mapping[str, float],
        zone_rule: str,
        pictures: int = 1,
        prefix: str = "val",
    ):
        self.items, self.manifest = items, manifest
        self.thresholds, self.zone_rule = thresholds, zone_rule
        self.prefix = prefix
        self.pictures_per_modality = pictures
        self.rows: list[ScoreRow] = []
        self.scores: dict[str, Any] = {}
        self.pictures: dict[str, np.ndarray] = {}
        self._truths: dict[int, np.ndarray] = {}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._score_batch)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def _start(self, engine: Engine) -> None:
        self.rows, self.pictures = [], {}

    def truth(self, index: int) -> np.ndarray:
        # Masks are small once packed; reading them again at every validation is what would cost.
        if index not in self._truths:
            mask_HW = truth_of(self.manifest, self.items[index])[1]
            self._truths[index] = np.array([mask_HW.shape, np.packbits(mask_HW)], dtype=object)
        shape, packed = self._truths[index]
        return np.unpackbits(packed, count=shape[0] * shape[1]).reshape(shape).astype(bool)

    def _score_batch(self, engine: Engine) -> None:
        batch, raw = engine.state.batch, engine.state.output["pred"]
        assert isinstance(raw, RawAnswers)
        for row, index in enumerate(batch["index"].tolist()):
            item, geometry = self.items[index], batch["geometry"][row]
            thing = decide(
                raw.mask_prob[row],
                float(raw.presence_prob[row]),
                geometry,
                kind=item.target.kind,
                thresholds=self.thresholds,
                zone_rule=self.zone_rule,
            )
            truth_HW = self.truth(index)
            scored = score_answer(
                item,
                index=index,
                question=batch["question"][row],
                thing=thing,
                model_text=raw.texts[row],
                truth_HW=truth_HW,
                zone_rule=self.zone_rule,
            )
            self.rows.append(scored)
            self._keep_picture(batch["image"][row], geometry, scored, thing, truth_HW)

    def _keep_picture(self, image_CHW: torch.Tensor, geometry, row: ScoreRow, thing: AnswerObject, truth_HW) -> None:
        taken = sum(name.startswith(f"{row.modality}-") for name in self.pictures)
        if taken >= self.pictures_per_modality:
            return
        height, width = geometry.canonical_hw_px
        picture = to_display(image_CHW[:, :height, :width].cpu().numpy())
        self.pictures[f"{row.modality}-{taken}"] = draw_overlay(
            picture,
            mask_HW=geometry.mask_to_canonical(thing.mask),
            truth_HW=geometry.mask_to_canonical(truth_HW),
            caption=[f"Q: {row.question}", f"A: {row.model_text}", f"Dice {row.dice:.2f}"],
        )

    def _finish(self, engine: Engine) -> None:
        gathered = string_list_all_gather([json.dumps(row.to_json()) for row in self.rows])
        by_index = {row["index"]: row for row in map(json.loads, gathered)}
        tuples = ("zones_truth", "zones_text")
        self.rows = [
            ScoreRow(**{name: tuple(value) if name in tuples else value for name, value in by_index[index].items()})
            for index in sorted(by_index)
        ]
        self.scores = summarise(self.rows)
        engine.state.metrics.update(flat_metrics(self.scores, self.prefix))
        engine.state.metrics[f"{self.prefix}/selection"] = selection_score(self.scores)
