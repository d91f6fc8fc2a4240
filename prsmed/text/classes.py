"""What is known of the classes that can be asked for: attribute facts with their sources, and every word for a class.

The table is data, `knowledge/*.json`: one object a class, in our own sentences, each fact with the book, guideline or
standard it can be checked in (`knowledge/sources.json`). A fact completes "The organ ..." and never names its class.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from prsmed.errors import DataError
from prsmed.text.grammar import plural
from prsmed.text.naming import first_named
from prsmed.types import LATERALITIES

KNOWLEDGE_DIR = Path(__file__).with_name("knowledge")
SOURCES_FILE = "sources.json"
FACT_SPLITS = ("train", "test")

_ENTRY_KEYS = {"noun", "group", "plural", "aliases", "synonyms", "overlaps", *FACT_SPLITS}
_MIN_FACTS = 2
"""Of each split: a long question states two."""
_BESIDE = "(?:(?:front|left|right) of|behind|above|below|beneath|beside|next to|between)"
"""What is named behind these words is not what is asked for."""


@dataclass(frozen=True)
class Fact:
    """One attribute of a class.

    Attributes:
        says: a predicate, "makes bile".
        source: where it can be checked: a key of sources.json, and the place in it.
        also: other classes it holds for; where one of them is in the picture, the fact singles nothing out.
    """

    says: str
    source: str
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """One class.

    Attributes:
        name: as questions call it, without a side.
        noun: what it is, in a question that does not name it ("organ").
        group: what it is for questions about places: those of one group are told apart ("solid organ").
        plural: the name, the nouns and the facts are plural ("lungs").
        aliases: other names of the same class.
        synonyms: beginnings of words that would give it away, beside its names ("hepat").
        overlaps: classes that share its pixels or its facts; attribute questions do not tell them apart.
        facts: by split, "train" and "test".
    """

    name: str
    noun: str
    group: str
    plural: bool
    aliases: tuple[str, ...]
    synonyms: tuple[str, ...]
    overlaps: tuple[str, ...]
    facts: Mapping[str, tuple[Fact, ...]]

    def is_given_away(self, text: str) -> bool:
        """Whether a text names this class: by a name, or by a word that begins like one of its synonyms."""
        return gives_away(text, (self.name, *self.aliases, *self.synonyms))


@dataclass(frozen=True)
class ClassTable:
    """All entries, by name and by alias."""

    entries: Mapping[str, Entry]
    by_name: Mapping[str, Entry]

    def of(self, name: str) -> Entry | None:
        """The entry of a target's name; the "left kidney" is a kidney. None where there is none."""
        key = _normal(name)
        side, _, unsided = key.partition(" ")
        return self.by_name.get(key) or (self.by_name.get(unsided) if side in LATERALITIES else None)


def asked_by_name(question: str) -> str | None:
    """The class of the table, or its other name, that a question asks for by name; None where it describes something
    ("the organ beneath the ribs", "what lies in front of the spine"), or where what it names is not in the table."""
    entries, words = load_classes().entries.values(), question.casefold()
    names = {name.casefold() for entry in entries for name in (entry.name, *entry.aliases)}
    kinds = {kind for entry in entries for noun in (entry.noun, entry.group) for kind in (noun, plural(noun))}
    is_name = "|".join(
        re.escape(form) for name in sorted(names, key=len, reverse=True) for form in (plural(name), name)
    )
    is_kind = "|".join(map(re.escape, kinds))
    words = re.sub(rf"\b{_BESIDE} (?:the )?(?:{is_name})\b(?: and (?:the )?(?:{is_name})\b)?", " ", words)
    rest = re.sub(rf"\b(?:{is_name})\b", " ", words)
    return None if re.search(rf"\b(?:{is_kind})\b", rest) else first_named(words, names)


