"""Scores of answers whose truth is drawn by hand."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ignite.engine import Engine

from bundle.scoring import ScoreHandler, Scorer, Truths, prediction_of
from prsmed.answers import RawAnswers
from prsmed.data.manifest import Manifest
from prsmed.data.predictions import Prediction
from prsmed.data.preprocessing import Preprocessing
from prsmed.geometry import Geometry
from prsmed.metrics.rows import ScoreRow
from prsmed.samples import Item, findings_of, items_of, load_item, truth_of
from prsmed.text.templates import rule_text
from prsmed.types import Case, Target

POLYP = Item(Case("c", "c.png", "endoscopy", "c"), Target("t1", "polyp", "lesion"), None)
SLICES = {"axis": "axial", "with_target": 1, "without_target": 0}
HALVES = {"mask": 0.5, "presence": 0.5}
FACTS = ("geometry", "key", "modality")
NOTHING = np.zeros((60, 60), dtype=bool)
RIGHT = "The polyp lies in the top left of the image."


def square(top: int, left: int, side: int = 10) -> np.ndarray:
    mask_HW = np.zeros((60, 60), dtype=bool)
    mask_HW[top : top + side, left : left + side] = True
    return mask_HW


class Drawn(Truths):
    """A truth that is drawn here, not read."""

    def __init__(self, truth_HW: np.ndarray, spacing_hw_mm: tuple[float, float] | None):
        super().__init__(Manifest(Path(), (), {}))
        self.truth_HW, self.spacing_hw_mm = truth_HW, spacing_hw_mm

    def __call__(self, item: Item) -> tuple[np.ndarray, tuple[float, float] | None]:
        return self.truth_HW, self.spacing_hw_mm


def score(
    mask_HW: np.ndarray,
    truth_HW: np.ndarray,
    words: str | None,
    *,
    presence: float | None = 0.8,
    spacing_hw_mm: tuple[float, float] | None = None,
    protocol: bool = False,
) -> ScoreRow:
    scorer = Scorer(
        [POLYP],
        Drawn(truth_HW, spacing_hw_mm),
        thresholds=HALVES,
        zone_rule="posmed",
        protocol=protocol,
    )
    scorer.add(0, Prediction(POLYP.key, "Where?", "template", mask_HW.astype(np.uint8) * 255, presence, words))
    (row,) = scorer.rows()
    return row


def test_a_right_sentence_and_half_a_mask() -> None:
    """Two 10 x 10 squares that share 10 x 5 pixels: Dice 2 * 50 / 200, IoU 50 / 150."""
    row = score(square(2, 7), square(2, 2), RIGHT)
    assert (row.mask.dice, row.mask.iou) == (pytest.approx(0.5), pytest.approx(1 / 3))
    assert (row.zones_truth, row.zones_text, row.zones_right) == (("top-left",), ("top-left",), True)
    assert row.present and row.says_present and not row.contradiction and row.rule_right
    assert (row.key, row.group, row.query_kind, row.probe) == ("c/t1", "c", "template", "")


def test_words_against_the_mask_are_a_contradiction() -> None:
    row = score(square(2, 2), square(2, 2), "The polyp lies in the bottom right of the image.")
    assert row.mask.dice == 1 and not row.zones_right and row.contradiction and row.rule_right


def test_an_absent_target() -> None:
    right = score(NOTHING, NOTHING, "No polyp is visible in this image.", presence=0.1)
    assert (right.present, right.text_kind, right.mask_is_empty, right.mask.dice) == (False, "none", True, 1.0)
    assert right.zones_right and right.rule_right and not right.contradiction
    wrong = score(square(2, 2), NOTHING, RIGHT)
    assert (wrong.text_kind, wrong.mask_is_empty, wrong.mask.dice) == ("positions", False, 0.0)
    assert not wrong.zones_right and not wrong.rule_right


def test_below_the_presence_threshold_nothing_is_drawn() -> None:
    row = score(square(2, 2), square(2, 2), RIGHT, presence=0.49)
    assert not row.says_present and row.mask_is_empty and row.mask.dice == 0 and row.contradiction


def test_a_system_that_only_draws() -> None:
    """No sentence is no wrong sentence; what is drawn is there."""
    row = score(square(2, 2), square(2, 2), None, presence=None)
    assert (row.text_kind, row.model_text, row.zones_right, row.contradiction) == ("silent", "", False, False)
    assert (row.says_present, row.presence_prob, row.rule_right) == (True, 1.0, True)
    assert not score(NOTHING, square(2, 2), None, presence=None).says_present


def test_three_findings_have_no_zones_to_be_right_about() -> None:
    three = square(2, 2) | square(2, 45) | square(45, 2)
    row = score(three, three, "x")
    assert row.zones_truth == row.zones_mask == () and row.mask.lesions_true == row.mask.lesions_found == 3
    assert row.rule_right


def test_more_blobs_are_no_better() -> None:
    """One polyp, and beside it one or two others drawn: the rule's sentence is wrong both times."""
    two, three = (square(2, 2) | other for other in (square(2, 45), square(2, 45) | square(45, 2)))
    rows = [score(drawn_HW, square(2, 2), RIGHT) for drawn_HW in (two, three)]
    assert [row.rule_right for row in rows] == [False, False]
    assert rows[0].zones_mask and rows[1].zones_mask == ()


