"""Question and answer sentences: a bank of templates, and the deterministic sentence made from findings.

Position words are always about the picture ("of the image"). Every sentence the bank can write is readable by the
strict parser: a template that is not is refused when the file is loaded.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from prsmed.errors import DataError, RequestError
from prsmed.text.grammar import MODALITY_WORDS, PLURAL, SINGULAR, count_word, is_plural, plural
from prsmed.text.parse import parse_position
from prsmed.text.patient import patient_remark, patient_words
from prsmed.types import MODALITIES, SPLITS, ZONES, Finding

TEMPLATES_PATH = Path(__file__).with_name("templates.json")
SCHEMA_VERSION = 1
LETTERS = "ABCDE"

_SPLITS_IN_FILE = ("train", "test")
_OTHER_KINDS = ("negative", "several", "many", "choice")
_SLOTS_OF_ALL = {"target", "targets", "modality", *SINGULAR}
_REQUIRED_SLOTS = {
    "question": {"target"},
    "answer": {"position"},
    "negative": {"target"},
    "several": {"count", "positions"},
    "many": {"count", "position"},
    "choice": {"target", "options"},
}
_RULE_SENTENCES = {
    "answer": "The {target} {is} in the {position} of the image{details}.",
    "negative": "No {target} {is} visible in this image.",
    "several": "There are {count} {targets}: {positions} of the image.",
    "many": "There are {count} {targets}; the largest is in the {position} of the image{details}.",
}

T = TypeVar("T")


class Rng(Protocol):
    """What is asked of a random generator: `numpy.random.Generator` and `random.Random` both have it."""

    def random(self) -> float:
        """A number in [0, 1)."""


@dataclass(frozen=True)
class Turn:
    """A question and the id of the template pair that also holds its answer."""

    template_id: str
    question: str


@dataclass(frozen=True)
class ChoiceTurn:
    """A multiple-choice question on position: `options` are zones in the order of the letters, `answer` one letter."""

    template_id: str
    question: str
    options: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class SplitTemplates:
    """The sentences of one split; `pairs` are (question, answer)."""

    pairs: tuple[tuple[str, str], ...]
    negative: tuple[str, ...]
    several: tuple[str, ...]
    many: tuple[str, ...]
    choice: tuple[str, ...]


@dataclass(frozen=True)
class TemplateBank:
    """Templates by split ("train", "test"; validation asks the test questions) and position phrases by zone."""

    splits: Mapping[str, SplitTemplates]
    positions: Mapping[str, tuple[str, ...]]

    @classmethod
    def load(cls, path: Path | None = None) -> TemplateBank:
        """Read and check a template file; by default the package's own.

        Raises:
            DataError: the file is missing or no JSON, a slot is missing or unknown, a question is in both splits, or
                the strict parser cannot read a sentence.
        """
        path = Path(path or TEMPLATES_PATH)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"{path}: cannot read the templates ({error.strerror}); check the path") from error
        except ValueError as error:
            raise DataError(f"{path}: not valid UTF-8 JSON ({error}); compare it with {TEMPLATES_PATH.name}") from error
        bank = _read_bank(content, path)
        _check_bank(bank, path)
        return bank

    def questions(self, split: str) -> list[str]:
        """All questions that a split may be asked, with their slots; RequestError for an unknown split."""
        return [question for question, _ in self.splits[_split_in_file(split)].pairs]

    def question(self, split: str, *, target: str, modality: str | None, rng: Rng) -> Turn:
        """A random question of a split about a target; without a modality the image is just "image".

        Raises:
            RequestError: unknown split or modality, or an empty target name.
        """
        name = _split_in_file(split)
        index, (question, _) = _pick(list(enumerate(self.splits[name].pairs)), rng)
        return Turn(f"{name}-{index + 1:02d}", _fill(question, target=target, modality=modality))

    def answer(
        self,
        template_id: str,
        *,
        target: str,
        findings: Sequence[Finding],
        modality: str | None = None,
        max_described: int = 2,
        rng: Rng | None = None,
    ) -> str:
        """The true answer to a question of `question`, from the findings (largest first; none is a negative).

        One finding is described by the pair's own answer, others by the split's sentences for none, several (up to
        `max_described`) and many (counted, the largest described). Without `rng` the first phrasing is taken.

        Raises:
            RequestError: unknown template id or modality, or an empty target name.
        """
        name, _, number = template_id.partition("-")
        templates = self.splits.get(name)
        if templates is None or not number.isdecimal() or not 1 <= int(number) <= len(templates.pairs):
            raise RequestError(f"template {template_id!r} is unknown; use the id of a turn from question()")
        sentences = {
            "answer": templates.pairs[int(number) - 1][1],
            "negative": _pick(templates.negative, rng),
            "several": _pick(templates.several, rng),
            "many": _pick(templates.many, rng),
        }
        phrases = [_pick(self.positions[finding.zone], rng) for finding in findings]
        return _state(sentences, findings, phrases, target=target, modality=modality, max_described=max_described)

    def choice(
        self, split: str, *, target: str, modality: str | None, findings: Sequence[Finding], rng: Rng
    ) -> ChoiceTurn:
        """A multiple-choice question on the position of the only finding: the five zones, shuffled, one letter each.

        Raises:
            RequestError: there is not exactly one finding; unknown split or modality, or an empty target name.
        """
        if len(findings) != 1:
            raise RequestError(
                f"a choice question about {target!r} needs one finding, got {len(findings)}; skip this case"
            )
        name = _split_in_file(split)
        index, sentence = _pick(list(enumerate(self.splits[name].choice)), rng)
        options = tuple(sorted(ZONES, key=lambda zone: rng.random()))
        listed = ", ".join(
            f"({letter}) {zone.replace('-', ' ')}" for letter, zone in zip(LETTERS, options, strict=True)
        )
        question = _fill(sentence, target=target, modality=modality, options=listed)
        return ChoiceTurn(f"{name}-choice-{index + 1}", question, options, LETTERS[options.index(findings[0].zone)])


def rule_text(
    findings: Sequence[Finding],
    *,
    target: str,
    modality: str | None = None,
    max_described: int = 2,
    side_expected: bool = False,
) -> str:
    """The one plain sentence that states the findings (largest first), always the same for the same findings.

    Where the findings know it, the place in the patient and the size follow the place in the picture: "The brain tumour
    is in the top left of the image: the patient's right, anterior, about 23 x 18 mm." An X-ray's size is not said.

    Args:
        side_expected: add a sentence where the patient's side is unknown (`prsmed.text.patient.expects_side`).

    Raises:
        RequestError: unknown modality or empty target name.
    """
    phrases = [finding.zone.replace("-", " ") for finding in findings]
    sentence = _state(
        _RULE_SENTENCES,
        findings,
        phrases,
        target=target,
        modality=modality,
        max_described=max_described,
        details=[_details(finding, modality) for finding in findings],
    )
    remark = patient_remark(described_findings(findings, max_described), side_expected=side_expected)
    return f"{sentence} {remark}".rstrip()


def _details(finding: Finding, modality: str | None) -> str:
    """Place in the patient and size, each where it is known: "the patient's right, about 23 x 18 mm"."""
    details = [patient_words(finding)]
    # an X-ray is magnified: its millimetres are usually those of the detector, not of the patient
    if finding.box_xyxy_mm is not None and modality != "x-ray":
        x0, y0, x1, y1 = finding.box_xyxy_mm
        details.append(f"about {max(1, round(x1 - x0))} x {max(1, round(y1 - y0))} mm")
    return ", ".join(filter(None, details))


def described_findings(findings: Sequence[Finding], max_described: int = 2) -> Sequence[Finding]:
    """The findings whose zones a sentence states: all of them up to `max_described`, else the largest (the first)."""
    return findings if len(findings) <= max_described else findings[:1]


def _state(
    sentences: Mapping[str, str],
    findings: Sequence[Finding],
    phrases: Sequence[str],
    *,
    target: str,
    modality: str | None,
    max_described: int,
    details: Sequence[str] = (),
) -> str:
    """Fill the sentence that fits the number of findings; `phrases` are their positions in words."""
    if not findings:
        return _fill(sentences["negative"], target=target, modality=modality)
    positions = [
        f"{phrase} near the center" if finding.central and finding.zone != "center" else phrase
        for finding, phrase in zip(findings, phrases, strict=True)
    ]
    of_largest = {"position": positions[0], "details": f": {details[0]}" if any(details[:1]) else ""}
    if len(findings) == 1:
        return _fill(sentences["answer"], target=target, modality=modality, **of_largest)
    count = count_word(len(findings))
    if len(findings) > max_described:
        return _fill(sentences["many"], target=target, modality=modality, count=count, **of_largest)
    for index, detail in enumerate(details):
        positions[index] += f" ({detail})" if detail else ""
    listed = ", ".join(f"one in the {position}" for position in positions[:-1])
    listed += f" and another in the {positions[-1]}"
    return _fill(sentences["several"], target=target, modality=modality, count=count, positions=listed)


def _fill(sentence: str, *, target: str, modality: str | None, **slots: str) -> str:
    """A sentence with its slots filled, its verbs in the target's number, and a capital at the start."""
    target = target.strip()
    if not target:
        raise RequestError("the target name is empty; name what is asked for, for example 'polyp'")
    if modality is None:
        sentence = sentence.replace("{modality} ", "")
    elif modality not in MODALITY_WORDS:
        raise RequestError(f"modality {modality!r} is unknown; choose one of {', '.join(MODALITIES)}")
    words = {
        **(PLURAL if is_plural(target) else SINGULAR),
        **slots,
        "target": target,
        "targets": plural(target),
        "modality": MODALITY_WORDS[modality] if modality else "image",
    }
    filled = sentence.format_map(words)
    return filled[0].upper() + filled[1:]


