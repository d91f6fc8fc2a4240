"""What a report holds before it becomes Markdown or HTML: sections of sentences, tables, plots and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NOTHING = "\N{EN DASH}"


@dataclass(frozen=True)
class Cell:
    """One field of a table, or one figure of the headline.

    Attributes:
        text: what it says.
        interval: low and high end of the confidence interval, () where there is none.
        note: said smaller, below.
        kind: "text", "number", "pass", "fail" or "open"; the last three are verdicts.
    """

    text: str
    interval: tuple[str, ...] = ()
    note: str = ""
    kind: str = "number"


@dataclass(frozen=True)
class Table:
    """Rows of cells below one row of headers. The first cell of a row names the row."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Plot:
    """A drawn figure: its path relative to the report, its caption, and its content in words."""

    path: str
    caption: str
    alt: str


@dataclass(frozen=True)
class CasePicture:
    """One answer as a picture.

    Attributes:
        path: of the PNG, relative to the report's folder.
        caption: what it shows, with the question and the sentence that was given.
        kind: "best", "worst" or "example".
        modality: of the image.
        dice: of the answer's mask, None where there is none.
    """

    path: str
    caption: str
    kind: str
    modality: str
    dice: float | None = None

    @property
    def score(self) -> str:
        """Modality and Dice in words."""
        return f"{self.modality}, Dice {number(self.dice)}"


@dataclass(frozen=True)
class Fold:
    """Tables that HTML shows only when asked."""

    title: str
    tables: tuple[Table, ...]


@dataclass(frozen=True)
class Section:
    """One part of the report. `anchor` is its name in links; pictures and points come with a title each."""

    anchor: str
    title: str
    texts: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = ()
    pictures: tuple[tuple[str, tuple[CasePicture, ...]], ...] = ()
    folds: tuple[Fold, ...] = ()
    points: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Page:
    """A whole report: title, notice, what was evaluated, the headline, and the sections."""

    title: str
    notice: str
    facts: tuple[tuple[str, str], ...]
    headline: tuple[tuple[str, Cell], ...]
    sections: tuple[Section, ...]


def number(value: float | None) -> str:
    """Counts as they are, scores with three digits, means of pixels with one; a dash for what was not measured."""
    if value is None:
        return NOTHING
    if isinstance(value, int):
        return str(value)
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def words(text: str) -> Cell:
    """A cell of text."""
    return Cell(text, kind="text")


def score(block: Mapping[str, Any] | None, name: str, *, note: str = "") -> Cell:
    """The value `name` of a block with its interval; a dash where block or value is missing."""
    block = block or {}
    value = block.get(name)
    ends = (block.get("intervals") or {}).get(name) or ()
    if value is None or None in ends:
        ends = ()
    return Cell(number(value), tuple(number(end) for end in ends), note)
