"""The report of one evaluation as a folder that can be moved: report.html, report.md and plots/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from prsmed.errors import DataError
from prsmed.metrics.rows import ScoreRow
from prsmed.report.page import CasePicture, Page
from prsmed.report.plots import draw_plots
from prsmed.report.sections import build_page

_MARKUP = str.maketrans({"&": "&amp;", "<": "&lt;", **{mark: f"\\{mark}" for mark in "\\|`*[]"}})


def write_report(
    folder: Path, content: Mapping[str, Any], rows: Sequence[ScoreRow], pictures: Sequence[CasePicture]
) -> list[Path]:
    """Write report.html, report.md and plots/*.png into `folder`.

    Args:
        folder: of the evaluation. Made where it does not exist.
        content: of scores.json (schema_version 2). Blocks may be missing or None; their parts are left out.
        rows: the scored answers, for the distributions.
        pictures: of single answers, already written below `folder`.

    Returns:
        The written files, report.html first.

    Raises:
        DataError: a picture is not below the folder.
    """
    for picture in pictures:
        if not (folder / picture.path).is_file():
            raise DataError(f"report: {picture.path} is not in {folder}; write the pictures before the report")
    folder.mkdir(parents=True, exist_ok=True)
    plots = draw_plots(folder, content, rows)
    page = build_page(content, plots, pictures)
    written = [folder / "report.html", folder / "report.md"]
    for file, text in zip(written, (html_of(page), markdown_of(page)), strict=True):
        file.write_text(text, encoding="utf-8")
    return [*written, *(folder / plot.path for plot in plots.values())]


def html_of(page: Page) -> str:
    """One page without scripts; every text is escaped."""
    return _environment(autoescape=True).get_template("report.html.j2").render(page=page)


def markdown_of(page: Page) -> str:
    """The same in GitHub's Markdown; every text is kept on its line and without markup."""
    environment = _environment(finalize=lambda value: " ".join(str(value).split()).translate(_MARKUP))
    return environment.get_template("report.md.j2").render(page=page)


def _environment(**options: Any) -> Environment:
    loader = PackageLoader("prsmed", "report")
    return Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, **options)
