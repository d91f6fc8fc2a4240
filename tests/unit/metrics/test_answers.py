"""Scores of hand-made rows: every expected number is counted from them."""

import numpy as np
import pytest

from prsmed.metrics.answers import ScoreRow, dice_iou, flat_metrics, score_text, selection_score, summarise


def _row(index, **facts) -> ScoreRow:
    present = facts.get("present", True)
    row = {
        "index": index,
        "key": f"case{index}/t1",
        "modality": "mri",
        "dataset": "hand-made",
        "target": "lesion",
        "kind": "lesion",
        "group": f"g{index}",
        "present": True,
        "dice": 0.0,
        "iou": 0.0,
        "presence_prob": 0.5,
        "says_present": present,
        "mask_is_empty": not present,
        "text_kind": "positions" if present else "none",
        "zones_truth": ("top-left",) if present else (),
        "zones_text": (),
        "zones_right": True,
        "border_ambiguous": False,
        "contradiction": False,
        "question": "Where?",
        "model_text": "",
    }
    return ScoreRow(**{**row, **facts})


ROWS = [
    _row(0, dice=0.8, iou=0.6),
    _row(1, dice=0.4, iou=0.2, zones_right=False, border_ambiguous=True, contradiction=True),
    _row(2, dice=0.6, iou=0.4, zones_truth=("top-left", "center"), zones_right=False, text_kind="none"),
    _row(3, dice=1.0, iou=1.0, kind="organ", target="lungs", modality="x-ray"),
    _row(4, present=False, dice=1.0, iou=1.0),
    _row(5, present=False, text_kind="positions", says_present=True, mask_is_empty=False, zones_right=False),
    _row(6, present=False, modality="ct", says_present=False, mask_is_empty=True, text_kind="unreadable"),
]


def test_dice_and_iou_by_counting():
    one, other = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    one[0, :3], other[0, 1:4] = True, True
    assert dice_iou(one, other) == (pytest.approx(4 / 6), pytest.approx(2 / 4))
    assert dice_iou(one, one) == (1.0, 1.0)


def test_the_policy_for_empty_masks():
    empty, full = np.zeros((2, 2), bool), np.ones((2, 2), bool)
    assert dice_iou(empty, empty) == (1.0, 1.0)
    assert dice_iou(full, empty) == dice_iou(empty, full) == (0.0, 0.0)


def test_overlap_is_averaged_over_images_that_show_the_target():
    overall = summarise(ROWS)["overall"]
    assert overall["n"] == 4
    assert overall["dice"] == pytest.approx((0.8 + 0.4 + 0.6 + 1.0) / 4)
    assert overall["iou"] == pytest.approx((0.6 + 0.2 + 0.4 + 1.0) / 4)
    assert overall["contradiction_rate"] == pytest.approx(1 / 7)


def test_zone_accuracy_is_over_single_findings():
    overall = summarise(ROWS)["overall"]
    assert (overall["zone_n"], overall["zone_accuracy"]) == (3, pytest.approx(2 / 3))
    assert (overall["zone_n_unambiguous"], overall["zone_accuracy_unambiguous"]) == (2, 1.0)
    assert overall["all_findings_accuracy"] == pytest.approx(2 / 4)


def test_organs_and_lesions_apart_and_modalities():
    scores = summarise(ROWS)
    assert (scores["lesions"]["n"], scores["lesions"]["dice"]) == (3, pytest.approx(0.6))
    assert (scores["organs"]["n"], scores["organs"]["dice"]) == (1, 1.0)
    assert list(scores["modalities"]) == ["ct", "mri", "x-ray"]
    assert scores["modalities"]["mri"]["lesions"]["n"] == 3
    assert scores["modalities"]["mri"]["negatives"]["n"] == 2
    assert scores["modalities"]["ct"]["dice"] is None and scores["modalities"]["ct"]["negatives"]["n"] == 1
    assert scores["schema_version"] == 1


def test_negatives_by_sentence_presence_and_mask():
    negatives = summarise(ROWS)["negatives"]
    assert (negatives["n"], negatives["n_positive"]) == (3, 4)
    assert negatives["specificity"] == pytest.approx(1 / 3)  # an unreadable sentence is not a right "none"
    assert negatives["specificity_presence"] == pytest.approx(2 / 3)
    assert negatives["specificity_mask"] == pytest.approx(2 / 3)
    assert negatives["false_none"] == pytest.approx(1 / 4)
    assert negatives["false_none_presence"] == 0.0


def test_metric_names_and_no_metric_without_a_number():
    flat = flat_metrics(summarise(ROWS))
    assert flat["val/mri/dice"] == pytest.approx(0.6)
    assert flat["val/mri/zone_accuracy"] == pytest.approx(1 / 2)
    assert flat["val/overall/dice"] == pytest.approx(0.7) and flat["val/negatives/specificity"] == pytest.approx(1 / 3)
    assert "val/ct/dice" not in flat and all(isinstance(value, float) for value in flat.values())
    assert "test/x-ray/dice" in flat_metrics(summarise(ROWS), "test")


def test_the_selection_score():
    scores = summarise(ROWS)
    expected = (0.7 + 2 / 3 + 1 / 3 + (1 - 1 / 4)) / 4
    assert selection_score(scores) == pytest.approx(expected)
    assert selection_score(summarise(ROWS[:1])) == pytest.approx(2.8 / 3)  # no negatives: 0.8, 1 and 1 - 0
    assert selection_score(summarise([])) == 0.0


@pytest.mark.parametrize(
    ("sentence", "zones", "present", "kind", "right"),
    [
        ("The polyp is in the top left.", ("top-left",), True, "positions", True),
        ("The polyp is in the top right.", ("top-left",), True, "positions", False),
        ("No polyp is visible.", ("top-left",), True, "none", False),
        ("No polyp is visible.", (), False, "none", True),
        ("The polyp is in the top left.", (), False, "positions", False),
        ("polyp polyp left", ("top-left",), True, "unreadable", False),
        ("", (), False, "unreadable", False),
    ],
)
def test_only_what_the_sentence_states_counts(sentence, zones, present, kind, right):
    scored = score_text(sentence, zones, target="polyp", present=present)
    assert (scored["text_kind"], scored["zones_right"]) == (kind, right)


def test_rows_are_plain_data():
    record = ROWS[2].to_json()
    assert record["zones_truth"] == ("top-left", "center") and ROWS[2].zone_truth is None
    assert ScoreRow(**record) == ROWS[2]
