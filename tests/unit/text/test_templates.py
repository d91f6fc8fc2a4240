"""Templates: how many, no leak, and every sentence they write parses back to the findings it was made from."""

import json
import random

import numpy as np
import pytest

from prsmed.errors import DataError, RequestError
from prsmed.text.findings import find
from prsmed.text.grammar import is_plural, plural
from prsmed.text.parse import parse_position, zones_match
from prsmed.text.templates import TEMPLATES_PATH, TemplateBank, described_findings, rule_text
from prsmed.types import MODALITIES, ZONES

TARGETS = ("polyp", "lungs", "brain metastasis", "lung opacity", "left kidney", "multiple sclerosis lesion", "pancreas")


@pytest.fixture(scope="module")
def bank() -> TemplateBank:
    return TemplateBank.load()


def random_findings(rng: np.random.Generator, zone_rule: str = "posmed"):
    mask = np.zeros((80, 120), bool)
    for _ in range(rng.integers(0, 5)):
        y, x = rng.integers(0, 70), rng.integers(0, 110)
        mask[y : y + rng.integers(3, 9), x : x + rng.integers(3, 9)] = True
    return find(mask, zone_rule=zone_rule)


def findings_in(*corners_yx):
    mask = np.zeros((100, 100), bool)
    for size, (y, x) in zip(range(20, 0, -2), corners_yx, strict=False):
        mask[y : y + size, x : x + size] = True
    return find(mask)


def test_fifty_train_and_five_test_pairs_without_a_leak(bank):
    train, test = bank.splits["train"], bank.splits["test"]
    assert len({question for question, _ in train.pairs}) == len(train.pairs) == 50
    assert len({question for question, _ in test.pairs}) == len(test.pairs) == 5
    for kind in ("pairs", "negative", "several", "many", "choice"):
        assert not set(getattr(train, kind)) & set(getattr(test, kind)), kind
    assert not {pair[index] for pair in train.pairs for index in (0, 1)} & {
        pair[index] for pair in test.pairs for index in (0, 1)
    }
    assert len({answer for _, answer in train.pairs}) == 8


def test_validation_and_test_ask_the_test_questions(bank):
    rng = random.Random(0)
    asked = {split: set() for split in ("train", "val", "test")}
    for split, ids in asked.items():
        for _ in range(600):
            ids.add(bank.question(split, target="polyp", modality="mri", rng=rng).template_id)
    assert len(asked["train"]) == 50 and len(asked["test"]) == 5
    assert asked["val"] == asked["test"] and not asked["train"] & asked["test"]


@pytest.mark.parametrize("zone_rule", ["posmed", "mmrs"])
def test_every_answer_parses_back_to_its_findings(bank, zone_rule):
    rng = np.random.default_rng(3)
    for _ in range(40):
        findings = random_findings(rng, zone_rule)
        stated = [finding.zone for finding in described_findings(findings)]
        for target in TARGETS:
            texts = [rule_text(findings, target=target)]
            for split, count in (("train", 50), ("test", 5)):
                number = rng.integers(1, count + 1)
                texts.append(bank.answer(f"{split}-{number:02d}", target=target, findings=findings, rng=rng))
            for text in texts:
                assert zones_match(parse_position(text, target=target), stated), text


def test_every_template_and_phrase_parses_back(bank):
    for zone, corner in zip(ZONES, ((0, 0), (0, 70), (70, 0), (70, 70), (40, 40)), strict=True):
        findings = findings_in(corner)
        assert [finding.zone for finding in findings] == [zone]
        for split, templates in bank.splits.items():
            for number in range(1, len(templates.pairs) + 1):
                for index in range(len(bank.positions[zone])):
                    rng = random.Random()
                    rng.random = lambda index=index, zone=zone: index / len(bank.positions[zone])  # every phrase
                    text = bank.answer(f"{split}-{number:02d}", target="polyp", findings=findings, rng=rng)
                    assert parse_position(text).zones == (zone,), text
                    assert bank.positions[zone][index] in text.lower() and len(text.split()) <= 16


