"""Run a table of the papers on any preset: its rows at equal budget and seeds, and their scores with intervals.

python -m scripts.run_table causal --preset tiny --seeds 0,1,2 --max-epochs 11 --out runs/causal

What all rows share and what each row changes are overlays, written to the output folder: a training can be repeated by
hand from them. A row and seed that are already scored are not run again, and one that was stopped goes on.
"""

from __future__ import annotations

import fnmatch
import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from monai.bundle import ConfigParser
from rich.console import Console
from rich.table import Table
from scipy import stats

from prsmed.models.meta import network_on_meta
from prsmed.models.presets import PRESETS, bases_of, sizes

ROOT = Path(__file__).resolve().parents[1]
Overlay = dict[str, Any]
Row = Callable[[Overlay, list[str]], Overlay]
Scores = dict[str, dict[str, list[float | None]]]
"""Of one row: by part of the test split ("all", "mri", ...) and column, one value per seed."""


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


def _words_alone(settings: Overlay) -> dict[str, float]:
    """The weights of a loss on words alone."""
    return {name: weight if name == "ce" else 0.0 for name, weight in settings["loss_weights"].items()}


def variant(suffix: str = "") -> Row:
    """The row of a network beside the preset's own, trained alike; without a suffix the preset itself."""
    return lambda settings, parts: {"preset": settings["preset"] + suffix}


def slower(settings: Overlay, parts: list[str]) -> Overlay:
    """All rates a third of the preset's."""
    groups = settings["optimizer"]["params"]
    row: Overlay = {"learning_rate": settings["learning_rate"] / 3}
    if isinstance(groups, dict):
        row["optimizer::params::lr_values"] = [rate / 3 for rate in groups["lr_values"]]
    return row


def frozen_language(settings: Overlay, parts: list[str]) -> Overlay:
    """The language model keeps its first weights; all around it learns."""
    return {"stages": _stages(settings, parts, lambda pattern: not _is_language(pattern))}


def words_only(settings: Overlay, parts: list[str]) -> Overlay:
    """The language model (its adapters, where it has a base) learns from words alone: no mask is trained or shown."""
    stages = _stages(settings, parts, lambda pattern: pattern.startswith("language."))
    return {"stages": stages, "loss_weights": _words_alone(settings)}


def no_evidence(settings: Overlay, parts: list[str]) -> Overlay:
    """The language model reads the image tokens alone."""
    stages = _stages(settings, parts, lambda pattern: not pattern.startswith(("evidence.", "summary.")))
    return {"preset": settings["preset"] + "_no_evidence", "stages": stages}


def text_only(settings: Overlay, parts: list[str]) -> Overlay:
    """A vision-language model and nothing else: what it sees with, where that learns at all, learns from words too."""
    learned = {pattern for entry in settings["stages"] for pattern in _patterns(entry, parts)}
    own = sorted(pattern for pattern in learned if pattern.startswith(("language.", "encoder.")))
    return {
        "preset": settings["preset"] + "_no_evidence",
        "stages": [{"name": "words", "share": 1.0, "trainable": own}],
        "loss_weights": _words_alone(settings),
    }


def frozen_encoder(settings: Overlay, parts: list[str]) -> Overlay:
    """The segmentation encoder keeps its first weights."""
    return {"stages": _stages(settings, parts, lambda pattern: not pattern.startswith("encoder."))}


OPEN_PARTS = ("encoder.net.layers.3.*", "encoder.net.neck.*")


def open_encoder(settings: Overlay, parts: list[str]) -> Overlay:
    """The encoder's last stage and neck learn, too, on a base at a tenth of the rate; maps before them can be kept."""
    stages = frozen_encoder(settings, parts)["stages"]
    opened = [{**entry, "trainable": [*OPEN_PARTS, *entry["trainable"]]} for entry in stages]
    row: Overlay = {"preset": settings["preset"] + "_open", "stages": opened}
    groups = settings["optimizer"]["params"]
    if isinstance(groups, dict):  # the preset has rates by part, as those on a base do
        return row | {
            "optimizer::params::match_types": [*groups["match_types"], "filter"],
            "optimizer::params::layer_matches": [
                *groups["layer_matches"],
                "$lambda named: named[0].startswith('encoder.')",
            ],
            "optimizer::params::lr_values": [*groups["lr_values"], settings["learning_rate"] / 10],
        }
    return row


def learning_encoder(settings: Overlay, parts: list[str]) -> Overlay:
    """The segmentation encoder learns in the last stage; the same looks, but encoded at every step."""
    stages = _stages(settings, parts, lambda pattern: True)
    last = list(dict.fromkeys(["encoder.*", *stages[-1]["trainable"]]))
    return {"stages": [*stages[:-1], {**stages[-1], "trainable": last}], "feature_cache": None}


WITHOUT_MASKS = (words_only, text_only)


