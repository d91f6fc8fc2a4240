"""Questions about the objects of one picture, made by rule: naming, attribute, location, short and long, with answers.

An attribute or location question never names its target, and singles it out among what is in the picture. Training and
test use other facts and other phrasings; validation uses those of training, so that the test's are met only once.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from prsmed.text.classes import ClassTable, Entry, Fact
from prsmed.text.query_frames import Frames, fill, words_for
from prsmed.text.relations import (
    DIRECTIONS,
    QUARTERS,
    Place,
    beside,
    between,
    in_quarter,
    largest,
    on_patient_side,
    singles_out,
)
from prsmed.types import LATERALITIES, QUERY_LENGTHS, Finding, Query, Target

MADE_BY = "prsmed-rules-1"
"""Begins `made_by` of every question made here; the class and the facts, or the relation, follow."""

T = TypeVar("T")


@dataclass(frozen=True)
class Seen:
    """One object of a picture: what it is, and where, as one finding over all its parts."""

    target: Target
    finding: Finding


@dataclass(frozen=True)
class Scene:
    """What is known of one picture.

    Attributes:
        hw_px: rows and columns.
        objects: what is there and can be asked for.
        others: names of what is also there, but has no usable mask.
        absent: what is certainly not there; the id of a target that the case does not have is "".
    """

    modality: str | None
    hw_px: tuple[int, int]
    objects: tuple[Seen, ...]
    others: tuple[str, ...] = ()
    absent: tuple[Target, ...] = ()


@dataclass(frozen=True)
class QueryCounts:
    """How many questions are made at most: by target and length, and how many absent objects a picture is asked for."""

    naming: int = 1
    attribute: int = 2
    location: int = 2
    absent: int = 2


@dataclass(frozen=True)
class _Maker:
    """What the questions of one scene have in common."""

    scene: Scene
    facts_of: str
    classes: ClassTable
    frames: Frames
    rng: np.random.Generator


def make_queries(
    scene: Scene,
    *,
    split: str,
    classes: ClassTable,
    frames: Frames,
    rng: np.random.Generator,
    counts: QueryCounts,
) -> tuple[Query, ...]:
    """The questions of one picture, with ids q1, q2, ...

    A target whose class is not in the table is only asked for by name. The same scene and state of the generator give
    the same questions; none occurs twice.

    Args:
        split: whose facts are stated, "train" or "test" (`facts_split`).
        frames: the phrasings of that split.
    """
    maker = _Maker(scene, split, classes, frames, rng)
    made: dict[str, Query] = {}
    for query in _all_queries(maker, counts):
        made.setdefault(" ".join(re.findall(r"\w+", query.question.casefold())), query)
    return tuple(replace(query, id=f"q{number}") for number, query in enumerate(made.values(), start=1))


def facts_split(split: str) -> str:
    """Whose facts and phrasings a split uses: those of the test only the test."""
    return "test" if split == "test" else "train"


def _all_queries(maker: _Maker, counts: QueryCounts) -> Iterator[Query]:
    for seen, length in itertools.product(maker.scene.objects, QUERY_LENGTHS):
        entry = maker.classes.of(seen.target.name)
        for _ in range(counts.naming):
            yield _naming(maker, seen.target, entry, length)
        if entry:
            yield from _attributes(maker, seen.target, entry, length, counts.attribute)
            yield from _locations(maker, seen, entry, length, counts.location)
    for target in _shuffled(maker.scene.absent, maker.rng)[: counts.absent]:
        entry = maker.classes.of(target.name)
        yield _naming(maker, target, entry, "short", "absent_naming")
        if entry:
            facts = _shuffled(_telling_facts(maker, target, entry), maker.rng)[:1]
            yield from _attribute(maker, target, entry, "short", facts, "absent_attribute") if facts else ()


def _naming(maker: _Maker, target: Target, entry: Entry | None, length: str, answer: str = "naming") -> Query:
    words = words_for(target, entry, maker.scene.modality, is_sided=False)
    question = fill(maker.frames.naming[length], words, maker.rng)
    return _query(target, "naming", length, question, fill(maker.frames.answers[answer], words, maker.rng), "name")


def _attributes(maker: _Maker, target: Target, entry: Entry, length: str, number: int) -> Iterator[Query]:
    """Questions by facts, each beginning with another one; a long question states two."""
    facts = _shuffled(_telling_facts(maker, target, entry), maker.rng)
    stated = 2 if length == "long" else 1
    for index in range(min(number, len(facts)) if len(facts) >= stated else 0):
        chosen = tuple(facts[(index + step) % len(facts)] for step in range(stated))
        yield from _attribute(maker, target, entry, length, chosen, "attribute_long" if stated == 2 else "attribute")


def _attribute(
    maker: _Maker, target: Target, entry: Entry, length: str, facts: Sequence[Fact], answer: str
) -> Iterator[Query]:
    is_told_by_side = not target.id or any(name != target.name for name in _of_class(maker, entry))
    is_sided = target.laterality is not None and is_told_by_side
    words = words_for(target, entry, maker.scene.modality, is_sided=is_sided)
    words |= dict(zip(("fact", "fact2"), (fact.says for fact in facts), strict=False))
    question = fill(maker.frames.attribute[length], words, maker.rng)
    known = entry.facts[maker.facts_of]
    how = f"{entry.name}, {maker.facts_of} facts {' '.join(str(known.index(fact) + 1) for fact in facts)}"
    if not entry.is_given_away(question):
        yield _query(target, "attribute", length, question, fill(maker.frames.answers[answer], words, maker.rng), how)


def _locations(maker: _Maker, seen: Seen, entry: Entry, length: str, number: int) -> Iterator[Query]:
    """Questions by place, of other kinds as long as there are any."""
    by_kind: dict[str, list[Place]] = {}
    for place in _shuffled(_telling_places(maker, seen, entry), maker.rng):
        by_kind.setdefault(place.kind, []).append(place)
    in_turn = [place for row in itertools.zip_longest(*by_kind.values()) for place in row if place]
    for place in in_turn[:number]:
        names = [seen.target.name for seen in maker.scene.objects for i in place.reference_ids if seen.target.id == i]
        words = words_for(seen.target, entry, maker.scene.modality, is_sided=False)
        words |= dict(zip(("ref", "ref2"), names, strict=False))
        key = f"patient {place.word}" if place.kind == "patient" else place.word
        words["place"] = maker.frames.places[key].format_map(words)
        question = fill(maker.frames.location[length], words, maker.rng)
        if not entry.is_given_away(question):
            answer = fill(maker.frames.answers["location"], words, maker.rng)
            yield _query(seen.target, "location", length, question, answer, " ".join((key, *place.reference_ids)))


def _telling_facts(maker: _Maker, target: Target, entry: Entry) -> list[Fact]:
    """The facts that hold for nothing else in the picture; of a pair the side tells which is meant."""
    names = [*(seen.target.name for seen in maker.scene.objects), *maker.scene.others]
    present = [other for name in names if (other := maker.classes.of(name)) and other is not entry]
    is_double = target.laterality is None and len(_of_class(maker, entry)) > 1
    if is_double or any(other.name in entry.overlaps or entry.name in other.overlaps for other in present):
        return []
    return [fact for fact in entry.facts[maker.facts_of] if not {other.name for other in present} & set(fact.also)]


def _of_class(maker: _Maker, entry: Entry) -> list[str]:
    """The names in the picture that stand for a class: two where both of a pair are there."""
    names = [*(seen.target.name for seen in maker.scene.objects), *maker.scene.others]
    return [name for name in names if maker.classes.of(name) is entry]


def _telling_places(maker: _Maker, seen: Seen, entry: Entry) -> list[Place]:
    """The relations that hold for this object, and clearly for no other of its group.

    None where something without a usable mask is in the picture, for it may lie there too, and none where the group
    alone tells what is meant among several objects.
    """
    objects = maker.scene.objects
    group = [item for item in objects if (of := maker.classes.of(item.target.name)) and of.group == entry.group]
    named = [item for item in objects if item is not seen and not entry.is_given_away(item.target.name)]
    places = [in_quarter(word, maker.scene.hw_px) for word in QUARTERS]
    places += [on_patient_side(word) for word in LATERALITIES]
    places += [beside(word, item.target.id, item.finding) for item in named for word in DIRECTIONS]
    places += [
        between(first.target.id, first.finding, second.target.id, second.finding)
        for first, second in itertools.combinations(named, 2)
        if " and " not in f"{first.target.name} {second.target.name}"  # "between the a and the b and c" cannot be read
    ]
    places += [largest([item.finding.area_px for item in group])] if len(group) > 1 else []
    if maker.scene.others or len(group) == 1 < len(objects):
        return []

    def others(place: Place) -> list[Finding]:
        return [item.finding for item in group if item is not seen and item.target.id not in place.reference_ids]

    return [place for place in places if singles_out(place, seen.finding, others(place))]


def _query(target: Target, kind: str, length: str, question: str, answer: str, how: str) -> Query:
    target_ids = (target.id,) if target.id else ()
    return Query("", target_ids, kind, question, length, answer, f"{MADE_BY}: {how}")


def _shuffled(items: Sequence[T], rng: np.random.Generator) -> list[T]:
    return [items[index] for index in rng.permutation(len(items))]
