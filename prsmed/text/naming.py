"""Which thing a sentence names first: what an explanation is about."""

from __future__ import annotations

import re
from collections.abc import Iterable

LESION_WORDS = re.compile(
    r"\b(?:abnormal|abscess|adenoma|aneurysm|anomal|bleed|calcification|calcul|cancer|carcinom|consolidat|covid|cyst|disease"
    r"|ed?ema|oedema|effusion|embol|enhancing|fractur|glioma|growth|ha?emorrh|ha?ematom|hernia|infarct|infect|infiltrat"
    r"|inflam|injur|ischa?emi|keratosis|lesion|mass(?:es)?\b|melanoma|metasta|necro|nev(?:us|i)\b|nodul|opacit|patholog"
    r"|plaque|pneumon|pneumothora|polyp|schwannoma|stone|stroke|thromb|tumou?r|ulcer)"
)
"""Begins of words for what may be wrong with a part of the body; names and questions without one are about the part."""


def first_named(sentence: str, names: Iterable[str]) -> str | None:
    """The known name that occurs first as whole words, the longest of those that begin there; None without any.

    "This is the left kidney: it lies beside the aorta" is about the left kidney.
    """
    known = {name.casefold(): name for name in names}
    if not known:
        return None
    either = "|".join(re.escape(name) for name in sorted(known, key=len, reverse=True))
    found = re.search(rf"\b(?:{either})\b", sentence.casefold())
    return known[found[0]] if found else None
