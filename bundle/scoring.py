"""From predictions to scored rows, on the grid of the source picture, with any number of processes."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.utils import string_list_all_gather

from prsmed.answers import (
    RawAnswers,
    contradictions_of,
    decide,
    described_zones,
    detected_box,
    soft_mask,
)
from prsmed.data.manifest import Manifest
from prsmed.data.predictions import Prediction
from prsmed.data.volumes import open_image
from prsmed.data.writers.picture import draw_overlay, to_display
from prsmed.geometry import mask_to_box
from prsmed.metrics.masks import MaskMetric, Tolerance, box_iou_of
from prsmed.metrics.protocol import protocol_scores
from prsmed.metrics.rows import MaskScores, ScoreRow
from prsmed.metrics.summary import flat_metrics, selection_score, summarise
from prsmed.samples import Item, edited_truth, findings_of, shown_spacing, shown_truth
from prsmed.text.naming import first_named
from prsmed.text.parse import parse_position, zones_match
from prsmed.text.templates import described_findings
from prsmed.types import AnswerObject, Finding


class Truths:
    """True masks, kept packed once read: reading them again at every validation is what would cost.

    The probes of a gate share the mask of the picture they were made from.
    """

    def __init__(self, manifest: Manifest):
        self.manifest = manifest
        self._kept: dict[Hashable, tuple[np.ndarray, tuple[int, ...], tuple[float, float] | None]] = {}
        self._findings: dict[tuple[str, str], list[Finding]] = {}

    def __call__(self, item: Item) -> tuple[np.ndarray, tuple[float, float] | None]:
        """True mask (bool, H W) of an item on the grid of its source picture, and the size of a pixel where known."""
        key = (item.case.id, item.target, item.slice)
        if key not in self._kept:
            image = open_image(self.manifest, item.case, values=False)
            mask_HW = shown_truth(self.manifest, item, image)
            self._kept[key] = (np.packbits(mask_HW), mask_HW.shape, shown_spacing(item, image))
        packed, shape, spacing_hw_mm = self._kept[key]
        mask_HW = np.unpackbits(packed, count=shape[0] * shape[1]).reshape(shape).view(bool)
        return edited_truth(item, mask_HW, spacing_hw_mm), spacing_hw_mm

    def findings(self, item: Item, *, zone_rule: str) -> list[Finding]:
        """The findings of an item's true mask, found once for all systems that are scored."""
        if (item.key, zone_rule) not in self._findings:
            mask_HW, spacing_hw_mm = self(item)
            self._findings[item.key, zone_rule] = findings_of(
                mask_HW, item.target.kind, zone_rule=zone_rule, spacing_hw_mm=spacing_hw_mm
            )
        return self._findings[item.key, zone_rule]


