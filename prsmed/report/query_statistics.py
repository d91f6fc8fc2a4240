"""What a manifest's questions are about: counts as JSON, and a figure like figure 4 of the MediSee paper."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prsmed.data.writers.atomic import replaced_whole, write_atomically
from prsmed.errors import DataError
from prsmed.report.plots import COLOURS, DPI, INK, plain_axes
from prsmed.types import QUERY_KINDS, QUERY_LENGTHS, Case

JSON_FILE, FIGURE_FILE = "statistics.json", "statistics.png"

_SHOWN = 40
_FREQUENT = 200
_MIN_LETTERS = 5
"""Of a word that is counted: shorter ones are mostly grammar."""


def write_statistics(cases: Sequence[Case], out: str | Path) -> dict[str, Any]:
    """Write statistics.json and statistics.png of the questions of some cases.

    Returns:
        The content of statistics.json.

    Raises:
        DataError: no case has a question, or a folder that cannot be written.
    """
    statistics = count_queries(cases)
    if not statistics["queries"]:
        raise DataError("no case has a question; make some with `prsmed data queries`")
    folder = Path(out)
    write_atomically(folder / JSON_FILE, json.dumps(statistics, indent=2, ensure_ascii=False) + "\n")
    with replaced_whole(folder / FIGURE_FILE) as part:
        draw_statistics(statistics).savefig(part, dpi=DPI, format="png")
    return statistics


def count_queries(cases: Sequence[Case]) -> dict[str, Any]:
    """Questions by split, kind and length, by class, and by word.

    Returns:
        `images`, `images_with_queries`, `queries`, `distinct_questions` and `absent` (questions without a target) as
        counts; `splits` (split to kind to length to count); `classes` (name to images, masks' targets and questions,
        most questions first); `words_per_question` (number of words to count, by length); `words` (how many questions
        hold a word of five letters or more, the most frequent ones).
    """
    splits: dict[str, Any] = {}
    images: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    words: Counter[str] = Counter()
    lengths: dict[str, Counter[int]] = {length: Counter() for length in QUERY_LENGTHS}
    questions, absent = set(), 0
    for case in cases:
        names = {target.id: target.name for target in case.targets}
        images.update(set(names.values()))
        for query in case.queries:
            kinds = splits.setdefault(case.split or "", {})
            by_length = kinds.setdefault(query.kind, dict.fromkeys(QUERY_LENGTHS, 0))
            by_length[query.length] += 1
            asked.update({names[target_id] for target_id in query.target_ids})
            absent += not query.target_ids
            found = re.findall(r"[\w'-]+", query.question.casefold())
            lengths[query.length][len(found)] += 1
            words.update({word for word in found if len(word) >= _MIN_LETTERS})
            questions.add(query.question.casefold())
    return {
        "images": len(cases),
        "images_with_queries": sum(bool(case.queries) for case in cases),
        "queries": sum(asked_by_length.total() for asked_by_length in lengths.values()),
        "distinct_questions": len(questions),
        "absent": absent,
        "splits": splits,
        "classes": {
            name: {"images": images[name], "queries": asked[name]}
            for name in sorted(images, key=lambda name: (-asked[name], name))
        },
        "words_per_question": {length: dict(sorted(counter.items())) for length, counter in lengths.items()},
        "words": dict(sorted(words.items(), key=lambda item: (-item[1], item[0]))[:_FREQUENT]),
    }


def draw_statistics(statistics: Mapping[str, Any]) -> Figure:
    """Four panels: classes by images and questions, kinds by length, words per question, the most frequent words."""
    classes = dict(list(statistics["classes"].items())[:_SHOWN])
    words = dict(list(statistics["words"].items())[:_SHOWN])
    figure = Figure(figsize=(13, 2.5 + 0.22 * max(len(classes), len(words))), layout="constrained")
    grid = figure.add_gridspec(2, 3, width_ratios=(1.3, 1, 1))
    left, right = figure.add_subplot(grid[:, 0]), figure.add_subplot(grid[:, 2])
    _bars(left, {name: counts["queries"] for name, counts in classes.items()}, "questions")
    left.set_yticks(range(len(classes)), [f"{name} ({counts['images']} images)" for name, counts in classes.items()])
    _bars(right, words, "questions with the word")
    kinds = figure.add_subplot(grid[0, 1])
    rows = [(kind, length) for kind in QUERY_KINDS for length in QUERY_LENGTHS]
    per_kind = {
        f"{kind}, {length}": total
        for kind, length in rows
        if (total := sum(split.get(kind, {}).get(length, 0) for split in statistics["splits"].values()))
    }
    _bars(kinds, per_kind, "questions")
    histogram = figure.add_subplot(grid[1, 1])
    for length, colour in zip(QUERY_LENGTHS, COLOURS.values(), strict=True):
        counts = statistics["words_per_question"][length]
        histogram.bar(list(counts), list(counts.values()), width=1, color=colour, alpha=0.6, label=length)
    histogram.legend(frameon=False)
    plain_axes(histogram, xlabel="words in a question")
    figure.suptitle(f"{statistics['queries']} questions on {statistics['images_with_queries']} images", color=INK)
    return figure


def _bars(axes: Axes, counts: Mapping[str, int], label: str) -> None:
    axes.barh(range(len(counts)), list(counts.values()), color=COLOURS["organ"])
    axes.set_yticks(range(len(counts)), list(counts))
    axes.invert_yaxis()
    plain_axes(axes, xlabel=label)
