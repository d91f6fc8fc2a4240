"""The `prsmed` command: thin, one function call per sub-command."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from prsmed.errors import DataError, PrsmedError, RequestError
from prsmed.types import MODALITIES, NOT_A_MEDICAL_DEVICE, SLICE_AXES, Answer, SliceRef

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=f"Ask a medical image where something is. {NOT_A_MEDICAL_DEVICE}",
)
data_app = typer.Typer(no_args_is_help=True, help="Make data folders: index your own images, or generate phantoms.")
app.add_typer(data_app, name="data")

_MODALITY_HELP = f"One of {', '.join(MODALITIES)}. Needed where the file does not say it; never guessed."


@app.command()
def ask(
    image: Annotated[Path, typer.Argument(help="PNG, JPEG, TIFF, BMP or NIfTI file, or a folder of them.")],
    question: Annotated[str, typer.Argument(help='For example "Where is the polyp?"')],
    modality: Annotated[str | None, typer.Option(help=_MODALITY_HELP)] = None,
    model: Annotated[
        str, typer.Option(help="A shipped model, or a folder that training wrote (runs/NAME/best).")
    ] = "tiny",
    out: Annotated[Path, typer.Option(help="Where answer.json, mask.png and overlay.png go.")] = Path("answers"),
    slice_: Annotated[
        str | None, typer.Option("--slice", help="For a volume: AXIS:INDEX, for example axial:12.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole answer record.")] = False,
) -> None:
    """Ask one image, or every image of a folder, a question.

    prsmed ask polyp.png "Where is the polyp?" --modality endoscopy

    Writes the answer record, the mask at the image's own size and an overlay into --out; a folder of images gets one
    numbered folder each and answers.csv. An image that cannot be read does not stop the others.
    """
    from prsmed.data.writers.answer import write_answer
    from prsmed.predictor import Predictor

    predictor = Predictor.load(model, _usable_device(device))
    position = _slice_ref(slice_)

    def answer_one(path: Path, folder: Path) -> Answer:
        session = predictor.open(path, modality=modality, position=position)
        answer = session.ask(question)
        write_answer(folder, answer, session.picture)
        return answer

    if image.is_dir():
        _ask_folder(image, out, answer_one)
        return
    answer = answer_one(image, out)
    if as_json:
        typer.echo(json.dumps(answer.to_json(), indent=2, ensure_ascii=False))
        return
    typer.echo(answer.text)
    for line in (*answer.contradictions, *answer.warnings):
        typer.echo(f"note: {line}", err=True)
    typer.echo(f"written: {out}/answer.json, mask.png, overlay.png. {NOT_A_MEDICAL_DEVICE}", err=True)


def _ask_folder(images: Path, out: Path, answer_one: Callable[[Path, Path], Answer]) -> None:
    from prsmed.data.readers import image_suffix

    paths = sorted(path for path in images.rglob("*") if path.is_file() and image_suffix(path))
    if not paths:
        raise DataError(
            f"{images}: holds no image that can be read; give a folder of PNG, JPEG, TIFF, BMP or NIfTI files"
        )
    rows: list[dict[str, str]] = []
    failures: list[PrsmedError] = []
    with Progress(console=Console(stderr=True)) as bar:
        for number, path in enumerate(bar.track(paths, description="asking"), start=1):
            folder = f"{number:04d}"
            row = {"folder": folder, "image": str(path.relative_to(images)), "text": "", "zones": "", "error": ""}
            try:
                answer = answer_one(path, out / folder)
                zones = ";".join(finding.zone for finding in answer.objects[0].findings)
                row |= {"text": answer.text, "zones": zones}
            except PrsmedError as error:
                row["error"] = str(error)
                failures.append(error)
            rows.append(row)
    if len(failures) == len(rows):
        raise RequestError(f"none of {len(rows)} images could be answered; the first: {failures[0]}")
    with (out / "answers.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, fieldnames=list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    answered = len(rows) - len(failures)
    typer.echo(f"{answered} answered, {len(failures)} not; see {out}/answers.csv. {NOT_A_MEDICAL_DEVICE}")


@app.command()
def evaluate(
    dataset_dir: Annotated[Path, typer.Option(help="A folder with manifest.jsonl, made by `prsmed data build`.")],
    model: Annotated[str, typer.Option(help="A shipped model, or a folder that training wrote.")] = "tiny",
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
        bool, typer.Option(help="Also ask the questions that an answer must look at to get right.")
    ] = True,
    protocol: Annotated[bool, typer.Option(help="Also score as the papers do, over 256 thresholds.")] = False,
    score_only: Annotated[
        bool, typer.Option("--score-only", help="Score again what --out holds; ask nothing.")
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
    overrides: dict[str, Any] = {"tracking_uri": tracking_uri} if tracking_uri else {}
    overlay = []
    if baseline:
        overlay, overrides = ["evaluate_baseline.json"], {**overrides, "baseline": baseline}
    elif answers:
        overlay = ["evaluate_external.json"]
        overrides |= {"answers_csv": str(answers), "masks_dir": str(masks) if masks else None, "system_name": name}
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
        device=_usable_device(device),
        **overrides,
    )


@app.command()
def questions(
    dataset_dir: Annotated[Path, typer.Option(help="A folder with manifest.jsonl, made by `prsmed data build`.")],
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


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="A folder that `prsmed evaluate` wrote.")],
    second: Annotated[Path, typer.Argument(help="Another one, of the same split of the same data.")],
    out: Annotated[Path | None, typer.Option(help="Also write the comparison to this JSON file.")] = None,
) -> None:
    """Compare two evaluations question by question: differences with intervals over patients.

    prsmed compare evaluation/unet evaluation/tiny
    """
    from prsmed.data.writers.text import write_atomically
    from prsmed.metrics.compare import compare as compare_rows
    from prsmed.metrics.rows import read_rows

    result = compare_rows(*(read_rows(folder / "rows.jsonl") for folder in (first, second)))
    table = Table("score", "n", str(first), str(second), "difference", "95 % interval", title=f"{second} - {first}")
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


@data_app.command("build")
def data_build(
    sources: Annotated[list[str], typer.Argument(help="[NAME=]PATH: a folder with images/ and masks/, or a CSV.")],
    out: Annotated[Path, typer.Option(help="Where manifest.jsonl goes. Images stay where they are.")],
    modality: Annotated[str | None, typer.Option(help="For rows that do not say it.")] = None,
    target: Annotated[str | None, typer.Option(help='For rows that do not say it, for example "polyp".')] = None,
    kind: Annotated[str, typer.Option(help="lesion or organ.")] = "lesion",
    seed: Annotated[int, typer.Option(help="Of the split, where none is given.")] = 0,
    image_column: Annotated[str, typer.Option()] = "image",
    mask_column: Annotated[str, typer.Option()] = "mask",
    id_column: Annotated[str, typer.Option()] = "id",
    modality_column: Annotated[str, typer.Option()] = "modality",
    target_column: Annotated[str, typer.Option()] = "target",
    kind_column: Annotated[str, typer.Option()] = "kind",
    laterality_column: Annotated[str, typer.Option()] = "laterality",
    label_column: Annotated[str | None, typer.Option(help="Label of a NIfTI mask.")] = None,
    dataset_column: Annotated[str, typer.Option()] = "dataset",
    group_column: Annotated[str, typer.Option(help="Patient or video: stays on one side of the split.")] = "group",
    split_column: Annotated[str, typer.Option()] = "split",
    licence_column: Annotated[str, typer.Option()] = "licence",
) -> None:
    """Index images and masks where they lie: manifest.jsonl, roots.json and a refusal report.

    prsmed data build polyps=/data/polyps --out data/polyps --modality endoscopy --target polyp

    A bad row never stops the build: it is refused with file, reason and remedy.
    """
    from prsmed.data.build import build
    from prsmed.data.sources.table import Columns

    columns = Columns(
        image=image_column,
        mask=mask_column,
        id=id_column,
        modality=modality_column,
        target=target_column,
        kind=kind_column,
        laterality=laterality_column,
        label=label_column,
        dataset=dataset_column,
        group=group_column,
        split=split_column,
        licence=licence_column,
    )
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("reading images and masks", total=None)
        report = build(
            sources,
            out,
            modality=modality,
            target=target,
            kind=kind,
            columns=columns,
            seed=seed,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    table = Table(
        "data set", "modality", "split", "kind", "targets", "of them negative", title=f"{report.images} images"
    )
    for count in report.counts:
        cells = (count.dataset, count.modality or "unknown", count.split, count.kind, count.targets, count.negatives)
        table.add_row(*map(str, cells))
    console = Console()
    console.print(table)
    console.print(
        f"{len(report.refusals)} rows refused, {report.merged_groups} groups merged; manifest in {report.path}"
    )
    for refusal in report.refusals[:10]:
        console.print(f"refused: {refusal.case_id or refusal.file}: {refusal.reason}; {refusal.remedy}")


@data_app.command("phantoms")
def data_phantoms(
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    pictures: Annotated[int, typer.Option(help="Pictures over the six modalities.")] = 1600,
    volumes: Annotated[int, typer.Option(help="CT and MRI volumes.")] = 24,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Generate phantom images of the six modalities with lesions and masks, as an ordinary data folder."""
    from prsmed.data.phantoms import write_phantoms

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("making phantoms", total=None)
        folder = write_phantoms(
            out,
            pictures=pictures,
            volumes=volumes,
            seed=seed,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    typer.echo(f"written: {folder}/manifest.jsonl")


def _usable_device(name: str) -> str:
    import torch

    try:
        torch.empty(0, device=name)
    except (AssertionError, RuntimeError) as error:  # torch without CUDA answers by an assertion
        reason = str(error).partition("\n")[0]
        raise RequestError(f"--device {name!r}: cannot be used here ({reason}); use cpu") from error
    return name


def _slice_ref(text: str | None) -> SliceRef | None:
    if text is None:
        return None
    axis, _, index = text.partition(":")
    if axis not in SLICE_AXES or not index.isdecimal():
        raise RequestError(f"--slice {text!r}: expected AXIS:INDEX with AXIS one of {', '.join(SLICE_AXES)}")
    return SliceRef(axis, int(index))


def main() -> None:
    """Entry point: errors made for people are printed in one line, without a traceback."""
    try:
        app()
    except PrsmedError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
