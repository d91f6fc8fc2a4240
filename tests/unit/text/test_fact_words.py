"""What a question's words tell of its target by themselves."""

import numpy as np
import pytest

from prsmed.text.classes import load_classes
from prsmed.text.fact_words import told_by_facts

ORGANS = ("liver", "spleen", "left kidney", "right kidney", "pancreas", "aorta")


def test_a_question_in_the_words_of_a_fact_is_about_its_class():
    entries = [load_classes().of(name) for name in ORGANS]
    facts = [(fact.says, entry.name) for entry in entries for fact in entry.facts["train"]]
    told = told_by_facts([f"Where in this CT picture is the organ that {says}?" for says, _ in facts], ORGANS)
    of_best = [entries[number].name for number in told.argmax(axis=1)]
    assert np.mean([best == name for best, (_, name) in zip(of_best, facts, strict=True)]) > 0.9


def test_sides_are_told_alike_and_names_without_facts_by_chance():
    names = (*ORGANS, "prostatic utricle of nobody")
    told = told_by_facts(["Which organ makes bile?", "Which organ filters the blood into urine?"], names)
    assert told.shape == (2, 7) and told[0].argmax() == 0
    np.testing.assert_array_equal(told[:, 2], told[:, 3])
    assert told[1].argmax() in (2, 3)
    np.testing.assert_allclose(np.exp(told[:, 6]), 1 / 7)


@pytest.mark.parametrize(
    "question", ["", "Where is it?", "!?", "qwxz", "肝臓はどこですか", "Which solid organ, gland, or blood vessel?"]
)
def test_words_that_stand_in_no_fact_tell_nothing(question):
    told = told_by_facts([question], ORGANS)
    np.testing.assert_allclose(told, told[0, 0])
    assert np.isfinite(told).all()
    told = told_by_facts([question], (*ORGANS, "gizmo", "widget"))
    np.testing.assert_allclose(told, np.log(1 / 8))


def test_a_question_by_name_is_not_read_as_a_fact():
    """A fact never names its own class, so its name would speak for those that lie beside it."""
    for name in ORGANS:
        for question in (f"Mark the {name}.", f"I cannot make out the {name}; please indicate it."):
            told = told_by_facts([question], ORGANS)
            np.testing.assert_allclose(told, told[0, 0])


def test_left_and_right_of_a_question_tell_nothing():
    question = "Which organ lies to the {} of the bile ducts, in the {} half of the body?"
    there, mirrored = told_by_facts([question.format("left", "right"), question.format("right", "left")], ORGANS)
    np.testing.assert_array_equal(there, mirrored)
    assert there.max() - there.min() > 1


def test_nothing_known_nothing_told():
    assert np.exp(told_by_facts(["Which organ makes bile?"], ["gizmo", "widget"])) == pytest.approx(
        np.full((1, 2), 0.5)
    )


def test_only_the_trainings_facts_are_known():
    """A test's fact whose words training never uses tells nothing; so no score on the test is looked up in it."""
    entry = load_classes().of("liver")
    words = {word for fact in entry.facts["test"] for word in fact.says.split()}
    of_training = {
        word for entry in load_classes().entries.values() for fact in entry.facts["train"] for word in fact.says.split()
    }
    fresh = [word for word in words - of_training if word.isalpha() and len(word) > 2]
    assert fresh
    told = told_by_facts(fresh, ORGANS)
    np.testing.assert_allclose(told, np.broadcast_to(told[:, :1], told.shape))
