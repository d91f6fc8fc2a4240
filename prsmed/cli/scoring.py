"""`prsmed evaluate`, `questions` and `compare`: scores, questions for other systems, differences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from prsmed.cli.options import DATASET_DIR, DATASET_HELP, MODE_HELP, MODEL_HELP, usable_device
from prsmed.errors import RequestError
from prsmed.types import NOT_A_MEDICAL_DEVICE


def evaluate(
    dataset_dir: Annotated[Path, typer.Option(*DATASET_DIR, help=DATASET_HELP)],
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "tiny",
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    out: Annotated[Path, typer.Option(help="Where predictions, scores and the report go.")] = Path("evaluation"),
    baseline: Annotated[
        str | None, typer.Option(help="Instead of a model: constant, chance or oracle.", show_default=False)
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(help="Instead of a model: a CSV of another system's answers, see `prsmed questions`."),
    ] = None,
    masks: Annotated[Path | None, typer.Option(help="Where that system's masks are; default: beside the CSV.")] = None,
    name: Annotated[str, typer.Option(help="That system's name.")] = "external system",
    gates: Annotated[
        bool, typer.Option(help="Also ask the gates' questions: does an answer follow picture and question?")
    ] = True,
    queries: Annotated[
        bool | None,
        typer.Option(help="Ask the cases' own questions, as MediSee is.", show_default="of a MediSee model: yes"),
    ] = None,
    mode: Annotated[str, typer.Option(help=MODE_HELP)] = "free",
    protocol: Annotated[bool, typer.Option(help="Also score as the papers do, over 256 thresholds.")] = False,
    score_only: Annotated[
        bool, typer.Option("--score-only", help="Score again what --out holds; ask nothing and need no model.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    tracking_uri: Annotated[str | None, typer.Option(help="MLflow store; default: sqlite in runs/.")] = None,
) -> None:
    """Score a model on a split beside what it must beat: report.html, scores.json, a table, a run in MLflow.

    prsmed evaluate --dataset-dir data/polyps --model runs/NAME/best --out evaluation

    The same as `python -m monai.bundle run evaluating --config_file configs/evaluate.json`. Answers are stored as they
    come; the same command goes on where a killed one stopped.
    """
    if baseline and answers:
        raise RequestError("--baseline and --answers: give one of them; each stands instead of a model")
    if score_only and (baseline or answers):
        raise RequestError(
            "--score-only: scores what --out holds, whoever answered; leave --baseline and --answers away"
        )
    overrides: dict[str, Any] = {"tracking_uri": tracking_uri} if tracking_uri else {}
    overlay = ["evaluate_stored.json"] if score_only else []
    if baseline:
        overlay, overrides = ["evaluate_baseline.json"], {**overrides, "baseline": baseline}
    elif answers:
        if name[:1] in "$@%":
            raise RequestError(f"--name {name!r}: a config would run or resolve it; start it with a letter")
        overlay = ["evaluate_external.json"]
        overrides |= {"answers_csv": str(answers), "masks_dir": str(masks) if masks else None, "system_name": name}
    if queries is not None:
        overrides["queries"] = queries
    if not score_only:  # what is stored knows how it was asked
        overrides["mode"] = mode
    if not gates:
        overrides["gates"] = None
    _run_config(
        ["evaluate.json", *overlay],
        "scoring" if score_only else "evaluating",
        model=model,
        dataset_dir=str(dataset_dir),
        split=split,
        output_dir=str(out),
        protocol=protocol,
        device=usable_device(device),
        **overrides,
    )


def questions(
    dataset_dir: Annotated[Path, typer.Option(*DATASET_DIR, help=DATASET_HELP)],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    out: Annotated[Path, typer.Option(help="Where questions.csv and the pictures go.")] = Path("questions"),
    gates: Annotated[bool, typer.Option(help="Also the questions of the gates.")] = True,
) -> None:
    """Write what an evaluation asks, so that a system that runs elsewhere can answer it.

    prsmed questions --dataset-dir data/polyps --out questions

    Fill in the columns mask, text and presence of questions.csv, then score them by `prsmed evaluate --answers`.
    """
    overrides = {} if gates else {"gates": None}
    count = _run_config(
        ["evaluate.json"], "questions", dataset_dir=str(dataset_dir), split=split, output_dir=str(out), **overrides
    )
    typer.echo(f"written: {out}/questions.csv, {count} questions, and {out}/pictures/")


def compare(
    first: Annotated[Path, typer.Argument(help="A folder that `prsmed evaluate` wrote.")],
    second: Annotated[Path, typer.Argument(help="Another one, of the same split of the same data.")],
    out: Annotated[Path | None, typer.Option(help="Also write the comparison to this JSON file.")] = None,
) -> None:
    """Compare two evaluations question by question: differences with intervals over patients.

    prsmed compare evaluation/unet evaluation/tiny
    """
    from prsmed.data.writers.atomic import write_atomically
    from prsmed.metrics.compare import compare as compare_rows
    from prsmed.metrics.rows import read_rows

    result = compare_rows(*(read_rows(folder / "rows.jsonl") for folder in (first, second)))
    names = [escape(str(folder)) for folder in (first, second)]
    table = Table("score", "n", *names, "difference", "95 % interval", title=f"{names[1]} - {names[0]}")
    for score, told in result["differences"].items():
        numbers = [told[column] for column in ("a", "b", "difference")]
        interval = "-" if told["interval"] is None else "[{:+.3f}, {:+.3f}]".format(*told["interval"])
        cells = ["-" if number is None else f"{number:.3f}" for number in numbers]
        table.add_row(score, str(told["n"]), *cells, interval)
    Console().print(table)
    typer.echo(f"{result['n']} questions of {result['n_groups']} patients; {NOT_A_MEDICAL_DEVICE}")
    if out:
        write_atomically(out, json.dumps(result, indent=2) + "\n")


def _run_config(names: list[str], run_id: str, **overrides: Any) -> Any:
    """Run one of the bundle's configs, with its overlays."""
    import bundle.evaluation

    folder = Path(bundle.evaluation.__file__).parents[1] / "configs"
    if not (folder / names[0]).is_file():
        raise RequestError(
            f"{folder}: holds no {names[0]}; this command runs from a clone of the repository (pip install -e .)"
        )
    return bundle.evaluation.run_evaluation([folder / name for name in names], run_id, **overrides)
