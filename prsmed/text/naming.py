"""Which thing a sentence names first: what an explanation is about."""

from __future__ import annotations

import re
from collections.abc import Iterable


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