def gives_away(text: str, words: Iterable[str]) -> bool:
    """Whether one of the words (or the beginning of one) occurs in a text, whatever the case and the hyphens."""
    return any(re.search(rf"\b{re.escape(_normal(word))}", _normal(text)) for word in words)


@cache
def load_classes(folder: Path = KNOWLEDGE_DIR) -> ClassTable:
    """Read and check the table.

    Raises:
        DataError: a file that cannot be read, an unknown key, class or source, a name that two classes have, fewer than
            two facts in a split, a fact that is stated twice, or one that gives its class away.
    """
    sources = read_object(folder / SOURCES_FILE)
    entries: dict[str, Entry] = {}
    for path in sorted(folder.glob("*.json")):
        for name, record in read_object(path).items() if path.name != SOURCES_FILE else ():
            if name in entries:
                raise DataError(f"{path}: {name!r} is described twice; keep one of the two")
            entries[name] = _entry(name, record, f"{path}: {name}")
    by_name: dict[str, Entry] = {}
    for entry in entries.values():
        for name in (entry.name, *entry.aliases):
            if by_name.setdefault(_normal(name), entry) is not entry:
                raise DataError(f"{folder}: {name!r} is a name of two classes; keep one")
    _check_facts(entries, sources, folder)
    return ClassTable(entries, by_name)


def _entry(name: str, record: Any, who: str) -> Entry:
    unknown = set(record) - _ENTRY_KEYS
    if unknown or not {"noun", "group", *FACT_SPLITS} <= set(record):
        raise DataError(f"{who}: has the keys {sorted(record)}; use {', '.join(sorted(_ENTRY_KEYS))}")
    facts = {}
    for split in FACT_SPLITS:
        if len(record[split]) < _MIN_FACTS:
            raise DataError(f"{who}: has {len(record[split])} facts in {split}; write at least {_MIN_FACTS}")
        facts[split] = tuple(Fact(says, source, tuple(*also)) for says, source, *also in record[split])
    return Entry(
        name=name,
        noun=record["noun"],
        group=record["group"],
        plural=record.get("plural", False),
        aliases=tuple(record.get("aliases", ())),
        synonyms=tuple(record.get("synonyms", ())),
        overlaps=tuple(record.get("overlaps", ())),
        facts=facts,
    )


def _check_facts(entries: Mapping[str, Entry], sources: Mapping[str, str], folder: Path) -> None:
    stated: dict[str, str] = {}
    for entry in entries.values():
        for other in entry.overlaps:
            _check_known(other, entries, f"{folder}: {entry.name}")
        for fact in (fact for facts in entry.facts.values() for fact in facts):
            who = f"{folder}: {entry.name}, {fact.says!r}"
            for other in fact.also:
                _check_known(other, entries, who)
            if fact.source.partition(" ")[0] not in sources:
                raise DataError(f"{who}: source {fact.source!r} is not in {SOURCES_FILE}; add the book there")
            if entry.is_given_away(fact.says):
                raise DataError(f"{who}: names its class; describe it without its names and synonyms")
            if stated.setdefault(_normal(fact.says), entry.name) != entry.name:
                shared = entries[stated[_normal(fact.says)]]
                if shared.name not in entry.overlaps:
                    raise DataError(f"{who}: is also said of {shared.name}; a fact has to single out its class")
        said = [_normal(fact.says) for facts in entry.facts.values() for fact in facts]
        if len(set(said)) < len(said):
            raise DataError(f"{folder}: {entry.name}: states a fact twice; train and test need different ones")


def _check_known(name: str, entries: Mapping[str, Entry], who: str) -> None:
    if name not in entries:
        raise DataError(f"{who}: {name!r} is no class of the table; correct the name")


def _normal(text: str) -> str:
    return re.sub(r"[\s_-]+", " ", text.casefold()).strip()


def read_object(path: Path) -> dict[str, Any]:
    """A committed JSON file that holds an object; DataError where it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); restore the committed file") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: is a {type(content).__name__}; write an object of classes")
    return content
