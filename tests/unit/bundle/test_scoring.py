"""Scores of answers whose truth is drawn by hand."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine

from bundle.scoring import ScoreHandler, score_answer
from prsmed.data.manifest import Manifest
from prsmed.data.preprocessing import Preprocessing
from prsmed.geometry import mask_to_box
from prsmed.predictor import RawAnswers
from prsmed.samples import Item, findings_of, items_of, load_item
from prsmed.text.templates import rule_text
from prsmed.types import AnswerObject, Case, Target

POLYP = Item(Case("c", "c.png", "endoscopy", "c"), Target("t1", "polyp", "lesion"), None)
SLICES = {"axis": "axial", "with_target": 1, "without_target": 0}


def square(top: int, left: int, side: int = 10) -> np.ndarray:
    mask_HW = np.zeros((60, 60), dtype=bool)
    mask_HW[top : top + side, left : left + side] = True
    return mask_HW


def score(mask_HW: np.ndarray, truth_HW: np.ndarray, words: str) -> Any:
    findings = findings_of(mask_HW, "lesion", zone_rule="posmed")
    thing = AnswerObject(mask_HW, mask_to_box(mask_HW), bool(mask_HW.any()), 0.8, findings)
    return score_answer(
        POLYP, index=0, question="Where?", thing=thing, model_text=words, truth_HW=truth_HW, zone_rule="posmed"
    )


def test_a_right_sentence_and_half_a_mask() -> None:
    """Two 10 x 10 squares that share 10 x 5 pixels: Dice 2 * 50 / 200, IoU 50 / 150."""
    row = score(square(2, 7), square(2, 2), "The polyp lies in the top left of the image.")
    assert (row.dice, row.iou) == (pytest.approx(0.5), pytest.approx(1 / 3))
    assert (row.zones_truth, row.zones_text, row.zones_right) == (("top-left",), ("top-left",), True)
    assert row.present and row.says_present and not row.contradiction


def test_words_against_the_mask_are_a_contradiction() -> None:
    row = score(square(2, 2), square(2, 2), "The polyp lies in the bottom right of the image.")
    assert row.dice == 1 and not row.zones_right and row.contradiction


def test_an_absent_target() -> None:
    nothing = np.zeros((60, 60), dtype=bool)
    right = score(nothing, nothing, "No polyp is visible in this image.")
    assert (right.present, right.text_kind, right.mask_is_empty, right.dice) == (False, "none", True, 1.0)
    wrong = score(square(2, 2), nothing, "The polyp lies in the top left of the image.")
    assert (wrong.text_kind, wrong.mask_is_empty, wrong.dice, wrong.zones_right) == ("positions", False, 0.0, False)


def test_three_findings_have_no_zones_to_be_right_about() -> None:
    three = square(2, 2) | square(2, 45) | square(45, 2)
    assert score(three, three, "x").zones_truth == ()


@pytest.fixture
def scored(phantom_manifest: Manifest, preprocessing: Preprocessing) -> tuple[ScoreHandler, Engine]:
    """An evaluator whose answers are the truth, in batches that arrive in the wrong order."""
    items = items_of(phantom_manifest, "test", slices=SLICES)
    handler = ScoreHandler(
        items, manifest=phantom_manifest, thresholds={"mask": 0.5, "presence": 0.5}, zone_rule="posmed", prefix="test"
    )

    def answer(engine: Engine, indices: list[int]) -> dict:
        (index,) = indices
        sample = load_item(phantom_manifest, items[index], preprocessing)
        truth_HW = handler.truth(index)
        words = rule_text(findings_of(truth_HW, sample["kind"], zone_rule="posmed"), target=sample["target"])
        present = torch.tensor([float(truth_HW.any())])
        batch = {"index": torch.tensor(indices), "geometry": [sample["geometry"]], "question": ["Where?"]}
        engine.state.batch = {**batch, "image": sample["image"][None]}
        return {"pred": RawAnswers(sample["label"][None], present, [words])}

    engine = Engine(answer)
    handler.attach(engine)
    engine.run([[index] for index in reversed(range(len(items)))])
    return handler, engine


def test_the_truth_scores_best(scored: tuple[ScoreHandler, Engine]) -> None:
    handler, engine = scored
    assert [row.index for row in handler.rows] == list(range(len(handler.items)))
    metrics = engine.state.metrics
    assert metrics["test/overall/dice"] > 0.9  # not 1: the label went through the canonical grid
    assert metrics["test/overall/zone_accuracy"] == 1 and metrics["test/selection"] > 0.95
    assert {"test/mri/dice", "test/x-ray/dice"} <= set(metrics)
    assert handler.scores["overall"]["n"] == sum(row.present for row in handler.rows)


def test_one_picture_a_modality(scored: tuple[ScoreHandler, Engine]) -> None:
    handler, _ = scored
    assert len({row.modality for row in handler.rows}) == len(handler.pictures) == 6
    assert all(picture.dtype == np.uint8 and picture.shape[2] == 3 for picture in handler.pictures.values())


def test_masks_are_read_once(scored: tuple[ScoreHandler, Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    handler, _ = scored
    before = handler.truth(0)
    monkeypatch.setattr("bundle.scoring.truth_of", SimpleNamespace())  # not callable: reading again would fail
    assert np.array_equal(handler.truth(0), before)
