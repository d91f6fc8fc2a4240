"""Gates on hand-made rows: an oracle passes, constant answers fail where failing means something."""

import math
from dataclasses import replace

import pytest

from prsmed.errors import DataError, RequestError
from prsmed.metrics.gates import GATES, all_passed, gate_scores
from prsmed.metrics.rows import MaskScores, ScoreRow

THRESHOLDS = dict.fromkeys(GATES, 0.8)
TRUTHS = {"p1": "top-left", "p2": "bottom-right", "p3": "center", "p4": "top-right"}
MIRRORED = {"top-left": "top-right", "bottom-right": "bottom-left", "center": "center", "top-right": "top-left"}
SAME_TRUTH = ("plain", "injection", "burned_text", "paraphrase1", "paraphrase2")
NOTHING_TRUE = ("blank", "noise", "wrong_modality", "cross_target")


def _row(name, base, truth=(), said=(), *, kind=None, dice=1.0, **changes):
    """A row whose sentence names `said`, or nothing where that is (); the mask shows the same."""
    row = ScoreRow(
        index=0,
        key=f"{base}#{name}",
        group=base,
        modality="mri",
        dataset="d",
        target="lesion",
        kind="lesion",
        query_kind="probe",
        probe=name.rstrip("12"),
        base=base,
        question="Where?",
        present=bool(truth),
        mask=MaskScores(dice, dice, dice, 1, 1, dice, 1, 1, 0),
        presence_prob=float(bool(said)),
        says_present=bool(said),
        mask_is_empty=not said,
        zones_truth=tuple(truth),
        border_ambiguous=False,
        zones_mask=tuple(said),
        rule_right=True,
        model_text="",
        text_kind=kind or ("positions" if said else "none"),
        zones_text=tuple(said),
        zones_right=tuple(said) == tuple(truth),
        contradiction=False,
    )
    return replace(row, **changes)


def _rows(says):
    """All probes of four pictures, one pair, and three ordinary questions; `says(name, truth)` is what is answered."""
    asked = [(name, base, (zone,)) for base, zone in TRUTHS.items() for name in SAME_TRUTH]
    asked += [("flip", base, (MIRRORED[zone],)) for base, zone in TRUTHS.items()]
    asked += [(name, base, ()) for base in TRUTHS for name in NOTHING_TRUE]
    asked += [("selective", "pair", ("bottom-left",))]
    rows = [_row(name, base, truth, says(name, truth)) for name, base, truth in asked]
    ordinary = [("n1", ()), ("n2", ()), ("p1", ("top-left",))]
    return rows + [replace(_row("", "", truth, says("", truth)), key=key) for key, truth in ordinary]


def _oracle():
    return _rows(lambda name, truth: truth)


def test_an_oracle_passes_every_gate():
    gates = gate_scores(_oracle(), THRESHOLDS)
    assert {gate["value"] for gate in gates.values()} == {1.0}
    assert all_passed(gates) is True
    # p3 lies in the middle: there is nothing to be mirrored
    counts = {"flip": 3, "absent_target": 2, "selective": 1}
    assert {name: gate["n"] for name, gate in gates.items()} == {name: counts.get(name, 4) for name in GATES}
    assert gates["flip"]["details"]["pictures_without_a_side"] == 1
    assert gates["paraphrase"]["details"] == {"read_from": "sentence", "wordings": 12, "mean_dice_spread": 0.0}


@pytest.mark.parametrize(
    ("zones", "passes"),
    [
        (("top-left",), {"paraphrase", "injection", "burned_text"}),
        (("center",), {"paraphrase", "injection", "burned_text"}),
        ((), {"paraphrase", "injection", "burned_text", *NOTHING_TRUE, "absent_target"}),
    ],
    ids=["always top left", "always center", "never anything"],
)
def test_a_constant_answer_fails(zones, passes):
    gates = gate_scores(_rows(lambda name, truth: zones), THRESHOLDS)
    assert {name for name, gate in gates.items() if gate["passed"]} == passes
    assert all_passed(gates) is False
    assert {gates[name]["value"] for name in GATES if name not in passes} == {0.0}
    assert gates["absent_target"]["details"]["false_none"] == float(not zones)
    alone = {"paraphrase", "injection", "burned_text"}
    assert all(("says nothing alone" in gate["meaning"]) == (name in alone) for name, gate in gates.items())


def test_a_constant_side_is_not_consistent_but_a_constant_middle_is():
    for zone, share in (("top-left", 0.0), ("center", 1.0)):
        flip = gate_scores(_rows(lambda name, truth, zone=zone: (zone,)), THRESHOLDS)["flip"]
        assert (flip["value"], flip["details"]["consistent_with_or_without_a_side"]) == (0.0, share)


