"""scores.json from hand-made rows: every expected number is counted from them."""

import dataclasses
import json

import pytest

from prsmed.metrics.intervals import Bootstrap
from prsmed.metrics.rows import MaskScores, ScoreRow
from prsmed.metrics.summary import calibration, flat_metrics, selection_score, summarise
from prsmed.types import ZONES
from tests.unit.metrics.test_position import MASK, row

NO_MASK = MaskScores(1.0, 1.0, 1.0, 0, 0, 1.0, 0, 0, 0)  # nothing true, nothing drawn
FALSE_MASK = MaskScores(0.0, 0.0, 0.0, 0, 30, 0.0, 0, 0, 2)  # nothing true, two regions drawn


def _mask(dice: float, iou: float, **facts) -> MaskScores:
    return dataclasses.replace(MASK, dice=dice, iou=iou, nsd=dice / 2, box_iou=iou, **facts)


def _negative(index: int, stated: str, mask: MaskScores, **facts) -> ScoreRow:
    record = {"present": False, "zones_truth": (), "zones_mask": (), "mask": mask, "zones_right": stated == "none"}
    return row(index, "", stated, **{**record, "mask_is_empty": mask is NO_MASK, **facts})


TWO = ("top-left", "center")
ROWS = [
    row(0, "top-left", "top-left", mask=_mask(0.8, 0.6)),
    row(1, "top-left", "center", mask=_mask(0.4, 0.2), border_ambiguous=True, contradiction=True, rule_right=False),
    row(2, "", "none", zones_truth=TWO, zones_right=False, mask=_mask(0.6, 0.4, lesions_true=2), says_present=False),
    row(3, "center", "center", mask=_mask(1.0, 1.0), kind="organ", target="lungs", modality="x-ray"),
    _negative(4, "none", NO_MASK, says_present=False, presence_prob=0.1),
    _negative(5, "top-left", FALSE_MASK, presence_prob=0.6),
    _negative(6, "unreadable", NO_MASK, says_present=False, presence_prob=0.2, modality="ct"),
]

AGREEING = ("readings_agree", "dice_agreed", "dice_disagreed")
OF_QUERIES = (
    "decoder_box_iou",
    "decoder_acc_at_0.5",
    "names_target",
    *AGREEING,
)  # of box decoders and explanations alone

MORE = [*ROWS, row(7, "bottom-left", "bottom-left"), row(8, "center", "top-left")]  # zones that make a kappa


def test_overlap_is_averaged_over_images_that_show_the_target():
    overall = summarise(ROWS)["overall"]
    assert overall["n"] == 4
    assert overall["dice"] == pytest.approx((0.8 + 0.4 + 0.6 + 1.0) / 4)
    assert overall["iou"] == overall["box_iou"] == pytest.approx((0.6 + 0.2 + 0.4 + 1.0) / 4)
    assert overall["nsd"] == pytest.approx((0.8 + 0.4 + 0.6 + 1.0) / 8)


def test_the_golden_values_of_giou_and_ciou():
    """Three 4 x 4 masks of specs/medisee.md: overlap 3 of 7 pixels; empty and empty; 2 pixels where nothing is."""
    rows = [
        row(0, "center", "center", mask=_mask(0.6, 3 / 7, intersection_px=3, union_px=7)),
        _negative(1, "none", NO_MASK),
        _negative(2, "none", dataclasses.replace(FALSE_MASK, union_px=2)),
    ]
    overall = summarise(rows)["overall"]
    assert overall["giou"] == pytest.approx(0.476190, abs=1e-6)
    assert overall["ciou"] == pytest.approx(3 / 9)


def test_a_box_counts_strictly_above_one_half():
    rows = [row(index, "center", "center", mask=_mask(0.7, iou)) for index, iou in enumerate((0.5, 0.51, 0.2, 0.9))]
    assert summarise(rows)["overall"]["acc_at_0.5"] == 0.5


