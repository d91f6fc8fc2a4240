"""The committed class table keeps its promises, and a table that does not is refused."""

import json
from pathlib import Path

import pytest

from prsmed.errors import DataError
from prsmed.text.classes import FACT_SPLITS, KNOWLEDGE_DIR, asked_by_name, gives_away, load_classes
from prsmed.text.grammar import is_plural
from prsmed.text.query_frames import load_frames, words_for
from prsmed.types import Target

ORGANS = (
    *("spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta", "pancreas"),
    *("inferior vena cava", "portal vein and splenic vein", "right adrenal gland", "left adrenal gland"),
)
SIX_MODALITIES = (
    *("breast lesion", "lung opacity", "polyp", "lung tumour", "lungs", "brain tumour", "lung nodule"),
    *("multiple sclerosis lesion", "skin lesion", "brain metastasis"),
)


@pytest.mark.parametrize("name", [*ORGANS, *SIX_MODALITIES])
def test_the_shared_sets_are_known(name: str) -> None:
    assert load_classes().of(name) is not None


def test_a_side_is_stripped_but_a_chamber_keeps_its_name() -> None:
    classes = load_classes()
    assert classes.of("Left_kidney") is classes.of("kidney")
    left = classes.of("left ventricle")
    assert left and left.name == "left ventricle"
    assert classes.of("appendix") is None


def test_train_and_test_state_other_facts() -> None:
    for entry in load_classes().entries.values():
        said = [{fact.says.casefold() for fact in entry.facts[split]} for split in FACT_SPLITS]
        assert not said[0] & said[1], entry.name
        assert min(map(len, said)) >= 2, entry.name


def test_the_shared_organs_have_many_facts() -> None:
    for name in ORGANS:
        entry = load_classes().of(name)
        assert entry and len(entry.facts["train"]) >= 7 and len(entry.facts["test"]) >= 4, name


def test_every_fact_names_a_book_and_a_place_in_it() -> None:
    sources = json.loads((KNOWLEDGE_DIR / "sources.json").read_text(encoding="utf-8"))
    for entry in load_classes().entries.values():
        for fact in (fact for facts in entry.facts.values() for fact in facts):
            book, _, place = fact.source.partition(" ")
            expects_place = "follows" in sources[book] or "section" in sources[book]
            assert bool(place) == expects_place, (entry.name, fact)


def test_number_of_names_and_facts_agree() -> None:
    """A plural class is one whose name the templates conjugate in the plural, or that joins two with "and"."""
    for entry in load_classes().entries.values():
        assert entry.plural == (is_plural(entry.name) or " and " in entry.name), entry.name
        for fact in (fact for facts in entry.facts.values() for fact in facts):
            first = fact.says.split()[0]
            if first in ("is", "are", "has", "have", "does", "do"):
                assert (first in ("are", "have", "do")) == entry.plural, (entry.name, fact.says)


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("The hepatic artery", ("hepat",), True),
        ("the LEFT-KIDNEY", ("left kidney",), True),
        ("kidneys", ("kidney",), True),
        ("a cholangitis", ("angi",), False),  # only beginnings of words count
        ("which organ makes bile", ("liver", "hepat"), False),
    ],
)
def test_what_gives_a_class_away(text: str, words: tuple[str, ...], expected: bool) -> None:
    assert gives_away(text, words) is expected


def _table(folder: Path, **changes: object) -> Path:
    entry = {
        "noun": "organ",
        "group": "organ",
        "synonyms": ["hepat"],
        "train": [["makes bile", "BOOK 1"], ["stores sugar", "BOOK 1"]],
        "test": [["makes urea", "BOOK 1"], ["has two lobes", "BOOK 1"]],
    }
    other = {
        "noun": "organ",
        "group": "organ",
        "train": [["makes urine", "BOOK 1"], ["has nephrons", "BOOK 1"]],
        "test": [["is a bean", "BOOK 1"], ["needs dialysis", "BOOK 1"]],
    }
    (folder / "sources.json").write_text('{"BOOK": "a book; the number is the section"}')
    (folder / "organs.json").write_text(json.dumps({"liver": {**entry, **changes}, "kidney": other}))
    return folder


def test_a_good_table_is_read(tmp_path: Path) -> None:
    assert set(load_classes(_table(tmp_path)).entries) == {"liver", "kidney"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train": [["makes bile", "BOOK 1"]]}, "at least 2"),
        ({"train": [["makes bile", "PAPER 1"], ["stores sugar", "BOOK 1"]]}, "is not in sources.json"),
        ({"train": [["has hepatic veins", "BOOK 1"], ["stores sugar", "BOOK 1"]]}, "names its class"),
        ({"train": [["is the Liver", "BOOK 1"], ["stores sugar", "BOOK 1"]]}, "names its class"),
        ({"train": [["makes urine", "BOOK 1"], ["stores sugar", "BOOK 1"]]}, "also said of"),
        ({"test": [["makes bile", "BOOK 1"], ["has two lobes", "BOOK 1"]]}, "states a fact twice"),
        ({"train": [["makes bile", "BOOK 1", ["spleen"]], ["stores sugar", "BOOK 1"]]}, "no class of the table"),
        ({"overlaps": ["spleen"]}, "no class of the table"),
        ({"aliases": ["kidney"]}, "name of two classes"),
        ({"colour": "brown"}, "has the keys"),
    ],
)
def test_a_bad_table_is_refused(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    with pytest.raises(DataError, match=says):
        load_classes(_table(tmp_path, **changes))


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_question_that_names_its_target_asks_by_name_and_one_that_describes_it_does_not(split):
    frames = load_frames(split)
    for name in ("liver", "left kidney", "portal vein and splenic vein", "adrenal gland", "gallbladder", "trachea"):
        entry = load_classes().of(name)
        target = Target(id="t1", name=name, kind="organ", laterality=None, masks=())
        words = words_for(target, entry, "ct", is_sided=False)
        for frame in (frame for length in frames.naming.values() for frame in length):
            asked = asked_by_name(frame.format_map(words))
            assert asked and load_classes().of(asked) is entry
        for fact in entry.facts[split]:
            stated = words | {"fact": fact.says, "fact2": fact.says}
            for frame in (frame for length in frames.attribute.values() for frame in length):
                assert asked_by_name(frame.format_map(stated)) is None


@pytest.mark.parametrize(
    ("question", "asked"),
    [
        ("What lies in front of the vertebra?", None),
        ("Mark what lies between the liver and the spleen.", None),
        ("Mark the kidney below the liver.", "kidney"),
        ("Between the kidney and the liver, mark the gallbladder.", "gallbladder"),
        ("Is the spleen above the kidney?", "spleen"),
        ("Draw the outline of the liver.", "liver"),
    ],
)
def test_what_only_tells_the_place_is_not_asked_for(question, asked):
    assert asked_by_name(question) == asked