@dataclass(frozen=True)
class Experiment:
    """A table of a paper.

    Attributes:
        rows: title -> what the row changes.
        task: of all rows.
        columns: title -> a score of a block of `scores.json`.
        words: the columns that a row without masks has.
        by: what the test split is parted by, a section of `scores.json`.
        overlay: what all rows share over the committed configs.
    """

    rows: dict[str, Row]
    task: str = "prs_med"
    columns: dict[str, str] = field(
        default_factory=lambda: {
            "zone accuracy": "zone_accuracy",
            "zone kappa": "zone_kappa",
            "Dice": "dice",
            "IoU": "iou",
        }
    )
    words: tuple[str, ...] = ("zone accuracy", "zone kappa")
    by: str = "modalities"
    overlay: Overlay = field(default_factory=lambda: {"test::gates": None, "test::peers": []})


MEDISEE = Experiment(
    {
        "[SEG], text prompt": variant("_seg"),
        "[SEG], text and box": variant("_seg_box"),
        "hard fusion": variant("_hard"),
        "MediSee": variant(),
    },
    task="medisee",
    columns={
        "Dice": "dice",
        "gIoU": "giou",
        "cIoU": "ciou",
        "IoU of the mask's box": "box_iou",
        "Acc@0.5 of the mask's box": "acc_at_0.5",
        "IoU of the decoder's box": "decoder_box_iou",
        "Acc@0.5 of the decoder's box": "decoder_acc_at_0.5",
    },
    words=(),
    by="query_kinds",
    overlay={"test::mode": "forced", "test::words": False, "test::peers": []},
)
"""Tables 4 and 5 of MediSee, asked by the paper's protocol: one pass with the candidates written, no explanations."""

EXPERIMENTS = {
    "causal": Experiment(
        {
            "language model frozen": frozen_language,
            "language model learns, no segmentation": words_only,
            "language model and segmentation": variant(),
        }
    ),
    "encoder": Experiment(
        {
            "encoder frozen": frozen_encoder,
            "its last stage and neck learn": open_encoder,
            "encoder learns": learning_encoder,
        }
    ),
    "evidence": Experiment({"no evidence tokens": no_evidence, "evidence tokens": variant()}),
    "choices": Experiment(
        {
            "as it is": variant(),
            "64 image tokens": variant("_64_tokens"),
            "fusion on a map of 32": variant("_map_32"),
            "skip connection": variant("_skip"),
            "a third of the rates": slower,
            "no evidence tokens": no_evidence,
            "encoder's last stage and neck learn": open_encoder,
        },
        columns={
            "zone accuracy": "zone_accuracy",
            "zone kappa": "zone_kappa",
            "zone accuracy of the mask": "rule_accuracy",
            "Dice": "dice",
            "macro Dice of lesions": "macro_lesion_dice",
        },
    ),
    "seg_token": Experiment({"[SEG] token": variant("_seg"), "PRS-Med": variant()}),
    "text": Experiment({"text-only model": text_only, "PRS-Med": variant()}),
    "medisee": MEDISEE,
}
"""PRS-Med's section 7.2 (does segmentation help reasoning?), table 4, our own ablation, tables 1 and 2 (against LISA's
way to condition a mask), table 3 (against a model that only speaks); and MediSee's tables. For the encoders and the
language models of PRS-Med's tables 4 and 5 give their presets with --preset: llava_med_7b, llava_1_5_7b, ..."""


def committed_configs(task: str, preset: str) -> list[str]:
    """The configs that train a preset for a task, the base first."""
    configs = ROOT / "configs"
    own = [configs / f"preset_{name}.json" for name in _shorter(preset)]
    files = [configs / "train.json", *[file for file in own if file.is_file()][:1]]
    if task == "medisee":
        files.append(configs / "task_medisee.json")
        if bases_of(sizes(task, preset)):
            files.append(configs / "medisee_adapters.json")
            if sizes(task, preset)["heads"].get("coarse_width"):
                files.append(configs / "medisee_coarse.json")
    return [str(file) for file in files]


def _shorter(preset: str) -> list[str]:
    """A preset's name and what it is a variant of: small_no_evidence, small_no, small."""
    words = preset.split("_")
    return ["_".join(words[:count]) for count in range(len(words), 0, -1)]


def row_overlays(experiment: Experiment, preset: str, config_files: Sequence[str]) -> dict[str, Overlay]:
    """The overlay of each row of a table, for a preset and the configs it trains with."""
    parser = ConfigParser()
    parser.read_config(list(config_files))
    settings = {**parser.get(), "preset": preset}
    whole = [name for name, _ in network_on_meta(experiment.task, preset).named_parameters()]
    names = [name.split(".") for name in whole]
    parts = sorted({f"{name[0]}.*" for name in names} - {"language.*"})
    parts += sorted({f"language.{name[1]}.*" for name in names if name[0] == "language"})
    rows = {title: row(settings, parts) for title, row in experiment.rows.items()}
    # Not every network has every variant, nor every variant every part.
    rows = {title: row for title, row in rows.items() if (experiment.task, row.get("preset", preset)) in PRESETS}
    for row in rows.values():
        network = network_on_meta(experiment.task, row.get("preset", preset))
        own = [name for name, _ in network.named_parameters()]
        stages = row.get("stages", settings["stages"])
        patterns = {pattern for entry in stages for pattern in entry["trainable"]}
        missing = {
            pattern for pattern in patterns if not fnmatch.filter(own, pattern) and fnmatch.filter(whole, pattern)
        }
        if missing:
            row["stages"] = _stages({"stages": stages}, parts, lambda pattern, gone=missing: pattern not in gone)
    return rows


