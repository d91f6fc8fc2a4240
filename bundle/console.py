"""The table of scores at the end of a validation or an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from prsmed.types import NOT_A_MEDICAL_DEVICE

_LEAST_WIDTH = 120


def print_scores(content: Mapping[str, Any], *, title: str) -> None:
    """One line per modality and kind; the constant baseline and the gates beside the model, where they were run."""
    baseline = content.get("baselines", {}).get("constant")
    table = Table(title=escape(title))
    for heading in ("", "n", "Dice", "IoU", "zone accuracy (n)", "kappa", "constant Dice", "constant zone"):
        table.add_column(heading, justify="left" if not heading else "right")
    others = dict(_blocks(baseline)) if baseline else {}
    for name, block in _blocks(content):
        other = others.get(name, {})
        table.add_row(
            name,
            str(block["n"]),
            _number(block["dice"]),
            _number(block["iou"]),
            f"{_number(block['zone_accuracy'])} ({block['zone_n']})",
            _number(block["zone_kappa"]),
            _number(other.get("dice")),
            _number(other.get("zone_accuracy")),
        )
    console = Console()
    console.width = max(console.width, _LEAST_WIDTH)
    console.print(table)
    overall = content["overall"]
    console.print(f"headline, macro lesion Dice: {_with_interval(overall, 'macro_lesion_dice')}")
    for name, block in (("model", content), ("constant", baseline)):
        if block:
            console.print(f"{name}: {_negatives(block)}")
    if gates := content.get("gates"):
        marks = {True: "pass", False: "FAIL", None: "no case"}
        told = [f"{name} {marks[gate['passed']]} ({_number(gate['value'])})" for name, gate in gates.items()]
        console.print(f"gates: {', '.join(told)}")
    console.print(NOT_A_MEDICAL_DEVICE, style="italic")


def _negatives(content: Mapping[str, Any]) -> str:
    seen = content["negatives"]
    return (
        f"{seen['n']} images without the target: specificity {_number(seen['specificity'])} by sentence,"
        f" {_number(seen['specificity_presence'])} by the presence head; {seen['n_positive']} with it: false"
        f" 'not visible' {_number(seen['false_none'])} and {_number(seen['false_none_presence'])};"
        f" contradictions {_number(content['overall']['contradiction_rate'])}"
    )


def _blocks(content: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    rows = []
    for modality, scores in content["modalities"].items():
        rows += [(f"{modality} {kind}", scores[kind]) for kind in ("lesions", "organs") if scores[kind]["n"]]
    rows += [(kind, content[kind]) for kind in ("lesions", "organs") if content[kind]["n"]]
    return [*rows, ("overall", content["overall"])]


def _with_interval(block: Mapping[str, Any], name: str) -> str:
    low_high = block.get("intervals", {}).get(name)
    return _number(block[name]) + (f" [{low_high[0]:.3f}, {low_high[1]:.3f}]" if low_high else "")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