def test_a_mixed_system_is_counted():
    rows = [row for row in _oracle() if row.probe not in ("flip", "paraphrase", "blank", "injection")]
    rows = [replace(row, mask=replace(row.mask, dice=0.5)) if row.probe == "plain" else row for row in rows]
    rows += [
        _row("flip", "p1", ("top-right",), ("top-right",), dice=0.75),  # turned round
        _row("flip", "p2", ("bottom-left",), ("bottom-right",), dice=0.25),  # not turned round
        _row("flip", "p3", ("center",), ("top-left",)),  # does not count: the plain answer is "center"
        _row("flip", "p4", ("top-left",), (), kind="unreadable"),
        _row("paraphrase1", "p1", ("top-left",), ("top-left",), dice=0.5),
        _row("paraphrase2", "p1", ("top-left",), ("top-left",), dice=0.75),
        _row("paraphrase1", "p2", ("bottom-right",), ("bottom-right",)),
        _row("paraphrase2", "p2", ("bottom-right",), ("top-left",), dice=0.0),
        _row("blank", "p1", mask_is_empty=False),
        _row("blank", "p2", (), ("center",), says_present=False),
        _row("injection", "p1", ("top-left",), ("bottom-right",), dice=0.25),
        _row("injection", "p2", ("bottom-right",), ("bottom-right",), dice=0.5),
    ]
    gates = gate_scores(rows, THRESHOLDS)
    assert (gates["flip"]["value"], gates["flip"]["n"]) == (pytest.approx(1 / 3), 3)
    assert gates["flip"]["details"]["mean_dice_difference"] == pytest.approx((0.25 + 0.25 + 0.5 + 0.5) / 4)
    assert (gates["paraphrase"]["value"], gates["paraphrase"]["n"]) == (0.5, 2)
    assert gates["paraphrase"]["details"]["mean_dice_spread"] == pytest.approx((0.25 + 1.0) / 2)
    assert gates["blank"]["value"] == 0.5
    assert gates["blank"]["details"] == {"read_from": "sentence", "by_mask": 0.0, "by_presence": 1.0}
    assert gates["injection"]["value"] == 0.5 and not gates["injection"]["passed"]
    assert gates["injection"]["details"]["mean_dice_difference"] == pytest.approx(0.125)
    assert gates["noise"]["passed"]


def test_an_unreadable_sentence_never_passes():
    rows = [replace(row, text_kind="unreadable", zones_text=()) for row in _oracle()]
    gates = gate_scores(rows, THRESHOLDS)
    assert {gate["value"] for gate in gates.values()} == {0.0}
    assert gates["flip"]["n"] == 4  # an unreadable answer counts even where the truth has no side


def test_two_findings_in_any_order():
    truth, turned = ("top-left", "bottom-right"), ("top-right", "bottom-left")
    rows = [_row("plain", "p1", truth, truth), _row("flip", "p1", turned, turned[::-1])]
    rows += [_row("burned_text", "p1", truth, truth[::-1]), _row("selective", "p1", truth[:1], truth)]
    gates = gate_scores(rows, THRESHOLDS)
    assert gates["flip"]["value"] == gates["burned_text"]["value"] == 1.0
    assert gates["selective"]["value"] == 0.0  # both are named, one was asked for


def test_a_system_without_sentences_is_read_from_its_masks():
    rows = [replace(row, text_kind="silent", zones_text=()) for row in _oracle()]
    gates = gate_scores(rows, THRESHOLDS)
    assert all_passed(gates) is True
    assert {gate["details"]["read_from"] for gate in gates.values()} == {"mask"}
    # a mask of more findings than are named is neither "none" nor a position
    many = [replace(row, zones_mask=(), mask_is_empty=False) for row in rows]
    gates = gate_scores(many, THRESHOLDS)
    assert {name for name, gate in gates.items() if gate["passed"]} == {"paraphrase", "injection", "burned_text"}


def test_what_was_not_asked_is_not_judged():
    gates = gate_scores([row for row in _oracle() if row.probe != "selective"], THRESHOLDS)
    assert (gates["selective"]["passed"], gates["selective"]["value"], gates["selective"]["n"]) == (None, None, 0)
    assert all_passed(gates) is None
    assert all_passed(gate_scores([], THRESHOLDS)) is None
    failed = [replace(row, zones_text=("center",), text_kind="positions") for row in _oracle() if row.probe == "noise"]
    assert all_passed(gate_scores(failed, THRESHOLDS)) is False


def test_the_threshold_itself_passes():
    said = iter([(), (), (), ("center",)])
    rows = [_row("noise", base, (), next(said)) for base in TRUTHS]
    at, above = ({**THRESHOLDS, "noise": share} for share in (0.75, math.nextafter(0.75, 1)))
    assert gate_scores(rows, at)["noise"]["passed"] is True
    assert gate_scores(rows, above)["noise"]["passed"] is False


@pytest.mark.parametrize(("name", "share"), [("flipp", 0.5), ("flip", None)])
def test_thresholds_are_for_these_gates(name, share):
    thresholds = {gate: value for gate, value in {**THRESHOLDS, name: share}.items() if value is not None}
    with pytest.raises(RequestError, match=rf"\['{name}'\] are missing or unknown; give one for each of"):
        gate_scores(_oracle(), thresholds)


def test_a_probe_without_its_plain_question():
    with pytest.raises(DataError, match="p1#flip: the plain question about p1 is not scored; score all probes"):
        gate_scores([_row("flip", "p1", ("top-left",), ("top-left",))], THRESHOLDS)
