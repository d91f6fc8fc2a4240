"""Scores of stated positions: hand-counted tables, scikit-learn's numbers, and answers that do not look."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score

from prsmed.metrics.intervals import Bootstrap
from prsmed.metrics.position import (
    LABELS,
    constant_label_sets,
    is_judged,
    position_scores,
    position_statistics,
    stated_label,
)
from prsmed.metrics.rows import MaskScores, ScoreRow
from prsmed.types import ZONES

MASK = MaskScores(
    dice=0.5,
    iou=0.4,
    nsd=0.5,
    intersection_px=4,
    union_px=10,
    box_iou=0.4,
    lesions_true=1,
    lesions_found=1,
    lesions_false=0,
)


def row(index: int, truth: str, stated: str, **facts) -> ScoreRow:
    """A row about an image whose finding lies in `truth`, answered with one of `LABELS` or with silence."""
    single = stated in ZONES
    kind = "positions" if single or stated == "several" else stated
    record = {
        "index": index,
        "key": f"case{index}/t1",
        "group": f"g{index}",
        "modality": "mri",
        "dataset": "hand-made",
        "target": "lesion",
        "kind": "lesion",
        "query_kind": "template",
        "probe": "",
        "base": "",
        "question": "Where?",
        "present": True,
        "mask": MASK,
        "presence_prob": 0.9,
        "says_present": True,
        "mask_is_empty": False,
        "zones_truth": (truth,),
        "border_ambiguous": False,
        "zones_mask": (truth,),
        "rule_right": True,
        "model_text": "",
        "text_kind": kind,
        "zones_text": (stated,) if single else ("top-left", "center") if stated == "several" else (),
        "zones_right": stated == truth,
        "contradiction": False,
    }
    return ScoreRow(**{**record, **facts})


def _rows(*pairs: tuple[str, str], **facts) -> list[ScoreRow]:
    return [row(index, truth, stated, **facts) for index, (truth, stated) in enumerate(pairs)]


HAND_MADE = _rows(
    ("top-left", "top-left"),
    ("top-left", "top-left"),
    ("top-left", "top-right"),
    ("top-left", "unreadable"),
    ("center", "center"),
    ("center", "none"),
    ("top-right", "several"),
    ("top-right", "top-right"),
)


def test_by_hand():
    """4 of 8 are right. Recalls: top-left 2/4, center 1/2, top-right 1/2. Chance: (4 * 2 + 2 * 2 + 2 * 1) / 64."""
    scores = position_scores(HAND_MADE, None)
    assert (scores["n"], scores["accuracy"]) == (8, 0.5)
    assert scores["balanced_accuracy"] == pytest.approx((2 / 4 + 1 / 2 + 1 / 2) / 3)
    assert scores["kappa"] == pytest.approx((0.5 - 14 / 64) / (1 - 14 / 64))
    assert scores["majority"] == {"zone": "top-left", "accuracy": 0.5}
    assert scores["random_accuracy"] == 0.2
    assert scores["unreadable"] == 1 / 8
    assert scores["intervals"] == {}


def test_the_confusion_matrix_has_true_zones_as_rows():
    confusion = position_scores(HAND_MADE, None)["confusion"]
    assert confusion["labels"] == [*ZONES, "none", "unreadable", "several"]
    assert confusion["rows"] == [
        [2, 1, 0, 0, 0, 0, 1, 0],
        [0, 1, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 1, 0, 0],
    ]


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("seed", range(5))
def test_equal_to_scikit_learn_with_and_without_weights(seed):
    rng = np.random.default_rng(seed)
    truths, stated = rng.choice(ZONES, size=60), rng.choice(LABELS, size=60)
    stated = np.where(rng.random(60) < 0.5, truths, stated)
    rows = _rows(*zip(truths.tolist(), stated.tolist(), strict=True))
    statistics = position_statistics(rows)
    assert statistics["kappa"].value() == pytest.approx(cohen_kappa_score(truths, stated), abs=1e-12)
    assert statistics["balanced_accuracy"].value() == pytest.approx(balanced_accuracy_score(truths, stated), abs=1e-12)
    weights = Bootstrap(n_draws=3).weights([f"g{index % 20}" for index in range(60)])
    kappas = [cohen_kappa_score(truths, stated, sample_weight=weight) for weight in weights]
    balanced = [balanced_accuracy_score(truths, stated, sample_weight=weight) for weight in weights]
    assert statistics["kappa"].compute(weights) == pytest.approx(kappas, abs=1e-12)
    assert statistics["balanced_accuracy"].compute(weights) == pytest.approx(balanced, abs=1e-12)


@pytest.mark.parametrize("answer", LABELS)
def test_a_constant_answer_has_kappa_zero(answer):
    scores = position_scores(_rows(*((zone, answer) for zone in ZONES * 7)), Bootstrap())
    assert scores["kappa"] == 0.0
    assert scores["intervals"]["kappa"] == [0.0, 0.0]
    assert scores["balanced_accuracy"] == pytest.approx(0.2 if answer in ZONES else 0.0)


def test_an_oracle_has_kappa_one():
    scores = position_scores(_rows(*((zone, zone) for zone in ZONES * 3)), Bootstrap())
    assert scores["accuracy"] == scores["balanced_accuracy"] == scores["kappa"] == 1.0
    assert scores["intervals"]["kappa"] == [1.0, 1.0]


def test_uniform_guessing_reaches_the_random_baseline():
    """Accuracy 0.2 +- 3 * sqrt(0.2 * 0.8 / 4000), kappa about 0."""
    rng = np.random.default_rng(0)
    guesses = zip(rng.choice(ZONES, 4000, p=[0.6, 0.1, 0.1, 0.1, 0.1]), rng.choice(ZONES, 4000), strict=True)
    scores = position_scores(_rows(*((str(truth), str(guess)) for truth, guess in guesses)), None)
    assert scores["accuracy"] == pytest.approx(scores["random_accuracy"], abs=0.019)
    assert scores["kappa"] == pytest.approx(0, abs=0.02)


def test_who_is_judged():
    assert is_judged(row(0, "center", "unreadable"))
    assert not is_judged(row(0, "center", "silent"))
    assert not is_judged(row(0, "center", "center", probe="flip"))
    assert not is_judged(row(0, "center", "none", present=False, zones_truth=()))
    assert not is_judged(row(0, "center", "center", zones_truth=("center", "top-left")))
    assert stated_label(row(0, "center", "several")) == "several"


def test_rows_that_are_not_judged_change_nothing():
    others = [
        row(20, "center", "silent"),
        row(21, "center", "top-left", probe="blank"),
        row(22, "center", "none", present=False, zones_truth=()),
    ]
    assert position_scores([*HAND_MADE, *others], None) == position_scores(HAND_MADE, None)


def test_a_silent_system_has_no_position_scores():
    scores = position_scores(_rows(("center", "silent"), ("top-left", "silent")), Bootstrap())
    assert scores["n"] == 0 and scores["accuracy"] is None and scores["kappa"] is None
    assert scores["majority"] == {"zone": None, "accuracy": None}
    assert scores["intervals"] == {"accuracy": None, "balanced_accuracy": None, "kappa": None}


def test_constant_label_sets_are_named_and_left_out_of_kappa():
    """Ten lungs, always in the centre and always right, must not lift the agreement on the rest."""
    lungs = [row(30 + index, "center", "center", target="lungs", modality="x-ray") for index in range(10)]
    with_lungs = position_scores([*HAND_MADE, *lungs], None)
    assert constant_label_sets([*HAND_MADE, *lungs]) == ["x-ray/hand-made/lungs"]
    assert with_lungs["n"] == 18 and with_lungs["accuracy"] == pytest.approx(14 / 18)
    assert with_lungs["kappa"] == position_scores(HAND_MADE, None)["kappa"]
    assert position_scores(lungs, None)["kappa"] is None
    every_row_once = np.ones((1, 18))  # as in a draw: the weights do not know of constant sets
    assert position_statistics([*HAND_MADE, *lungs])["kappa"].compute(every_row_once) == with_lungs["kappa"]


def test_a_set_of_one_image_is_not_called_constant():
    assert constant_label_sets([row(0, "center", "center")]) == []


def test_the_interval_of_kappa_covers_the_truth():
    """Right with chance q, else a uniform guess: kappa is q. q differs between 60 patients with mean 0.6.

    Of 200 simulated splits about 95 % must hold it: 0.95 +- 3 * sqrt(0.95 * 0.05 / 200) is 0.90 to 1.
    """
    rng, covered = np.random.default_rng(7), 0
    for _ in range(200):
        chances = np.repeat(rng.beta(3, 2, size=60), 4)
        truths, guesses = rng.choice(ZONES, (2, 240))
        stated = np.where(rng.random(240) < chances, truths, guesses)
        rows = _rows(*zip(truths.tolist(), stated.tolist(), strict=True))
        groups = [f"p{index // 4}" for index in range(240)]
        kappa = {"kappa": position_statistics(rows)["kappa"]}
        low, high = Bootstrap(n_draws=300).intervals(groups, kappa)["kappa"]
        covered += low <= 0.6 <= high
    assert 0.90 <= covered / 200 < 1


def test_knowing_where_each_target_usually_lies_is_no_agreement():
    """Two targets, each with its own usual zone, always answered by it: one table over both would give 0.6."""
    polyps = [row(index, zone, "center", target="polyp") for index, zone in enumerate(("center",) * 3 + ("top-left",))]
    nodules = [
        row(10 + index, zone, "top-right", target="nodule")
        for index, zone in enumerate(("top-right",) * 3 + ("bottom-left",))
    ]
    truths = [one.zone_truth for one in (*polyps, *nodules)]
    stated = ["center"] * 4 + ["top-right"] * 4
    assert cohen_kappa_score(truths, stated) == pytest.approx(0.6)
    assert position_statistics([*polyps, *nodules])["kappa"].value() == 0.0
