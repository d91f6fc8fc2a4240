"""Run a table of the paper on any preset: its rows at equal budget and seeds, and their scores with intervals.

python -m scripts.run_table causal --preset tiny --seeds 0,1,2 --max-epochs 11 --out runs/causal

Each row is an overlay, written to the output folder: the training can be repeated by hand from it. A row and seed that
are already scored are not run again.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from monai.bundle import ConfigParser
from rich.console import Console
from rich.table import Table
from scipy import stats

from prsmed.models.meta import network_on_meta

ROOT = Path(__file__).resolve().parents[1]
Overlay = dict[str, Any]
Row = Callable[[Overlay, list[str]], Overlay]
METRICS = {"zone accuracy": "zone_accuracy", "Dice": "dice", "IoU": "iou"}


def _patterns(entry: dict[str, Any], parts: list[str]) -> list[str]:
    """A stage's patterns with `*` spelled out, the language model apart from its projector."""
    return [own for pattern in entry["trainable"] for own in (parts if pattern == "*" else [pattern])]


def _stages(settings: Overlay, parts: list[str], keep: Callable[[str], bool]) -> list[dict[str, Any]]:
    """The preset's stages without the patterns that are not kept; a stage that is left with none goes to the others."""
    kept = [
        {**entry, "trainable": [pattern for pattern in _patterns(entry, parts) if keep(pattern)]}
        for entry in settings["stages"]
    ]
    kept = [entry for entry in kept if entry["trainable"]]
    whole = sum(entry["share"] for entry in kept)
    return [{**entry, "share": entry["share"] / whole} for entry in kept]


def _is_language(pattern: str) -> bool:
    return pattern.startswith("language.model")


def frozen_language(settings: Overlay, parts: list[str]) -> Overlay:
    """The language model keeps its first weights; all around it learns."""
    return {"stages": _stages(settings, parts, lambda pattern: not _is_language(pattern))}


def words_only(settings: Overlay, parts: list[str]) -> Overlay:
    """The language model (its adapters, where it has a base) learns from words alone: no mask is trained or shown."""
    weights = {name: weight if name == "ce" else 0.0 for name, weight in settings["loss_weights"].items()}
    return {
        "stages": _stages(settings, parts, lambda pattern: pattern.startswith("language.")),
        "loss_weights": weights,
    }


def as_preset(settings: Overlay, parts: list[str]) -> Overlay:
    """Language model and segmentation learn together."""
    return {"stages": settings["stages"]}


def frozen_encoder(settings: Overlay, parts: list[str]) -> Overlay:
    """The segmentation encoder keeps its first weights."""
    return {"stages": _stages(settings, parts, lambda pattern: not pattern.startswith("encoder."))}


def learning_encoder(settings: Overlay, parts: list[str]) -> Overlay:
    """The segmentation encoder learns in the last stage, and no features are kept."""
    stages = _stages(settings, parts, lambda pattern: True)
    last = list(dict.fromkeys(["encoder.*", *stages[-1]["trainable"]]))
    return {"stages": [*stages[:-1], {**stages[-1], "trainable": last}], "feature_cache": None, "views": None}


TABLES: dict[str, dict[str, Row]] = {
    "causal": {
        "language model frozen": frozen_language,
        "language model learns, no segmentation": words_only,
        "language model and segmentation": as_preset,
    },
    "encoder": {"encoder frozen": frozen_encoder, "encoder learns": learning_encoder},
}
"""PRS-Med, section 7.2 (does segmentation help reasoning?) and table 4. For the encoders and language models of tables
4 and 5 give their presets with --preset: llava_med_7b, llava_med_7b_medsam, llava_1_5_7b, llava_1_6_mistral_7b."""