class Scorer:
    """Scores predictions one by one; `rows` joins what all processes have scored.

    Args:
        items, truths: what was asked, and what is true.
        thresholds: `mask` and `presence`.
        zone_rule: names positions.
        tolerance: of the surface Dice.
        protocol: also score by the authors' protocol, from the soft maps.
    """

    def __init__(
        self,
        items: Sequence[Item],
        truths: Truths,
        *,
        thresholds: Mapping[str, float],
        zone_rule: str,
        tolerance: Tolerance | None = None,
        protocol: bool = False,
    ):
        self.items, self.truths = items, truths
        self.thresholds, self.zone_rule, self.protocol = thresholds, zone_rule, protocol
        self.masks = MaskMetric(tolerance or Tolerance())
        self.names = {item.target.name for item in items}
        self._words: dict[int, dict[str, Any]] = {}

    def reset(self) -> None:
        """Forget everything but the truths."""
        self.masks.reset()
        self._words = {}

    def add(self, index: int, prediction: Prediction) -> AnswerObject:
        """Score the answer to one item, and say what was decided."""
        item = self.items[index]
        truth_HW, spacing_hw_mm = self.truths(item)
        findings = self.truths.findings(item, zone_rule=self.zone_rule)
        thing = decide(
            prediction.soft_HW,
            prediction.presence_prob,
            kind=item.target.kind,
            thresholds=self.thresholds,
            zone_rule=self.zone_rule,
            spacing_hw_mm=spacing_hw_mm,
        )
        self.masks(
            y_pred=[torch.from_numpy(thing.mask)[None]],
            y=[torch.from_numpy(truth_HW)[None]],
            index=[index],
            spacing_hw_mm=[spacing_hw_mm],
        )
        self._words[index] = {
            **_facts(item, findings),
            **_statement(item, thing, prediction, findings, self.names),
            **_pointing(item, prediction, truth_HW, self.names),
            "readings_agree": prediction.agreed if thing.mask.any() else None,
        }
        if self.protocol and truth_HW.any():
            scores = protocol_scores(prediction.soft_HW, truth_HW)
            self._words[index] |= {f"protocol_{name}": value for name, value in vars(scores).items()}
        return thing

    def rows(self) -> list[ScoreRow]:
        """All rows of all processes in the order of the items; every process gets them all, once each."""
        masks: dict[int, MaskScores] = self.masks.aggregate()
        gathered = string_list_all_gather([json.dumps({"index": index, **row}) for index, row in self._words.items()])
        words = {row["index"]: row for row in map(json.loads, gathered)}
        return [ScoreRow.from_json({**words[index], "mask": vars(masks[index])}) for index in sorted(words)]


def _facts(item: Item, findings: Sequence[Finding]) -> dict[str, Any]:
    return {
        "key": item.key,
        "group": item.case.group,
        "modality": item.case.modality or "",
        "dataset": item.case.dataset,
        "target": item.target.name,
        "kind": item.target.kind,
        "probe": item.probe,
        "base": item.base,
        "present": bool(findings),
        "query_length": item.query.length if item.query else "",
        "zones_truth": _all_zones(findings),
        "border_ambiguous": any(finding.border_ambiguous for finding in findings),
    }


def _all_zones(findings: Sequence[Finding]) -> tuple[str, ...]:
    """Zones where a sentence names all of them, else ()."""
    return described_zones(findings) if not _are_many(findings) else ()


def _stated_by_rule(findings: Sequence[Finding]) -> tuple[bool, list[str]]:
    """What the rule's sentence says of findings: whether there are more than it names, and the zones it names."""
    return _are_many(findings), sorted(described_zones(findings))


def _are_many(findings: Sequence[Finding]) -> bool:
    return len(described_findings(findings)) < len(findings)


def _statement(
    item: Item, thing: AnswerObject, prediction: Prediction, findings: Sequence[Finding], names: Iterable[str]
) -> dict[str, Any]:
    truth = described_zones(findings)
    text = prediction.model_text if item.query is None else None  # an explanation states no position
    parsed = parse_position(text, target=item.target.name) if text is not None else None
    if parsed is None:
        right = False
    elif not truth:
        right = parsed.kind == "none"
    else:
        right = parsed.kind == "positions" and zones_match(parsed, truth)
    return {
        "question": prediction.question,
        "query_kind": prediction.query_kind,
        "presence_prob": thing.presence_prob,
        "says_present": thing.present,
        "mask_is_empty": not thing.mask.any(),
        "zones_mask": _all_zones(thing.findings),
        "rule_right": _stated_by_rule(thing.findings) == _stated_by_rule(findings),
        "model_text": prediction.model_text or "",
        "text_kind": parsed.kind if parsed else "silent",
        "zones_text": tuple(parsed.zones) if parsed else (),
        "zones_right": bool(right),
        "contradiction": text is not None
        and bool(contradictions_of(text, thing, target=item.target.name, names=names)),
    }