@pytest.mark.parametrize(
    ("words", "truth_HW", "kind", "right"),
    [
        (RIGHT, square(2, 2), "positions", True),
        ("The polyp is in the top right.", square(2, 2), "positions", False),
        ("No polyp is visible.", square(2, 2), "none", False),
        ("No polyp is visible.", NOTHING, "none", True),
        (RIGHT, NOTHING, "positions", False),
        ("polyp polyp left", square(2, 2), "unreadable", False),
        ("", NOTHING, "unreadable", False),
    ],
)
def test_only_what_the_sentence_states_counts(words: str, truth_HW: np.ndarray, kind: str, right: bool) -> None:
    row = score(truth_HW, truth_HW, words)
    assert (row.text_kind, row.zones_right) == (kind, right)


def test_the_tolerance_is_in_mm_where_a_pixel_has_a_size() -> None:
    """Squares 2 px apart: within the default 2 px, and 1 mm at 0.5 mm a pixel; beyond 2 mm at 5 mm a pixel."""
    masks = square(20, 22), square(20, 20)
    for spacing_hw_mm, within in ((None, True), ((0.5, 0.5), True), ((5.0, 5.0), False)):
        assert (score(*masks, RIGHT, spacing_hw_mm=spacing_hw_mm).mask.nsd == 1) == within


def test_the_authors_protocol_is_asked_for_and_over_what_is_there() -> None:
    """A map of 0 and 255 is the truth at 255 of 256 thresholds, and the whole picture (Dice 200 / 3700) at 0."""
    row = score(square(2, 2), square(2, 2), RIGHT, protocol=True)
    assert row.protocol_dice == pytest.approx((255 + 200 / 3700) / 256)
    assert row.protocol_iou == pytest.approx((255 + 100 / 3600) / 256)
    assert score(square(2, 2), square(2, 2), RIGHT).protocol_dice is None
    assert score(NOTHING, NOTHING, RIGHT, protocol=True).protocol_dice is None


def test_a_row_of_a_batch_becomes_a_prediction() -> None:
    """The map leaves the batch's padded grid for the picture's."""
    prob = torch.zeros(2, 1, 8, 8)
    prob[1, 0, :4, :6] = 0.5
    batch = {"key": ["a", "b"], "question": ["q", "r"], "query_kind": ["template", "probe"]}
    batch["geometry"] = [Geometry((8, 8), (8, 8)), Geometry((4, 6), (4, 6))]
    raw = RawAnswers(prob, torch.tensor([0.2, 0.123456]), None)
    one = prediction_of(raw, batch, 1)
    assert (one.key, one.question, one.query_kind, one.model_text) == ("b", "r", "probe", None)
    assert one.presence_prob == 0.1235 and one.soft_HW.dtype == np.uint8
    np.testing.assert_array_equal(one.soft_HW, np.full((4, 6), 128))


@pytest.fixture
def scored(phantom_manifest: Manifest, preprocessing: Preprocessing) -> tuple[ScoreHandler, Engine]:
    """An evaluator whose answers are the truth, in batches that arrive in the wrong order."""
    items = items_of(phantom_manifest, "test", slices=SLICES)
    handler = ScoreHandler(items, manifest=phantom_manifest, thresholds=HALVES, zone_rule="posmed", prefix="test")

    def answer(engine: Engine, indices: list[int]) -> dict:
        (index,) = indices
        sample = load_item(phantom_manifest, items[index], preprocessing)
        truth_HW = handler.truths(items[index])[0]
        words = rule_text(findings_of(truth_HW, sample["kind"], zone_rule="posmed"), target=sample["target"])
        present = torch.tensor([float(truth_HW.any())])
        facts = {"question": "Where?", "query_kind": "template", **{name: sample[name] for name in FACTS}}
        batch = {"index": torch.tensor(indices), "image": sample["image"][None]}
        engine.state.batch = {**batch, **{name: [fact] for name, fact in facts.items()}}
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


def test_a_second_validation_starts_anew(scored: tuple[ScoreHandler, Engine]) -> None:
    handler, engine = scored
    before = handler.scores, list(handler.pictures)
    engine.run([[index] for index in range(len(handler.rows))])
    assert (handler.scores, sorted(handler.pictures)) == (before[0], sorted(before[1]))


def test_masks_are_read_once(phantom_manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    items = items_of(phantom_manifest, "train", slices=SLICES)
    truths = Truths(phantom_manifest)
    before = [truths(item) for item in items]
    monkeypatch.setattr("bundle.scoring.open_image", SimpleNamespace())  # not callable: reading again would fail
    again = [truths(item) for item in items]
    assert all(
        np.array_equal(one[0], other[0]) and one[1] == other[1] for one, other in zip(before, again, strict=True)
    )
    assert all(
        np.array_equal(mask_HW, truth_of(phantom_manifest, item)[1])
        for item, (mask_HW, _) in zip(items, before, strict=True)
    )
    mirrored = replace(items[0], probe="flip", base=items[0].key, edit="mirror")
    np.testing.assert_array_equal(truths(mirrored)[0], before[0][0][:, ::-1])  # of the mask that was read
    sized = [spacing_hw_mm is not None for _, spacing_hw_mm in before]
    assert sized == [item.slice is not None for item in items] and any(sized) and not all(sized)