def _pick(items: Sequence[T], rng: Rng | None) -> T:
    return items[0] if rng is None else items[int(rng.random() * len(items))]


def _split_in_file(split: str) -> str:
    if split not in SPLITS:
        raise RequestError(f"split {split!r} is unknown; choose one of {', '.join(SPLITS)}")
    return "train" if split == "train" else "test"


def _read_bank(content: object, path: Path) -> TemplateBank:
    """The parts of a file's JSON, with their types checked."""
    if not isinstance(content, dict) or content.get("schema_version") != SCHEMA_VERSION:
        raise DataError(f"{path}: expected an object with schema_version {SCHEMA_VERSION}; see {TEMPLATES_PATH.name}")
    splits = {}
    for name in _SPLITS_IN_FILE:
        split = _section(content, name, path)
        pairs = _pairs_of(split, f"{path}: {name}")
        others = (_sentences(split.get(kind), f"{path}: {name}.{kind}") for kind in _OTHER_KINDS)
        splits[name] = SplitTemplates(pairs, *others)
    phrases = _section(content, "positions", path)
    return TemplateBank(splits, {zone: _sentences(phrases.get(zone), f"{path}: positions.{zone}") for zone in ZONES})


def _pairs_of(split: dict, where: str) -> tuple[tuple[str, str], ...]:
    """A split's `pairs`; or its `questions`, which one `answer` fits."""
    if "questions" in split and "pairs" in split:
        raise DataError(f"{where} has pairs and questions; give pairs, or questions with one answer")
    if "questions" in split:
        answer = _sentences([split.get("answer")], f"{where}.answer")[0]
        return tuple((question, answer) for question in _sentences(split["questions"], f"{where}.questions"))
    pairs = split.get("pairs")
    if not isinstance(pairs, list) or not pairs:
        raise DataError(f"{where}.pairs is {type(pairs).__name__}; expected a list of [question, answer]")
    read = [_sentences(pair, f"{where}.pairs[{index}]") for index, pair in enumerate(pairs)]
    for index, pair in enumerate(read):
        if len(pair) != 2:
            raise DataError(f"{where}.pairs[{index}] has {len(pair)} sentences; give [question, answer]")
    return tuple((question, answer) for question, answer in read)


