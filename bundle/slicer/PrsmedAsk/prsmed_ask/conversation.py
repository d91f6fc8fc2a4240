"""What the module shows: an answer as plain lines, and the questions asked so far."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from typing import Any

_UNKNOWN = "unknown"


@dataclass
class Conversation:
    """Questions and answers about one image, oldest first."""

    turns: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def add(self, question: str, params: dict[str, Any]) -> None:
        """Remember an answer."""
        self.turns.append((question, params))

    def lines(self) -> list[str]:
        """One line for each question, newest first."""
        return [f"{question}  ->  {params.get('answer', '')}" for question, params in reversed(self.turns)]


def segment_name(params: dict[str, Any]) -> str:
    """The name of the segment that shows an answer; a colon and the sentence are cut to what fits a list."""
    return next(iter(params.get("label_names") or {}), "nothing visible")


def new_segments(ids: Iterable[str], earlier_ids: Container[str]) -> list[str]:
    """The segments of the last question: those that were not there when its answer came."""
    return [segment_id for segment_id in ids if segment_id not in earlier_ids]


def answer_lines(params: dict[str, Any]) -> list[str]:
    """The sentence, where each finding lies, and whatever does not agree. Nothing is added to what the server says."""
    lines = [str(params.get("answer", ""))]
    if params.get("present") is False:
        lines.append("Nothing is marked: the label map is empty. This is no finding of health.")
    lines += [f"Finding {number}: {finding_line(one)}" for number, one in enumerate(params.get("findings") or (), 1)]
    lines += [f"Disagreement: {text}" for text in params.get("contradictions") or ()]
    lines += [f"Note: {text}" for text in params.get("warnings") or ()]
    if params.get("notice"):
        lines.append(str(params["notice"]))
    return lines


def finding_line(finding: dict[str, Any]) -> str:
    """One finding: its zone in the picture, and its place in the patient where the file states it."""
    parts = [f"{finding.get('zone', _UNKNOWN)} of the picture"]
    in_patient = [
        words
        for key, words in (
            ("patient_side", "patient's {}"),
            ("ap", "{}"),
            ("si", "{}"),
        )
        for value in [finding.get(key, _UNKNOWN)]
        if value not in (_UNKNOWN, None, "")
        for words in [words.format(value)]
    ]
    parts.append(", ".join(in_patient) if in_patient else "side of the patient unknown")
    if finding.get("volume_ml") is not None:
        parts.append(f"{finding['volume_ml']:.3g} ml")
    elif finding.get("area_mm2") is not None:
        parts.append(f"{finding['area_mm2']:.0f} mm2")
    if finding.get("key_slice") is not None:
        parts.append(f"largest in slice {finding['key_slice']}")
    if finding.get("border_ambiguous"):
        parts.append("near the border of its zone")
    return "; ".join(parts)