def _pointing(item: Item, prediction: Prediction, truth_HW: np.ndarray, names: Iterable[str]) -> dict[str, Any]:
    """Whether the box decoder and the explanation mean what was asked for; nothing is judged where nothing is true."""
    box, text = prediction.box_xyxy_px, prediction.model_text
    truth = mask_to_box(truth_HW)
    if truth is None:
        return {}
    judged: dict[str, Any] = {}
    if box is not None:
        judged["decoder_box_iou"] = box_iou_of(box, truth) if box else 0.0
    if item.query is not None and text is not None:
        judged["names_target"] = first_named(text, names) == item.target.name
    return judged


def prediction_of(raw: RawAnswers, batch: Mapping[str, Any], row: int) -> Prediction:
    """One row of a batch of answers, ready to be stored or scored."""
    return Prediction(
        key=batch["key"][row],
        question=batch["question"][row],
        query_kind=batch["query_kind"][row],
        soft_HW=soft_mask(raw.mask_prob[row], batch["geometry"][row]),
        presence_prob=round(float(raw.presence_prob[row]), 4),
        model_text=raw.texts[row] if raw.texts is not None else None,
        box_xyxy_px=None
        if raw.boxes_xyxy_norm is None
        else detected_box(raw, row, batch["geometry"][row].slice_hw_px) or (),
        agreed=raw.agreed[row] if raw.agreed is not None else None,
    )


class ScoreHandler:
    """Scores every answer of a validating evaluator and puts flat metrics into `engine.state.metrics`.

    Args:
        items, manifest: what the evaluator's dataset asks, in its order.
        thresholds, zone_rule: as in the model's description.
        pictures: how many overlays to keep per modality.
        prefix: of the metric names.

    After an epoch `scores` (see `prsmed.metrics.summary`), `rows` and `pictures` are set.
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
        self.items, self.truths = items, Truths(manifest)
        self.scorer = Scorer(items, self.truths, thresholds=thresholds, zone_rule=zone_rule)
        self.prefix = prefix
        self.pictures_per_modality = pictures
        self.rows: list[ScoreRow] = []
        self.scores: dict[str, Any] = {}
        self.pictures: dict[str, np.ndarray] = {}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._score_batch)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def _start(self, engine: Engine) -> None:
        self.pictures = {}
        self.scorer.reset()

    def _score_batch(self, engine: Engine) -> None:
        batch, raw = engine.state.batch, engine.state.output["pred"]
        assert isinstance(raw, RawAnswers)
        for row, index in enumerate(batch["index"].tolist()):
            prediction = prediction_of(raw, batch, row)
            thing = self.scorer.add(index, prediction)
            modality = batch["modality"][row]
            taken = sum(name.startswith(f"{modality}-") for name in self.pictures)
            if taken < self.pictures_per_modality:
                truth_HW = self.truths(self.items[index])[0]
                self.pictures[f"{modality}-{taken}"] = overlay(
                    batch["image"][row], batch["geometry"][row], prediction, thing.mask, truth_HW
                )

    def _finish(self, engine: Engine) -> None:
        self.rows = self.scorer.rows()
        self.scores = summarise(self.rows, intervals=None)
        engine.state.metrics.update(flat_metrics(self.scores, self.prefix))
        engine.state.metrics[f"{self.prefix}/selection"] = selection_score(self.scores)


def overlay(
    image_CHW: torch.Tensor, geometry: Any, prediction: Prediction, mask_HW: np.ndarray, truth_HW: np.ndarray
) -> np.ndarray:
    """The canonical picture with prediction, truth, question and answer on it."""
    height, width = geometry.canonical_hw_px
    said = "(no words)" if prediction.model_text is None else prediction.model_text
    return draw_overlay(
        to_display(image_CHW[:, :height, :width].cpu().numpy()),
        mask_HW=geometry.mask_to_canonical(mask_HW),
        truth_HW=geometry.mask_to_canonical(truth_HW),
        caption=[f"Q: {prediction.question}", f"A: {said}"],
    )
