"""The strict parser: which zones a sentence states, or that it states none, or that it cannot be read.

It never guesses. A sentence is unreadable when it hedges ("or", "maybe", a question), when a direction word is left
over ("left" alone, "top bottom", "upper left and right"), when a position is not one of the picture ("left upper
lobe", "the center of the polyp"), when two positions stand together without words that count two findings, and when
a position and "no ... visible" meet. "near the center" after a quadrant (the addition of the mmrs rule) is read and
leaves the zone the quadrant; "near" anywhere else is unreadable.

Words about the patient ("the patient's right, anterior") state nothing about the picture: those that `rule_text` adds
are set aside, and any other direction of the patient ("the patient's upper left") makes a sentence unreadable.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from prsmed.text.grammar import count_word, plural


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_LEVELS = {"top": "top", "upper": "top", "bottom": "bottom", "lower": "bottom"}
_SIDES = {"left": "left", "right": "right"}
_MIDDLES = _words("center centre central middle")
_REGIONS = _words("part area region quadrant corner side zone section portion location position hand")
_PICTURES = _words("image picture frame scan view slice photo photograph radiograph sonogram study")
_PREPOSITIONS = _words("of in on within from inside")
# What may come after a position, beside a mark, a region noun and a preposition. A noun here would make the position
# one of the patient ("upper left lobe").
_FOLLOWERS = _words(
    "and another other also plus while where which with there here is are lies lie shows show holds contains contain "
    "has have as the"
)
_DOUBTS = _words(
    "or either maybe perhaps possibly probably likely unlikely might may could if unless whether unclear unsure "
    "uncertain between near close above below beneath under beside opposite outside beyond toward towards away far "
    "except rather instead false wrong incorrect free ?"
)
_NEGATIONS = _words("no not none never neither nor nothing nowhere without absent lacks lack fails invisible")
_COUNTING = _words("another other second third one")
_JOINING = _COUNTING | _words("and also plus while")
_BREAKS = {".", ";", "!", "but"}
_TOKEN = re.compile(r"[^\W_]+|[.,;!?]")

# What `prsmed.text.patient` adds to a sentence. Only these exact phrases: a direction word beside them is left over.
_THIRD = r"(?:upper|middle|lower)"
_OF_THE_PATIENT = re.compile(
    r"in the middle between the patient's left and right\b"
    rf"|the patient's (?:(?:left|right)(?: {_THIRD} zone)?|{_THIRD} zone)\b"
    rf"|in the {_THIRD} third of the scanned volume\b"
    r"|patient side unknown: (?:the file|this view) does not (?:state|show) it\b"
)
_ELSEWHERE = "patientward"

# Clauses that say a target is absent. A whole clause must match, so that "no doubt", "no other polyp" or "not clearly
# visible" do not.
_NOT_A_NAME = (
    r"(?!(?:no|not|is|are|was|were|doubt|question|idea|others?|more|longer|further|additional|second|clear|only|single|"
    r"with|than|that|which|in|on|of|at|to)\b)"
)
_NAME = rf"{_NOT_A_NAME}\w+(?: {_NOT_A_NAME}\w+){{0,5}}?"
_IN_PICTURE = rf"(?:in|on|within) (?:this|the) (?:\w+ ){{0,3}}(?:{'|'.join(sorted(_PICTURES))})"
_WHERE = rf"(?: here)?(?: {_IN_PICTURE})?"
_SEEN = r"(?:visible|seen|present|found|detected|identified|observed|shown|apparent|evident|there|depicted)"
_TRACE = r"(?:(?:evidence|signs?|trace) of )"
_SOMEBODY = r"(?:\w+ ){1,4}?"
_ABSENCES = (
    rf"(?:there (?:is|are) )?no {_NAME} (?:(?:is|are|was|were|can be|to be) )?{_SEEN}{_WHERE}",
    rf"(?:there (?:is|are) )?no {_TRACE}{_NAME}{_WHERE}",
    rf"no {_NAME} (?:is|are) {_IN_PICTURE}",
    rf"there (?:is|are) no {_NAME}{_WHERE}",
    rf"{_SOMEBODY}(?:shows?|contains?|sees?|finds?|has|have|depicts?|holds?) no {_TRACE}?{_NAME}{_WHERE}",
    rf"{_NAME} (?:is|are|was|were|can) not (?:be )?{_SEEN}{_WHERE}",
    rf"{_NAME} (?:is|are) absent{_WHERE}",
    rf"{_SOMEBODY}(?:do|does|can) not (?:show|contain|have|depict|see|find) (?:a|an|any|the) {_NAME}{_WHERE}",
)
_ABSENCE = re.compile(rf"(?:{_IN_PICTURE} )?(?:{'|'.join(_ABSENCES)})")


@dataclass(frozen=True)
class ParsedAnswer:
    """What a sentence states: kind "positions" with its zones in reading order, "none", or "unreadable"."""

    kind: str
    zones: tuple[str, ...] = ()


_UNREADABLE = ParsedAnswer("unreadable")


@dataclass(frozen=True)
class _Place:
    """One position phrase: its zone and its half-open range of tokens."""

    zone: str
    start: int
    stop: int


def parse_position(text: str, *, target: str = "") -> ParsedAnswer:
    """Read the positions a sentence states about the picture.

    Args:
        text: an answer in English; case, punctuation and hyphens do not matter.
        target: name of what was asked for. Give it where the name may hold direction words ("left kidney"): it is
            set aside before reading. Without it such a sentence is unreadable.
    """
    tokens = _tokens(text, target)
    places = _read_places(tokens)
    if places is None:
        return _UNREADABLE
    said: list[_Place] = []
    denied: set[str] = set()
    absent: list[bool] = []
    for start, stop in _clauses(tokens):
        within = [place for place in places if start <= place.start < stop]
        absent.append(not within and _states_absence(tokens[start:stop]))
        negations = [index for index in range(start, stop) if tokens[index] in _NEGATIONS]
        if absent[-1] or not negations:
            said += within
            continue
        before, after = _split_at_denial(tokens, within, negations)
        if not after:
            return _UNREADABLE
        said += before
        denied |= {place.zone for place in after}
    if any(absent):
        return ParsedAnswer("none") if all(absent) and not denied else _UNREADABLE
    zones = tuple(place.zone for place in said)
    if not zones or denied & set(zones) or not _counts_each(tokens, said):
        return _UNREADABLE
    return ParsedAnswer("positions", zones)


def stated_count(text: str, parsed: ParsedAnswer) -> int:
    """How many findings a sentence speaks of: the number it states ("There are three polyps"), else one a position."""
    said = re.search(r"\b(?:there (?:are|is)|i see|has|have|shows?) (\w+)\b", text.casefold())
    counts = {count_word(count): count for count in range(13)}
    word = said[1] if said else ""
    return max(counts.get(word, int(word) if word.isdecimal() else 0), len(parsed.zones))


def zones_match(parsed: ParsedAnswer, truth_zones: Sequence[str]) -> bool:
    """Whether the stated zones are the true ones, as multisets; an unreadable answer matches nothing."""
    return parsed.kind != "unreadable" and Counter(parsed.zones) == Counter(truth_zones)


def _tokens(text: str, target: str) -> list[str]:
    """Lower-case words and the marks . , ; ! ? with the target's name replaced by one neutral word."""
    text = _plain(text)
    for name in (plural(target), target) if target.strip() else ():
        words = r"\s+".join(re.escape(word) for word in _plain(name).split())
        text = re.sub(rf"(?<!\w){words}(?!\w)", " target ", text)
    text = _OF_THE_PATIENT.sub(f" {_ELSEWHERE} ", text)
    text = re.sub(r"\bcan(?:not|'t)\b", "can not", text)
    text = re.sub(r"n't\b", " not", text)
    for characters, replacement in (("/|\\", " or "), (":()[]", " , "), ("\n\r", " . ")):
        for character in characters:
            text = text.replace(character, replacement)
    return _TOKEN.findall(text)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")