def test_mirroring_the_mask_swaps_the_words():
    mask = np.zeros((60, 100), bool)
    mask[5:15, 5:20] = True
    assert rule_text(find(mask), target="polyp") == "The polyp is in the top left of the image."
    assert rule_text(find(mask[:, ::-1]), target="polyp") == "The polyp is in the top right of the image."
    assert rule_text(find(mask[::-1]), target="polyp") == "The polyp is in the bottom left of the image."


def test_rule_text_by_number_of_findings():
    assert rule_text([], target="polyp") == "No polyp is visible in this image."
    two = findings_in((0, 0), (75, 75))
    assert rule_text(two, target="lung opacity") == (
        "There are two lung opacities: one in the top left and another in the bottom right of the image."
    )
    three = findings_in((0, 0), (75, 75), (0, 75))
    assert rule_text(three, target="polyp") == "There are three polyps; the largest is in the top left of the image."
    assert rule_text(three, target="polyp", max_described=3) == (
        "There are three polyps: one in the top left, one in the bottom right "
        "and another in the top right of the image."
    )
    assert described_findings(three) == three[:1] and described_findings(three, 3) == three


def test_plural_targets_are_grammatical(bank):
    assert rule_text([], target="lungs") == "No lungs are visible in this image."
    assert rule_text(findings_in((40, 40)), target="lungs") == "The lungs are in the center of the image."
    rng = random.Random(1)
    for _ in range(300):
        question = bank.question("train", target="lungs", modality="x-ray", rng=rng).question
        assert not any(f"{wrong} the lungs" in question for wrong in ("is", "does")) and "lungs is" not in question
        assert question[0].isupper() and "{" not in question
    assert [plural(name) for name in ("polyp", "brain metastasis", "lung opacity", "mass", "lungs")] == [
        "polyps",
        "brain metastases",
        "lung opacities",
        "masses",
        "lungs",
    ]
    assert not any(map(is_plural, ("pancreas", "pelvis", "abscess", "esophagus", "lens"))) and is_plural("vertebrae")


def test_modality_words(bank):
    words = {"CT", "MRI", "X-ray", "ultrasound", "endoscopy", "dermoscopy"}
    rng = random.Random(2)
    for modality in (*MODALITIES, None):
        questions = {bank.question("train", target="polyp", modality=modality, rng=rng).question for _ in range(300)}
        named = {word for word in words for question in questions if word in question}
        assert len(named) == (modality is not None)
        assert not any("  " in question or " ." in question for question in questions)
    with pytest.raises(RequestError, match="unknown"):
        bank.question("train", target="polyp", modality="pet", rng=rng)


def test_the_same_seed_gives_the_same_sentences(bank):
    def speak(rng):
        turn = bank.question("train", target="polyp", modality="ct", rng=rng)
        return turn, bank.answer(turn.template_id, target="polyp", findings=findings_in((0, 0)), rng=rng)

    assert speak(np.random.default_rng(5)) == speak(np.random.default_rng(5))
    assert speak(random.Random(5)) == speak(random.Random(5))


def test_choice_shuffles_the_five_zones_and_answers_with_the_right_letter(bank):
    rng = np.random.default_rng(0)
    findings = findings_in((0, 0))
    letters = set()
    for _ in range(60):
        turn = bank.choice("test", target="polyp", modality="endoscopy", findings=findings, rng=rng)
        assert sorted(turn.options) == sorted(ZONES) and turn.options["ABCDE".index(turn.answer)] == "top-left"
        assert f"({turn.answer}) top left" in turn.question
        letters.add(turn.answer)
    assert letters == set("ABCDE")
    with pytest.raises(RequestError, match="one finding"):
        bank.choice("test", target="polyp", modality=None, findings=[], rng=rng)


def test_wrong_requests_say_what_to_do(bank):
    with pytest.raises(RequestError, match="train, val, test"):
        bank.question("dev", target="polyp", modality=None, rng=random.Random(0))
    for template_id in ("", "train-00", "train-51", "train-x", "dev-01"):
        with pytest.raises(RequestError, match="unknown"):
            bank.answer(template_id, target="polyp", findings=[])
    with pytest.raises(RequestError, match="empty"):
        rule_text([], target=" ")