def write_overlay(path: Path, content: Overlay) -> str:
    """Write an overlay; one that is there already must be the same, or rows of two tables would be mixed.

    Raises:
        typer.BadParameter: it is another one.
    """
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != content:
        raise typer.BadParameter(f"{path} holds other settings; give another folder with --out")
    path.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
    return str(path)


def run_row(folder: Path, seed: int, config_files: Sequence[str]) -> dict[str, Any]:
    """Train one row with one seed, unless it is done, and give its test scores."""
    scores = folder / "test" / "scores.json"
    if not scores.is_file():
        settings = {"seed": str(seed), "run_name": folder.name, "runs_dir": str(folder.parent)}
        if (folder / "last" / "model.json").is_file():
            settings["resume"] = str(folder)
        options = [word for key, value in settings.items() for word in (f"--{key}", value)]
        command = ["-m", "monai.bundle", "run", "training", "--config_file", str(list(config_files)), *options]
        with folder.with_suffix(".log").open("a", encoding="utf-8") as log:
            subprocess.run([sys.executable, *command], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=True)
    return json.loads(scores.read_text(encoding="utf-8"))


def gather(experiment: Experiment, row: Row, scores: Sequence[dict[str, Any]]) -> Scores:
    """What the table shows of a row: the scores of its seeds, over everything and by part; None where it has none."""
    blocks = [{"all": one["overall"], **one[experiment.by]} for one in scores]
    hidden = set(experiment.columns) - set(experiment.words) if row in WITHOUT_MASKS else set()
    return {
        part: {
            label: [None if label in hidden else block[part][key] for block in blocks]
            for label, key in experiment.columns.items()
        }
        for part in blocks[0]
    }


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean over seeds and its 95 % interval by Student's t; of one seed the interval is unknown (NaN)."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan, math.nan
    spread = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)
    return mean, mean - spread, mean + spread


def cell(values: Sequence[float | None]) -> str:
    """A mean and its interval as shown; of one seed it says so, and a dash where there is no such score."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "-"
    mean, low, high = interval(known)
    return f"{mean:.3f} (one seed)" if len(known) < 2 else f"{mean:.3f} ({low:.3f} to {high:.3f})"


def shown(results: dict[str, Scores]) -> Table:
    """The rows of the paper's table side by side, one line per score and part; a line that nobody has is left out."""
    table = Table("mean (95 % over seeds)", *results)
    for part, columns in next(iter(results.values())).items():
        table.add_section()
        for label in columns:
            cells = [cell(row[part][label]) for row in results.values()]
            if set(cells) != {"-"}:
                table.add_row(f"{part}: {label}", *cells)
    return table


def main(
    table: Annotated[str, typer.Argument(help=f"One of {', '.join(EXPERIMENTS)}.")],
    out: Annotated[Path, typer.Option(help="Folder for overlays, runs and table.json.")],
    preset: Annotated[str, typer.Option(help="The preset all rows are run on.")] = "tiny",
    seeds: Annotated[str, typer.Option(help="Seeds, with commas between.")] = "0,1,2",
    max_epochs: Annotated[int | None, typer.Option(help="Budget of every row; default: the configs'.")] = None,
    dataset_dir: Annotated[str | None, typer.Option(help="Data folder; default: phantoms.")] = None,
    override: Annotated[list[Path] | None, typer.Option(help="A config overlay for all rows; may be repeated.")] = None,
) -> None:
    """Run the rows of TABLE and print their scores."""
    if table not in EXPERIMENTS:
        raise typer.BadParameter(f"{table}; choose one of {', '.join(EXPERIMENTS)}")
    experiment, out = EXPERIMENTS[table], out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    shared = dict(experiment.overlay)
    for path in override or []:
        shared |= json.loads(path.read_text(encoding="utf-8"))
    options = {"preset": preset, "max_epochs": max_epochs, "dataset_dir": dataset_dir}
    shared |= {key: value for key, value in options.items() if value is not None}
    configs = [*committed_configs(experiment.task, preset), write_overlay(out / f"{table}.json", shared)]
    results: dict[str, Scores] = {}
    for index, (title, content) in enumerate(row_overlays(experiment, preset, configs).items()):
        name = f"{table}-{index}"
        files = [*configs, write_overlay(out / f"{name}.json", content)]
        scores = [run_row(out / f"{name}-seed{seed}", seed, files) for seed in map(int, seeds.split(","))]
        results[title] = gather(experiment, experiment.rows[title], scores)
    record = {"table": table, "preset": preset, "seeds": [*map(int, seeds.split(","))], "rows": results}
    (out / "table.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    Console(width=160).print(shown(results))


if __name__ == "__main__":
    typer.run(main)
