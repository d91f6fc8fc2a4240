"""The little English the sentences need: number, counts, and the names of the modalities."""

from __future__ import annotations

import re

from prsmed.types import MODALITIES

MODALITY_WORDS = dict(zip(MODALITIES, ("CT", "MRI", "X-ray", "ultrasound", "endoscopy", "dermoscopy"), strict=True))
SINGULAR = {"is": "is", "does": "does", "s": "s", "it": "it"}
PLURAL = {"is": "are", "does": "do", "s": "", "it": "they"}

_COUNTS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_SINGULAR_ENDINGS = ("ss", "us", "is", "as", "lens", "pons")


def is_plural(name: str) -> bool:
    """Whether a target's name takes a plural verb ("lungs", but not "pancreas" or "brain metastasis")."""
    return " and " in name or (name.endswith(("s", "vertebrae")) and not name.endswith(_SINGULAR_ENDINGS))


def plural(name: str) -> str:
    """The name for more than one: "polyps", "lung opacities", "brain metastases"; plural names stay as they are."""
    if is_plural(name):
        return name
    if name.endswith("sis"):
        return name[:-2] + "es"
    if re.search(r"[^aeiou]y$", name):
        return name[:-1] + "ies"
    return name + ("es" if name.endswith(("s", "x", "z", "ch", "sh")) else "s")


def count_word(count: int) -> str:
    """A count in words up to twelve, in digits above."""
    return _COUNTS[count] if count < len(_COUNTS) else str(count)