def edited(tmp_path, edit):
    content = json.loads(TEMPLATES_PATH.read_text(encoding="utf-8"))
    edit(content)
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_a_users_own_file_is_accepted(tmp_path):
    path = edited(
        tmp_path, lambda c: c["test"].update(pairs=[["Wo ist {target}?", "{target}: {position} of the image."]])
    )
    turn = TemplateBank.load(path).question("test", target="polyp", modality=None, rng=random.Random(0))
    assert turn.question == "Wo ist polyp?"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["train"]["pairs"].append(["Where is it?", "In the {position}."]), r"\{target\} is missing"),
        (lambda c: c["train"]["pairs"].append(["Is it {target}?", "Yes."]), r"\{position\} is missing"),
        (lambda c: c["train"]["pairs"].append(["Is {target} {colour}?", "In the {position}."]), "colour.*unknown"),
        (lambda c: c["train"]["pairs"].append(["Is {target} in {position}?", "{position}."]), "position.*unknown here"),
        (lambda c: c["train"]["pairs"].append(["Is {target?", "In the {position}."]), "write slots"),
        (lambda c: c["train"]["pairs"].append(["Is {target}?", "Left or in the {position}."]), "does not read"),
        (lambda c: c["train"]["pairs"].append(["Is {target}?"]), "1 sentences"),
        (lambda c: c["train"].update(negative=["What {target}?"]), "does not read"),
        (lambda c: c["train"].update(several=[]), "at least one"),
        (lambda c: c["positions"].pop("center"), "positions.center"),
        (lambda c: c["positions"].update(center=["left"]), "does not read"),
        (lambda c: c.pop("test"), "'test' is missing"),
        (lambda c: c.pop("schema_version"), "schema_version"),
        (
            lambda c: c["test"]["pairs"].append([c["train"]["pairs"][0][0] + " ", "In the {position}."]),
            "train and of test",
        ),
    ],
)
def test_a_bad_file_is_refused(tmp_path, edit, message):
    with pytest.raises(DataError, match=message):
        TemplateBank.load(edited(tmp_path, edit))


def test_missing_or_broken_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="check the path"):
        TemplateBank.load(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="JSON"):
        TemplateBank.load(tmp_path / "broken.json")


def test_the_varied_questions_add_to_the_plain_ones_and_leave_the_test_alone(bank):
    varied = TemplateBank.load(TEMPLATES_PATH.with_name("varied_templates.json"))
    plain, more = ([question for question, _ in one.splits["train"].pairs] for one in (bank, varied))
    assert more[: len(plain)] == plain and len(set(more)) == len(more) > 2 * len(plain)
    assert {answer for _, answer in varied.splits["train"].pairs} == {
        "The {target} {is} in the {position} of the image."
    }
    assert varied.splits["test"] == bank.splits["test"]


def test_one_answer_may_fit_all_questions(tmp_path):
    def one_answer(content):
        del content["train"]["pairs"]
        content["train"]["answer"] = "The {target} {is} in the {position}."
        content["train"]["questions"] = ["{target}, where?", "And the {target}?"]

    pairs = TemplateBank.load(edited(tmp_path, one_answer)).splits["train"].pairs
    assert pairs == tuple(
        (question, "The {target} {is} in the {position}.") for question in ("{target}, where?", "And the {target}?")
    )


def test_questions_need_their_answer_and_stand_alone(tmp_path):
    def no_answer(content):
        content["train"]["questions"] = [question for question, _ in content["train"].pop("pairs")]

    with pytest.raises(DataError, match=r"train\.answer"):
        TemplateBank.load(edited(tmp_path, no_answer))
    with pytest.raises(DataError, match="pairs and questions"):
        TemplateBank.load(edited(tmp_path, lambda content: content["train"].update(questions=["{target}?"])))