def _section(parent: dict, key: str, path: Path) -> dict:
    if not isinstance(parent.get(key), dict):
        raise DataError(f"{path}: {key!r} is missing; expected an object as in {TEMPLATES_PATH.name}")
    return parent[key]


def _sentences(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) and item.strip() for item in value):
        raise DataError(f"{where} is {value!r:.80}; expected a list of at least one sentence")
    return tuple(value)


def _check_bank(bank: TemplateBank, path: Path) -> None:
    """Slots, leaks between the splits, and whether the strict parser reads what the bank would write."""
    asked: dict[str, set[str]] = {}
    for name, split in bank.splits.items():
        kinds = {
            "question": [question for question, _ in split.pairs],
            "answer": [answer for _, answer in split.pairs],
            **{kind: getattr(split, kind) for kind in _OTHER_KINDS},
        }
        for kind, sentences in kinds.items():
            for sentence in dict.fromkeys(sentences):
                where = f"{path}: {name} {kind} {sentence!r}"
                _check_slots(sentence, kind, where)
                if kind not in ("question", "choice"):
                    _check_readable(sentence, kind, bank.positions, where)
        asked[name] = {_words(question) for question in (*kinds["question"], *kinds["choice"])}
    leaked = asked["train"] & asked["test"]
    if leaked:
        raise DataError(f"{path}: {sorted(leaked)[0]!r} is a question of train and of test; drop it from one")


def _words(sentence: str) -> str:
    """A sentence without case and punctuation: what a reader would call the same sentence."""
    return " ".join(re.findall(r"\w+", sentence.casefold()))


def _check_slots(sentence: str, kind: str, where: str) -> None:
    try:
        used = {slot for _, slot, _, _ in string.Formatter().parse(sentence) if slot is not None}
    except ValueError as error:
        raise DataError(f"{where}: {error}; write slots as {{target}}") from error
    allowed = _SLOTS_OF_ALL | _REQUIRED_SLOTS[kind]
    missing, unknown = _REQUIRED_SLOTS[kind] - used, used - allowed
    if missing:
        raise DataError(f"{where}: slot {{{min(missing)}}} is missing; add it")
    if unknown:
        raise DataError(f"{where}: slot {{{min(unknown)}}} is unknown here; slots are {', '.join(sorted(allowed))}")


def _check_readable(sentence: str, kind: str, positions: Mapping[str, tuple[str, ...]], where: str) -> None:
    for zone, phrases in positions.items():
        for phrase in phrases:
            listed = f"one in the {phrase} and another in the {phrase}"
            text = _fill(sentence, target="finding", modality=None, position=phrase, positions=listed, count="two")
            expected = {"negative": (), "several": (zone, zone)}.get(kind, (zone,))
            if parse_position(text).zones != expected or parse_position(text).kind == "unreadable":
                raise DataError(
                    f"{where}: the strict parser does not read {text!r} as {expected}; word it more plainly"
                )