def row_overlays(table: str, preset: str, config_files: Sequence[str]) -> dict[str, Overlay]:
    """The overlay of each row of a table, for a preset and the configs it trains with."""
    parser = ConfigParser()
    parser.read_config(list(config_files))
    settings = parser.get()
    parts = sorted(
        {f"{name.split('.')[0]}.*" for name, _ in network_on_meta("prs_med", preset).named_parameters()}
        - {"language.*"}
    )
    inside = {
        name.split(".")[1] for name, _ in network_on_meta("prs_med", preset).named_parameters() if "language." in name
    }
    parts += [f"language.{name}.*" for name in sorted(inside)]
    return {name: row(settings, parts) for name, row in TABLES[table].items()}


def run_row(name: str, seed: int, *, configs: Sequence[str], runs_dir: Path, overrides: Overlay) -> dict[str, Any]:
    """Train one row with one seed, unless it is done, and give its test scores."""
    scores = runs_dir / name / "test" / "scores.json"
    if not scores.is_file():
        settings = {**overrides, "seed": seed, "run_name": name, "runs_dir": str(runs_dir)}
        options = [word for key, value in settings.items() for word in (f"--{key}", _as_word(value))]
        command = ["-m", "monai.bundle", "run", "training", "--config_file", str(list(configs)), *options]
        with (runs_dir / f"{name}.log").open("w", encoding="utf-8") as log:
            subprocess.run([sys.executable, *command], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=True)
    return json.loads(scores.read_text(encoding="utf-8"))


def _as_word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean over seeds and its 95 % interval by Student's t; of one seed the interval is unknown (NaN)."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan, math.nan
    spread = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)
    return mean, mean - spread, mean + spread


def cell(values: Sequence[float]) -> str:
    """A mean and its interval as shown; of one seed it says so."""
    mean, low, high = interval(values)
    return f"{mean:.3f} (one seed)" if len(values) < 2 else f"{mean:.3f} ({low:.3f} to {high:.3f})"


def main(
    table: Annotated[str, typer.Argument(help=f"One of {', '.join(TABLES)}.")],
    out: Annotated[Path, typer.Option(help="Folder for overlays, runs and table.json.")],
    preset: Annotated[str, typer.Option(help="The preset all rows are run on.")] = "tiny",
    seeds: Annotated[str, typer.Option(help="Seeds, with commas between.")] = "0,1,2",
    max_epochs: Annotated[int | None, typer.Option(help="Budget of every row; default: the preset's.")] = None,
    dataset_dir: Annotated[str | None, typer.Option(help="Data folder; default: phantoms.")] = None,
) -> None:
    """Run the rows of TABLE and print their scores."""
    if table not in TABLES:
        raise typer.BadParameter(f"{table}; choose one of {', '.join(TABLES)}")
    out.mkdir(parents=True, exist_ok=True)
    overlay = ROOT / "configs" / f"preset_{preset}.json"
    configs = [str(ROOT / "configs" / "train.json"), *([str(overlay)] if overlay.is_file() else [])]
    overrides: Overlay = {"preset": preset, "max_epochs": max_epochs, "dataset_dir": dataset_dir}
    overrides = {key: value for key, value in overrides.items() if value is not None}
    results: dict[str, dict[str, list[float]]] = {}
    for index, (title, content) in enumerate(row_overlays(table, preset, configs).items()):
        path = out.resolve() / f"{table}-{index}.json"
        path.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
        scores = [
            run_row(
                f"{table}-{index}-seed{seed}", seed, configs=[*configs, str(path)], runs_dir=out, overrides=overrides
            )
            for seed in map(int, seeds.split(","))
        ]
        results[title] = {label: [one["overall"][key] for one in scores] for label, key in METRICS.items()}
    (out / "table.json").write_text(json.dumps({"preset": preset, "rows": results}, indent=1) + "\n", encoding="utf-8")
    shown = Table("row", *(f"{label} (95 % over seeds)" for label in METRICS))
    for title, values in results.items():
        masks = TABLES[table][title] is not words_only
        shown.add_row(title, *(cell(values[label]) if masks or label == "zone accuracy" else "-" for label in METRICS))
    Console(width=140).print(shown)


if __name__ == "__main__":
    typer.run(main)