def _read_places(tokens: list[str]) -> list[_Place] | None:
    """Every position phrase in reading order, or None where a word would have to be guessed at."""
    places: list[_Place] = []
    index = 0
    while index < len(tokens):
        zone, length = _zone_at(tokens, index)
        if zone:
            stop = _skip_near_center(tokens, index + length) if zone != "center" else index + length
            if _is_about_the_patient(tokens, index) or not _is_about_the_picture(tokens, stop):
                return None
            places.append(_Place(zone, index, stop))
            index = stop
        elif tokens[index] in _LEVELS or tokens[index] in _SIDES or tokens[index] in _DOUBTS:
            return None
        else:
            index += 1
    return places


def _zone_at(tokens: list[str], index: int) -> tuple[str, int]:
    """The zone that starts at a token and how many tokens name it; ("", 0) where none does."""
    first, second = tokens[index], tokens[index + 1] if index + 1 < len(tokens) else ""
    if first in _LEVELS and second in _SIDES:
        return f"{_LEVELS[first]}-{_SIDES[second]}", 2
    if first in _SIDES and second in _LEVELS:
        return f"{_LEVELS[second]}-{_SIDES[first]}", 2
    return ("center", 1) if first in _MIDDLES else ("", 0)


def _skip_near_center(tokens: list[str], index: int) -> int:
    """Where the text goes on after an optional "[and] near the center"."""
    rest = _next_word(tokens, index, _REGIONS)
    for optional in ({","}, {"and"}):
        rest += rest < len(tokens) and tokens[rest] in optional
    addition = " ".join(tokens[rest : rest + 4])
    match = re.match(r"(?:near|close to) (?:the )?(?:center|centre|middle)\b", addition)
    return rest + len(match.group().split()) if match else index


