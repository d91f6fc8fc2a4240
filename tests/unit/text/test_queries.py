"""Questions by rule: hidden names, one target, other facts and phrasings in the test, one draw from one seed."""

import re
from collections import defaultdict
from dataclasses import fields

import numpy as np
import pytest

from prsmed.geometry import PatientAxes
from prsmed.text.classes import load_classes
from prsmed.text.findings import find
from prsmed.text.queries import QueryCounts, Scene, Seen, facts_split, make_queries
from prsmed.text.query_frames import Frames, load_frames
from prsmed.types import SPLITS, Query, Target

HW = (100, 100)
MANY = QueryCounts(naming=3, attribute=8, location=30, absent=5)

# an axial CT in radiological convention, much simplified: x0, y0, x1, y1
BOXES = {
    "liver": (5, 20, 40, 70),
    "right kidney": (25, 72, 38, 85),
    "left kidney": (62, 72, 75, 85),
    "spleen": (76, 40, 92, 70),
    "aorta": (50, 62, 56, 68),
    "inferior vena cava": (42, 60, 49, 67),
    "stomach": (55, 25, 75, 45),
}


def _scene(
    names: tuple[str, ...] = tuple(BOXES),
    *,
    others: tuple[str, ...] = (),
    absent: tuple[str, ...] = (),
    axes: PatientAxes | None = None,
    kind: str = "organ",
) -> Scene:
    def target(number: int, name: str, target_id: str) -> Target:
        side = name.split()[0] if name.split()[0] in ("left", "right") else None
        return Target(target_id, name, kind, side)

    objects = []
    for number, name in enumerate(names, start=1):
        x0, y0, x1, y1 = BOXES.get(name, (10, 10, 20, 20))
        mask = np.zeros(HW, dtype=bool)
        mask[y0:y1, x0:x1] = True
        finding = find(mask, per_component=False, min_area_px=1, patient_axes=axes)[0]
        objects.append(Seen(target(number, name, f"t{number}"), finding))
    gone = tuple(target(0, name, "") for name in absent)
    return Scene("ct", HW, tuple(objects), others, gone)


def _ask(scene: Scene, split: str = "train", seed: int = 0, counts: QueryCounts = MANY) -> tuple[Query, ...]:
    split = facts_split(split)
    rng = np.random.default_rng(seed)
    return make_queries(scene, split=split, classes=load_classes(), frames=load_frames(split), rng=rng, counts=counts)


def _named(scene: Scene, query: Query) -> list[str]:
    return [seen.target.name for seen in scene.objects if seen.target.id in query.target_ids]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("seed", range(3))
def test_attribute_and_location_questions_hide_their_target(split: str, seed: int) -> None:
    scene = _scene(absent=("gallbladder", "left adrenal gland"))
    counted = defaultdict(int)
    for query in _ask(scene, split, seed):
        counted[query.kind, query.length] += 1
        names = _named(scene, query) or ["gallbladder", "adrenal gland"]
        if query.kind == "naming":
            continue
        for name in names:
            words = [word for word in name.split() if word not in ("left", "right", "inferior")]
            assert not re.search("|".join(words), query.question, re.IGNORECASE), query.question
            entry = load_classes().of(name)
            assert entry and not entry.is_given_away(query.question)
    assert set(counted) == {
        (kind, length) for kind in ("naming", "attribute", "location") for length in ("short", "long")
    }


def test_every_question_has_one_target_and_an_answer_that_names_it() -> None:
    scene = _scene(absent=("gallbladder",))
    for query in _ask(scene):
        (name,) = _named(scene, query) or ["gallbladder"]
        assert query.answer and name in query.answer
        assert query.question[0].isupper() and "{" not in query.question + query.answer
        assert query.made_by and query.made_by.startswith("prsmed-rules-1: ")
        assert query.question.endswith((".", "?"))


def test_the_same_seed_asks_the_same_and_nothing_twice() -> None:
    first, again, other = _ask(_scene()), _ask(_scene()), _ask(_scene(), seed=1)
    assert first == again and first != other
    questions = [query.question.casefold() for query in first]
    assert len(set(questions)) == len(questions)
    assert [query.id for query in first] == [f"q{number}" for number in range(1, len(first) + 1)]


def test_train_and_test_share_no_question_and_no_fact() -> None:
    scene = _scene()
    asked = {split: {q.question.casefold() for seed in range(5) for q in _ask(scene, split, seed)} for split in SPLITS}
    assert not (asked["train"] | asked["val"]) & asked["test"]
    facts = [fact.says for entry in load_classes().entries.values() for fact in entry.facts["test"]]
    assert not [fact for fact in facts if any(fact.casefold() in question for question in asked["train"])]


