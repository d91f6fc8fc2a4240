"""The figures of a report, drawn without pyplot so that nothing outlives the drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prsmed.metrics.rows import ScoreRow
from prsmed.report.page import Plot, number
from prsmed.types import TARGET_KINDS, ZONES

DPI = 110
INK, MUTED, GRID = "#1f2933", "#5f6c7b", "#dfe4ea"
COLOURS = {"lesion": "#b4532a", "organ": "#2f6690"}


def draw_plots(folder: Path, content: Mapping[str, Any], rows: Sequence[ScoreRow]) -> dict[str, Plot]:
    """Draw what there is data for into folder/plots.

    Args:
        folder: of the report.
        content: of scores.json.
        rows: one per answer.

    Returns:
        By name, of "dice", "confusion" and "reliability" those that were drawn.
    """
    position = content.get("position") or {}
    drawn = {
        "dice": draw_dice(rows),
        "confusion": draw_confusions({"all": position.get("overall"), **(position.get("modalities") or {})}),
        "reliability": draw_reliability((content.get("calibration") or {}).get("bins") or []),
    }
    plots = {}
    for name, found in drawn.items():
        if found:
            figure, caption, alt = found
            path = folder / "plots" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=DPI)
            plots[name] = Plot(f"plots/{name}.png", caption, alt)
    return plots


def draw_dice(rows: Sequence[ScoreRow]) -> tuple[Figure, str, str] | None:
    """Dice of each image with the target: one strip and box per modality and kind. No probes."""
    rows = [row for row in rows if row.present and not row.probe]
    groups = {
        (modality, kind): values
        for modality in sorted({row.modality for row in rows})
        for kind in TARGET_KINDS
        if (values := [row.mask.dice for row in rows if (row.modality, row.kind) == (modality, kind)])
    }
    if not groups:
        return None
    figure = Figure(figsize=(8, 0.8 + 0.5 * len(groups)), layout="constrained")
    axes = figure.add_subplot()
    random = np.random.default_rng(0)
    for height, ((_, kind), values) in enumerate(groups.items()):
        spread = height + random.uniform(-0.24, 0.24, len(values))
        axes.scatter(values, spread, s=9, color=COLOURS[kind], alpha=0.45, linewidths=0)
    boxes = axes.boxplot(
        list(groups.values()), positions=range(len(groups)), orientation="horizontal", widths=0.6, showfliers=False
    )
    for line in (line for lines in boxes.values() for line in lines):
        line.set(color=INK, linewidth=1.1)
    axes.set_yticks(
        range(len(groups)), [f"{name} {kind}s (n {len(values)})" for (name, kind), values in groups.items()]
    )
    axes.invert_yaxis()
    plain_axes(axes, xlabel="Dice")
    axes.set_xlim(-0.02, 1.02)
    axes.grid(axis="x", color=GRID)
    medians = ", ".join(f"{name} {kind}s {number(float(np.median(v)))}" for (name, kind), v in groups.items())
    caption = "Dice of every image with the target: a point per answer, quartiles as a box, the median as its line"
    return figure, caption, f"Distribution of Dice. Medians: {medians}."


def draw_confusions(blocks: Mapping[str, Any]) -> tuple[Figure, str, str] | None:
    """One small matrix per modality: true zone by zone named, counts, shaded by share of the row."""
    matrices = {name: block["confusion"] for name, block in blocks.items() if (block or {}).get("confusion")}
    if not matrices:
        return None
    columns = min(4, len(matrices))
    lines = -(-len(matrices) // columns)
    figure = Figure(figsize=(1 + 2.5 * columns, 2.7 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat[len(matrices) :]:
        axes.set_axis_off()
    for place, (axes, (name, matrix)) in enumerate(zip(grid.flat, matrices.items(), strict=False)):
        n = _draw_matrix(axes, matrix, first_column=place % columns == 0)
        axes.set_title(f"{name} (n {n})", fontsize=10, color=INK)
    caption = (
        "Rows: true zone. Columns: zone named in the sentence. Numbers are counts, the shade is the share of the row"
    )
    right = [f"{name} {number(_share_right(matrix))}" for name, matrix in matrices.items()]
    return figure, caption, f"Confusion matrices. Share on the diagonal: {', '.join(right)}."


def _draw_matrix(axes: Axes, matrix: Mapping[str, Any], *, first_column: bool) -> int:
    labels = matrix["labels"]
    shown = [index for index, counts in enumerate(matrix["rows"]) if labels[index] in ZONES or any(counts)]
    counts = np.array([matrix["rows"][index] for index in shown])
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if share[row, column] > 0.55 else INK
            axes.text(column, row, str(count), ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(labels)), labels, rotation=40, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(len(shown)), [labels[index] for index in shown] if first_column else [], fontsize=8)
    axes.tick_params(length=0, colors=MUTED)
    axes.spines[:].set_color(GRID)
    return int(counts.sum())


def _share_right(matrix: Mapping[str, Any]) -> float | None:
    counts = np.array(matrix["rows"])
    return float(np.trace(counts) / counts.sum()) if counts.sum() else None


def draw_reliability(bins: Sequence[Mapping[str, Any]]) -> tuple[Figure, str, str] | None:
    """Share of images that show the target against the stated probability, with the number of images below."""
    filled = [part for part in bins if part["n"]]
    if not filled:
        return None
    figure = Figure(figsize=(4.6, 4.8), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    stated, seen = [[part[name] for part in filled] for name in ("mean_prob", "share_present")]
    above.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--")
    above.plot(stated, seen, color=COLOURS["organ"], linewidth=1.5, marker="o", markersize=5)
    plain_axes(above, ylabel="Share that shows the target")
    above.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    above.grid(color=GRID)
    middles = [(part["lower"] + part["upper"]) / 2 for part in filled]
    widths = [0.9 * (part["upper"] - part["lower"]) for part in filled]
    below.bar(middles, [part["n"] for part in filled], widths, color=COLOURS["organ"], alpha=0.6)
    plain_axes(below, xlabel="Stated probability that the target is visible", ylabel="n")
    points = ", ".join(f"{number(x)} stated, {number(y)} seen" for x, y in zip(stated, seen, strict=True))
    caption = "Reliability of the presence probability: on the dashed line it means what it says"
    return figure, caption, f"Reliability diagram. {points}."


def plain_axes(axes: Axes, *, xlabel: str = "", ylabel: str = "") -> None:
    """Labels and quiet lines: how every plot of a report looks."""
    axes.set_xlabel(xlabel, color=INK)
    axes.set_ylabel(ylabel, color=INK)
    axes.tick_params(length=0, colors=INK, labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[:].set_color(GRID)
    axes.set_axisbelow(True)
