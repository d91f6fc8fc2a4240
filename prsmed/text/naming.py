"""Which thing a sentence names first: what an explanation is about."""

from __future__ import annotations

import re
from collections.abc import Iterable

from prsmed.text.grammar import plural

LESION_WORDS = re.compile(
    r"\b(?:abnormal|abscess|adenoma|aneurysm|anomal|bleed|calcification|calcul|cancer|carcinom|consolidat|cyst|effusion"
    r"|embol|enhancing|fractur|glioma|ha?emorrh|ha?ematom|hernia|infarct|infect|infiltrat|inflam|ischa?emi|keratosis"
    r"|lesion|mass(?:es)?\b|melanoma|metasta|necro|nev(?:us|i)\b|nodul|o?edema|opacit|patholog|plaque|pneumon"
    r"|pneumothora|polyp|schwannoma|stone|thromb|tumou?r|ulcer)"
)
"""Begins of words for what may be wrong with a part of the body: a question with one is not about the part as such."""


def sentences(text: str) -> list[str]:
    """The sentences of a text, with their marks."""
    return re.split(r"(?<=[.;?!])(?<!vs\.)(?<!dr\.)(?<!no\.)\s+(?=\S)", text.strip())


def asking_sentence(question: str) -> str:
    """The sentence that asks: the last one with a question mark, else the last one; the rest tells a history."""
    told = sentences(question)
    return next((sentence for sentence in reversed(told) if sentence.endswith("?")), told[-1])


def first_named(sentence: str, names: Iterable[str]) -> str | None:
    """The known name, in one or several, that occurs first as whole words, the longest that begins there, or None.

    "This is the left kidney: it lies beside the aorta" is about the left kidney.
    """
    known = {form: name for name in names for form in (plural(name.casefold()), name.casefold())}
    either = "|".join(re.escape(name) for name in sorted(known, key=len, reverse=True))
    found = re.search(rf"\b(?:{either})\b", sentence.casefold()) if known else None
    return known[found[0]] if found else None