def _patterns(frames: Frames) -> set[str]:
    """Every phrasing without its slots and punctuation."""
    found: set[str] = set()
    for part in fields(frames):
        for value in getattr(frames, part.name).values():
            for sentence in [value] if isinstance(value, str) else value:
                found.add(" ".join(re.findall(r"\w+", re.sub(r"\{\w+\}", "X", sentence.casefold()))))
    return found


def test_train_and_test_phrase_differently() -> None:
    assert not _patterns(load_frames("train")) & _patterns(load_frames("test"))


@pytest.mark.parametrize(
    ("names", "expected"),
    [(tuple(BOXES), {"left", "right", "largest"}), (("spleen", "left kidney", "aorta"), {"above", "below"})],
)
def test_places_are_true_in_the_picture(names: tuple[str, ...], expected: set[str]) -> None:
    scene = _scene(names)
    boxes = {seen.target.id: seen.finding.box_xyxy_px for seen in scene.objects}
    name_of = {seen.target.id: seen.target.name for seen in scene.objects}
    seen_places = set()
    for query in _ask(scene):
        if query.kind != "location":
            continue
        place, *references = query.made_by.partition(": ")[2].split()
        (target_id,) = query.target_ids
        seen_places.add(place)
        x0, y0, x1, y1 = boxes[target_id]
        if place in ("left", "right", "above", "below"):
            ref = boxes[references[0]]
            assert {"left": x1 <= ref[0], "right": x0 >= ref[2], "above": y1 <= ref[1], "below": y0 >= ref[3]}[place]
            assert name_of[references[0]] in query.question
        assert "picture" in query.question or "image" in query.question or "between" in query.question
        assert "patient" not in query.question
    assert expected <= seen_places


def test_a_pair_is_told_apart_by_its_side() -> None:
    both, alone = _scene(("left kidney", "right kidney")), _scene(("left kidney", "liver"))
    for query in _ask(both):
        if query.kind == "attribute":
            (name,) = _named(both, query)
            assert f"on the patient's {name.split()[0]}" in query.question
    asked = [query for query in _ask(alone) if query.kind == "attribute" and _named(alone, query) == ["left kidney"]]
    assert asked and not any("patient's left" in query.question for query in asked)


def test_an_absent_kidney_is_asked_for_by_its_side() -> None:
    scene = _scene(("right kidney", "liver"), absent=("left kidney",))
    asked = [query for query in _ask(scene) if not query.target_ids]
    assert {query.kind for query in asked} == {"naming", "attribute"}
    assert all("left" in query.question for query in asked)
    assert all(re.search(r"\bno\b|\bnot\b|cannot", query.answer) for query in asked)


def test_a_fact_that_holds_for_something_else_there_is_not_asked() -> None:
    """Helicobacter settles in stomach and duodenum: with both in the picture the question has two answers."""
    says = "Helicobacter"
    alone, both = _scene(("stomach",)), _scene(("stomach", "duodenum"))
    assert any(says in query.question for seed in range(3) for query in _ask(alone, "test", seed))
    assert not any(says in query.question for seed in range(3) for query in _ask(both, "test", seed))


def test_overlapping_classes_are_asked_for_by_name_only() -> None:
    assert {query.kind for query in _ask(_scene(("heart", "left ventricle")))} == {"naming"}


def test_what_has_no_usable_mask_forbids_places_not_names() -> None:
    kinds = {query.kind for query in _ask(_scene(others=("pancreas",)))}
    assert kinds == {"naming", "attribute"}


def test_an_unknown_class_is_asked_for_by_name_only() -> None:
    scene = _scene(("left appendages", "liver"))
    asked = [query for query in _ask(scene) if "t1" in query.target_ids]
    assert {query.kind for query in asked} == {"naming"} and "are the" in asked[0].answer


def test_the_patients_side_is_said_where_the_file_states_it() -> None:
    scene = _scene(("liver", "spleen"), axes=PatientAxes("L", "P"))
    asked = [query.question for query in _ask(scene) if query.kind == "location"]
    assert any("on the patient's right" in question for question in asked)


def test_a_lesions_facts_are_those_of_its_kind() -> None:
    """What is known of polyps is no finding about this one."""
    scene = _scene(("polyp",), kind="lesion")
    for query in _ask(scene):
        if query.kind == "attribute":
            assert "kind of growth" in query.question and "a finding of this kind" in query.answer


def test_plural_classes_take_plural_words() -> None:
    for query in _ask(_scene(("lungs",))):
        assert " is the" not in query.answer and " it " not in f" {query.question} {query.answer} "
