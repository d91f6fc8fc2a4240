"""The sentences around a name, a fact or a place, of questions and answers: others for training than for the test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from prsmed.text.classes import Entry, read_object
from prsmed.text.grammar import MODALITY_WORDS, is_plural, plural
from prsmed.types import Target

FRAMES_PATH = Path(__file__).with_name("query_frames.json")

_NUMBERS = (
    ("is", "is", "are"),
    ("it", "it", "they"),
    ("It", "It", "They"),
    ("its", "its", "their"),
    ("them", "it", "them"),
    ("this", "this", "these"),
    ("that", "that", "those"),
    ("lie", "lies", "lie"),
    ("cover", "covers", "cover"),
)
_SINGULAR = {slot: word for slot, word, _ in _NUMBERS}
_PLURAL = {slot: word for slot, _, word in _NUMBERS}


@dataclass(frozen=True)
class Frames:
    """The phrasings of one split: `naming`, `attribute` and `location` by length, `places` and `answers` by name."""

    naming: Mapping[str, list[str]]
    attribute: Mapping[str, list[str]]
    location: Mapping[str, list[str]]
    places: Mapping[str, str]
    answers: Mapping[str, list[str]]


@cache
def load_frames(split: str, path: Path = FRAMES_PATH) -> Frames:
    """The phrasings of "train" or "test".

    Raises:
        DataError: a file that cannot be read.
    """
    return Frames(**read_object(path)[split])


def words_for(target: Target, entry: Entry | None, modality: str | None, *, is_sided: bool) -> dict[str, str]:
    """The slots that every question about a target can use.

    Args:
        entry: of its class; without one there is no noun and no group.
        is_sided: the noun says the side of the target, to tell it from the other one of a pair.
    """
    words = dict(_PLURAL if (entry.plural if entry else is_plural(target.name)) else _SINGULAR)
    words |= {"name": target.name, "modality": MODALITY_WORDS[modality] if modality else "", "such": words["it"]}
    if entry:
        noun, group = (plural(word) if entry.plural else word for word in (entry.noun, entry.group))
        if target.kind == "lesion":
            # a fact holds for its class: of the one in the picture nothing is known but its place
            noun, words["such"] = f"kind of {noun}", "a finding of this kind"
        words |= {
            "noun": f"{noun} on the patient's {target.laterality}" if is_sided else noun,
            "group": group,
            "group_one": entry.group,
        }
    return words


def lead_of(name: str) -> str:
    """How an answer about a target begins, before its name and as in training: "This is the"."""
    words = (_PLURAL if is_plural(name) else _SINGULAR) | {"name": "."}
    return _capital(load_frames("train").answers["naming"][0].format_map(words)).rstrip(" .")


def fill(sentences: list[str], words: Mapping[str, Any], rng: np.random.Generator) -> str:
    """One of the sentences with its slots filled and a capital at the start."""
    sentence = sentences[int(rng.integers(len(sentences)))]
    if not words["modality"]:
        sentence = sentence.replace("{modality} ", "")
    return _capital(sentence.format_map(words))


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