def _is_about_the_patient(tokens: list[str], index: int) -> bool:
    """Whether what comes before a position makes it one of the patient: "the patient's upper left"."""
    return tokens[max(index - 2, 0) : index] == ["patient", "s"] or tokens[max(index - 1, 0)] == _ELSEWHERE


def _is_about_the_picture(tokens: list[str], index: int) -> bool:
    """Whether what follows a position keeps it one of the picture: "of the image" does, "of the liver" does not."""
    index = _next_word(tokens, index, _REGIONS)
    if index == len(tokens) or not tokens[index].isalpha() or tokens[index] in _FOLLOWERS | _BREAKS:
        return True
    if tokens[index] in _NEGATIONS or tokens[index] in _LEVELS or tokens[index] in _SIDES or tokens[index] in _MIDDLES:
        return True  # judged by the rules on negation and on left-over words
    if tokens[index] not in _PREPOSITIONS:
        return False
    for word in tokens[index + 1 : index + 5]:
        if word in _PICTURES:
            return True
        if word in _PREPOSITIONS or not word.isalnum():
            return False
    return False


def _next_word(tokens: list[str], index: int, skip: frozenset[str]) -> int:
    while index < len(tokens) and tokens[index] in skip:
        index += 1
    return index


def _clauses(tokens: list[str]) -> list[tuple[int, int]]:
    """Half-open ranges of the clauses between full stops, semicolons and "but"; empty ones are left out."""
    bounds = [-1, *(index for index, token in enumerate(tokens) if token in _BREAKS), len(tokens)]
    return [(start + 1, stop) for start, stop in pairwise(bounds) if stop > start + 1]


def _states_absence(clause: list[str]) -> bool:
    if clause[:2] == ["no", ","]:
        clause = clause[2:]
    return _ABSENCE.fullmatch(" ".join(token for token in clause if token != ",")) is not None


def _split_at_denial(
    tokens: list[str], places: list[_Place], negations: list[int]
) -> tuple[list[_Place], list[_Place]]:
    """The places a clause states and those it denies with one "not in the ..."; two empty lists where it is unclear."""
    after = [place for place in places if place.start > negations[0]]
    before = [place for place in places if place.start < negations[0]]
    if len(negations) != 1 or tokens[negations[0]] != "not" or not after:
        return [], []
    between = tokens[negations[0] + 1 : after[0].start]
    if set(between) - {"in", "at", "on", "the"} or (before and tokens[negations[0] - 1] not in {",", "and"}):
        return [], []
    return before, after


def _counts_each(tokens: list[str], places: list[_Place]) -> bool:
    """Whether neighbouring places are told apart as separate findings ("and", "another"), not just set side by side."""
    for place, following in pairwise(places):
        gap = set(tokens[place.stop : following.start])
        if not gap & (_COUNTING if gap & _BREAKS else _JOINING):
            return False
    return True
