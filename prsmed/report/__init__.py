"""The report of an evaluation: Markdown, HTML and plots from scores.json and its rows."""

from __future__ import annotations

from prsmed.report.page import CasePicture
from prsmed.report.write import write_report

__all__ = ["CasePicture", "write_report"]