def test_lesions_are_counted_over_lesion_questions_only():
    """Rows 0 to 2 find 3 of 4 regions, row 5 draws 2 false ones; six rows ask for a lesion, one for lungs."""
    scores = summarise(ROWS)
    assert scores["overall"]["lesion_f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 2))
    assert scores["overall"]["false_positives_per_image"] == pytest.approx(2 / 6)
    assert scores["organs"]["lesion_f1"] is None and scores["organs"]["false_positives_per_image"] is None


def test_positions_by_sentence_and_by_mask():
    overall = summarise(ROWS)["overall"]
    assert (overall["zone_n"], overall["zone_accuracy"]) == (3, pytest.approx(2 / 3))
    assert (overall["zone_n_unambiguous"], overall["zone_accuracy_unambiguous"]) == (2, 1.0)
    assert overall["zone_balanced_accuracy"] == pytest.approx((1 / 2 + 1) / 2)
    assert overall["all_findings_accuracy"] == pytest.approx(2 / 4)
    assert overall["rule_accuracy"] == pytest.approx(2 / 3)
    assert overall["contradiction_rate"] == pytest.approx(1 / 7)


def test_a_block_and_the_position_table_agree():
    scores = summarise(MORE, intervals=Bootstrap(n_draws=200))
    table, overall = scores["position"]["overall"], scores["overall"]
    assert overall["zone_kappa"] is not None
    for name in ("accuracy", "balanced_accuracy", "kappa"):
        assert table[name] == overall[f"zone_{name}"]
        assert table["intervals"][name] == overall["intervals"][f"zone_{name}"]
    assert list(scores["position"]["modalities"]) == ["ct", "mri", "x-ray"]


def test_a_silent_system_is_scored_by_its_masks_alone():
    silent = [dataclasses.replace(row, text_kind="silent", zones_text=(), zones_right=False) for row in ROWS]
    scores, spoken = summarise(silent), summarise(ROWS)
    assert scores["overall"]["dice"] == spoken["overall"]["dice"]
    assert scores["overall"]["rule_accuracy"] == spoken["overall"]["rule_accuracy"]
    assert scores["overall"]["zone_n"] == 0
    for name in ("zone_accuracy", "zone_kappa", "all_findings_accuracy", "contradiction_rate"):
        assert scores["overall"][name] is None
    assert scores["negatives"]["specificity"] is None and scores["negatives"]["false_none"] is None
    assert scores["negatives"]["specificity_mask"] == spoken["negatives"]["specificity_mask"]


def test_the_headline_weighs_targets_alike():
    """Three polyps at 0.9, one nodule at 0.3, and lungs that do not count: (0.9 + 0.3) / 2."""
    polyp, nodule = {"target": "polyp", "modality": "endoscopy"}, {"target": "nodule", "modality": "ct"}
    rows = [row(index, "center", "center", mask=_mask(0.9, 0.8), **polyp) for index in range(3)]
    rows.append(row(3, "center", "center", mask=_mask(0.3, 0.2), **nodule))
    rows.append(row(4, "center", "center", mask=_mask(1.0, 1.0), kind="organ", target="lungs", modality="ct"))
    rows.append(_negative(5, "none", NO_MASK, **nodule))
    scores = summarise(rows)
    assert scores["headline"] == {"n": 4, "macro_lesion_dice": pytest.approx(0.6), "intervals": {}}
    assert scores["overall"]["macro_lesion_dice"] == pytest.approx(0.6)
    assert scores["modalities"]["ct"]["macro_lesion_dice"] == pytest.approx(0.3)
    assert "macro_lesion_dice" not in scores["lesions"]


def test_groups():
    rows = [*ROWS, row(7, "center", "center", dataset="other", query_kind="naming")]
    scores = summarise(rows)
    assert (scores["lesions"]["n"], scores["lesions"]["dice"]) == (4, pytest.approx((0.8 + 0.4 + 0.6 + 0.5) / 4))
    assert (scores["organs"]["n"], scores["organs"]["dice"]) == (1, 1.0)
    assert list(scores["modalities"]) == ["ct", "mri", "x-ray"]
    assert scores["modalities"]["mri"]["lesions"]["n"] == 4
    assert scores["modalities"]["mri"]["negatives"]["n"] == 2
    assert scores["modalities"]["ct"]["dice"] is None and scores["modalities"]["ct"]["negatives"]["n"] == 1
    assert list(scores["targets"]) == ["ct/lesion", "mri/lesion", "x-ray/lungs"]
    assert scores["targets"]["x-ray/lungs"]["dice"] == 1.0 and scores["targets"]["ct/lesion"]["negatives"]["n"] == 1
    assert {name: block["n"] for name, block in scores["datasets"].items()} == {"hand-made": 4, "other": 1}
    assert {name: block["n"] for name, block in scores["query_kinds"].items()} == {"naming": 1, "template": 4}


def test_negatives_by_sentence_presence_and_mask():
    negatives = summarise(ROWS)["negatives"]
    assert (negatives["n"], negatives["n_positive"]) == (3, 4)
    assert negatives["specificity"] == pytest.approx(1 / 3)  # an unreadable sentence is not a right "none"
    assert negatives["specificity_presence"] == pytest.approx(2 / 3)
    assert negatives["specificity_mask"] == pytest.approx(2 / 3)
    assert negatives["false_positive_px"] == pytest.approx(30 / 3)
    assert negatives["false_none"] == pytest.approx(1 / 4)
    assert negatives["false_none_presence"] == pytest.approx(1 / 4)
    assert negatives["sensitivity_presence"] == pytest.approx(3 / 4)


def test_probes_never_count():
    probes = [dataclasses.replace(row, probe="blank", mask=_mask(0.0, 0.0)) for row in ROWS]
    assert summarise([*ROWS, *probes]) == summarise(ROWS)


def test_calibration_by_hand():
    """Probabilities 0.1, 0.15 and 0.95, 1.0: one of two is there in the second bin, both in the last."""
    probs = ((0.1, False), (0.15, True), (0.95, True), (1.0, True))
    rows = [
        row(index, "center", "center", presence_prob=prob, present=there) for index, (prob, there) in enumerate(probs)
    ]
    found = calibration(rows, None)
    assert found["n"] == 4
    assert found["brier"] == pytest.approx((0.1**2 + 0.85**2 + 0.05**2) / 4)
    assert found["expected_calibration_error"] == pytest.approx((0.5 - 0.125) / 2 + (1 - 0.975) / 2)
    assert len(found["bins"]) == 10 and found["bins"][0] == {
        "lower": 0.0,
        "upper": 0.1,
        "n": 0,
        "mean_prob": None,
        "share_present": None,
    }
    assert found["bins"][1] == {
        "lower": 0.1,
        "upper": 0.2,
        "n": 2,
        "mean_prob": pytest.approx(0.125),
        "share_present": 0.5,
    }
    assert (found["bins"][9]["n"], found["bins"][9]["upper"]) == (2, 1.0)


def test_the_reference_protocol_is_over_images_that_show_the_target():
    rows = [
        row(0, "center", "center", protocol_dice=0.6, protocol_iou=0.5, protocol_e_measure=0.9),
        row(1, "center", "center", protocol_dice=0.2, protocol_iou=0.1, protocol_e_measure=0.7, modality="ct"),
        _negative(2, "none", NO_MASK, protocol_dice=0.0, protocol_iou=0.0, protocol_e_measure=0.0),
    ]
    protocol = summarise(rows)["reference_protocol"]
    assert (protocol["n"], protocol["dice"], protocol["iou"]) == (2, pytest.approx(0.4), pytest.approx(0.3))
    assert protocol["e_measure"] == pytest.approx(0.8)
    assert protocol["modalities"]["ct"] == {"n": 1, "dice": 0.2, "iou": 0.1, "e_measure": 0.7, "intervals": {}}
    assert summarise(ROWS)["reference_protocol"] is None


def test_an_oracle_and_a_constant_answer_land_where_they_must():
    perfect = dataclasses.replace(NO_MASK, intersection_px=9, union_px=9, lesions_true=1, lesions_found=1)
    oracle = [row(index, zone, zone, mask=perfect) for index, zone in enumerate(ZONES * 2)]
    oracle.append(_negative(10, "none", NO_MASK, says_present=False, presence_prob=0.0))
    scores = summarise(oracle, intervals=Bootstrap(n_draws=100))
    best = {"dice", "iou", "nsd", "ciou", "giou", "box_iou", "acc_at_0.5", "lesion_f1", "macro_lesion_dice"}
    best |= {"zone_accuracy", "zone_balanced_accuracy", "zone_kappa", "all_findings_accuracy", "rule_accuracy"}
    assert {name: scores["overall"][name] for name in best} == dict.fromkeys(best, 1.0)
    assert scores["overall"]["false_positives_per_image"] == 0.0
    assert scores["negatives"]["specificity"] == scores["negatives"]["sensitivity_presence"] == 1.0
    assert scores["overall"]["intervals"]["dice"] == [1.0, 1.0]
    constant = summarise([row(index, zone, "center") for index, zone in enumerate(ZONES * 2)])["overall"]
    assert (constant["zone_kappa"], constant["zone_accuracy"]) == (0.0, 0.2)


def test_every_number_has_an_interval_around_it():
    scores = summarise(MORE, intervals=Bootstrap(n_draws=500))
    for block in (scores["overall"], scores["lesions"], scores["negatives"], scores["headline"], scores["calibration"]):
        counted = {"n", "n_positive", "zone_n", "zone_n_unambiguous", "intervals", "bins", "expected_calibration_error"}
        assert block["intervals"].keys() == block.keys() - counted
        for name, interval in block["intervals"].items():
            if name in OF_QUERIES:
                assert interval is block[name] is None
                continue
            assert interval is not None, name
            assert interval[0] <= block[name] <= interval[1]
    assert scores["organs"]["intervals"]["dice"] is None  # one patient
    assert summarise(ROWS)["overall"]["intervals"] == {}


def test_masks_of_which_the_readings_agree_are_scored_apart():
    rows = [
        row(0, "center", "", text_kind="silent", mask=_mask(0.8, 0.6), readings_agree=True),
        row(1, "center", "", text_kind="silent", mask=_mask(0.2, 0.1), readings_agree=False),
        row(2, "center", "", text_kind="silent", mask=_mask(0.5, 0.4)),
        row(3, "", "", present=False, text_kind="silent", mask=_mask(0.0, 0.0), readings_agree=True),
    ]
    overall = summarise(rows)["overall"]
    assert [overall[name] for name in AGREEING] == pytest.approx([2 / 3, 0.8, 0.2])


def test_box_decoders_and_explanations_by_kind_and_length_of_the_question():
    asked = {"query_kind": "attribute", "query_length": "long"}
    rows = [
        row(0, "center", "", text_kind="silent", decoder_box_iou=0.6, names_target=True, **asked),
        row(1, "center", "", text_kind="silent", decoder_box_iou=0.5, names_target=False, **asked),
        row(2, "center", "", text_kind="silent", decoder_box_iou=0.0, query_kind="naming", query_length="short"),
        row(3, "center", "center"),
    ]
    scores = summarise(rows)
    assert scores["overall"]["decoder_box_iou"] == pytest.approx(1.1 / 3)
    assert scores["overall"]["decoder_acc_at_0.5"] == pytest.approx(1 / 3)  # strictly above
    assert set(scores["queries"]) == {"attribute/long", "naming/short"}
    assert scores["queries"]["attribute/long"]["names_target"] == 0.5
    assert scores["queries"]["naming/short"]["names_target"] is None
    assert flat_metrics(scores)["val/attribute/long/decoder_box_iou"] == pytest.approx(0.55)


def test_numbers_do_not_depend_on_intervals_and_are_plain_data():
    with_intervals = summarise(ROWS, intervals=Bootstrap(n_draws=50))
    text = json.dumps(with_intervals, allow_nan=False)
    assert json.loads(text) == with_intervals and with_intervals["schema_version"] == 2
    assert flat_metrics(with_intervals) == flat_metrics(summarise(ROWS))


def test_no_rows_have_no_numbers():
    scores = summarise([], intervals=Bootstrap(n_draws=10))
    assert scores["overall"]["n"] == 0 and scores["overall"]["dice"] is None and scores["modalities"] == {}
    assert scores["calibration"]["expected_calibration_error"] is None
    assert scores["headline"]["macro_lesion_dice"] is None


def test_metric_names_and_no_metric_without_a_number():
    flat = flat_metrics(summarise(ROWS))
    assert flat["val/mri/dice"] == pytest.approx(0.6)
    assert flat["val/mri/zone_accuracy"] == pytest.approx(1 / 2)
    assert flat["val/overall/dice"] == pytest.approx(0.7) and flat["val/negatives/specificity"] == pytest.approx(1 / 3)
    assert flat["val/overall/macro_lesion_dice"] == pytest.approx(0.6) and "val/calibration/brier" in flat
    assert "val/ct/dice" not in flat and all(isinstance(value, float) for value in flat.values())
    assert "test/x-ray/dice" in flat_metrics(summarise(ROWS), "test")


def test_the_selection_score():
    expected = (0.7 + 2 / 3 + 1 / 3 + (1 - 1 / 4)) / 4
    assert selection_score(summarise(ROWS)) == pytest.approx(expected)
    assert selection_score(summarise(ROWS[:1])) == pytest.approx(2.8 / 3)  # no negatives: 0.8, 1 and 1 - 0
    assert selection_score(summarise([])) == 0.0
