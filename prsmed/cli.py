"""The `prsmed` command: thin, one function call per sub-command."""

from __future__ import annotations

import csv
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
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

_DATASET_DIR = ("--dataset-dir", "--dataset_dir")  # the second as the bundle's own command spells it
_DATASET_HELP = "A folder with manifest.jsonl, made by `prsmed data build`."
_AXIS_HELP = "Of a volume's slices: axial, coronal or sagittal."
_BATCH_HELP = "Slices of a volume in memory at a time."
_MIN_VOLUME_HELP = "Of a volume: smaller findings are removed (mm3)."
_KEEP_HELP = "Of a volume: at most so many findings stay."
_DICOM_HELP = "Of DICOM images: also write a DICOM SEG and an SR."
_MODALITY_HELP = f"One of {', '.join(MODALITIES)}. Needed where the file does not say it; never guessed."


@app.command()
def ask(
    image: Annotated[
        Path, typer.Argument(help="A picture, a volume (NIfTI, NRRD, MHA), a DICOM file or series, or a folder.")
    ],
    question: Annotated[str, typer.Argument(help='For example "Where is the polyp?"')],
    modality: Annotated[str | None, typer.Option(help=_MODALITY_HELP)] = None,
    model: Annotated[
        str, typer.Option(help="A shipped model, or a folder that training wrote (runs/NAME/best).")
    ] = "tiny",
    out: Annotated[Path, typer.Option(help="Where answer.json, mask.png and overlay.png go.")] = Path("answers"),
    slice_: Annotated[
        str | None, typer.Option("--slice", help="Only this slice of a volume: AXIS:INDEX, for example axial:12.")
    ] = None,
    axis: Annotated[str, typer.Option(help=_AXIS_HELP)] = "axial",
    batch_size: Annotated[int, typer.Option(help=_BATCH_HELP)] = 8,
    min_volume: Annotated[float | None, typer.Option(help=_MIN_VOLUME_HELP, show_default="14")] = None,
    keep_largest: Annotated[int | None, typer.Option(help=_KEEP_HELP)] = None,
    series: Annotated[str | None, typer.Option(help="Series UID, where a DICOM folder holds several.")] = None,
    dicom: Annotated[bool, typer.Option("--dicom", help=_DICOM_HELP)] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole answer record.")] = False,
) -> None:
    """Ask one image, one volume, or every image of a folder, a question.

    prsmed ask polyp.png "Where is the polyp?" --modality endoscopy

    Writes the answer record, the mask at the image's own size and an overlay into --out; a folder of images gets one
    numbered folder each and answers.csv. An image that cannot be read does not stop the others. A folder of DICOM files
    is one volume.
    """
    from prsmed.predictor import Predictor
    from prsmed.sessions import require_dicom

    volume = _volume_options(axis, batch_size, min_volume, keep_largest)
    position = _slice_ref(slice_)
    predictor = Predictor.load(model, _usable_device(device))

    def answer_one(path: Path, folder: Path) -> Answer:
        session = predictor.open(path, modality=modality, position=position, volume=volume, series_uid=series)
        if dicom:
            require_dicom(session.source)
        with Progress(console=Console(stderr=True), transient=True) as bar:
            answer = session.ask(question, progress=_advance(bar, "asking slices"))
        session.write(folder, answer, dicom=dicom)
        return answer

    if image.is_dir() and not _is_series(image):
        _ask_folder(image, out, answer_one)
        return
    answer = answer_one(image, out)
    if as_json:
        typer.echo(json.dumps(answer.to_json(), indent=2, ensure_ascii=False))
        return
    typer.echo(answer.text)
    if answer.volume_statistics:
        typer.echo(answer.volume_statistics["summary"])
    for line in (*answer.contradictions, *answer.warnings):
        typer.echo(f"note: {line}", err=True)
    typer.echo(f"written: {out}/answer.json and the files it names. {NOT_A_MEDICAL_DEVICE}", err=True)


def _ask_folder(images: Path, out: Path, answer_one: Callable[[Path, Path], Answer]) -> None:
    from prsmed.data.readers import image_suffix

    paths = sorted(path for path in images.rglob("*") if path.is_file() and image_suffix(path))
    if not paths:
        raise DataError(f"{images}: holds no image that can be read; give a folder of pictures, NIfTI or DICOM files")
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


def _is_series(folder: Path) -> bool:
    """Whether the images of a folder are all DICOM: then they are asked as one volume."""
    from prsmed.data.readers import DICOM_SUFFIXES, image_suffix, is_dicom

    files = [path for path in folder.rglob("*") if path.is_file()]
    others = {image_suffix(path) for path in files} - {None, *DICOM_SUFFIXES}
    return not others and any(map(is_dicom, files))


@app.command()
def batch(
    worklist: Annotated[Path, typer.Argument(help="CSV with the columns image, question and, if known, modality, id.")],
    out: Annotated[Path, typer.Option(help="Where results.csv and one folder for each row go.")],
    model: Annotated[str, typer.Option(help="A shipped model, or a folder that training wrote.")] = "tiny",
    axis: Annotated[str, typer.Option(help=_AXIS_HELP)] = "axial",
    batch_size: Annotated[int, typer.Option(help=_BATCH_HELP)] = 8,
    min_volume: Annotated[float | None, typer.Option(help=_MIN_VOLUME_HELP, show_default="14")] = None,
    keep_largest: Annotated[int | None, typer.Option(help=_KEEP_HELP)] = None,
    dicom: Annotated[bool, typer.Option("--dicom", help=_DICOM_HELP)] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Ask every study of a worklist; the same command goes on where a killed one stopped.

    prsmed batch worklist.csv --out answers

    Images are named relative to the worklist's folder, or absolutely. A study that fails does not stop the others; it
    is told in results.csv and tried again by the next run.
    """
    from prsmed.batch import TABLE_FILE, run_worklist
    from prsmed.predictor import Predictor

    volume = _volume_options(axis, batch_size, min_volume, keep_largest)
    predictor = Predictor.load(model, _usable_device(device))
    with Progress(console=Console(stderr=True)) as bar:
        results = run_worklist(
            predictor,
            worklist,
            out,
            volume=volume,
            dicom=dicom,
            progress=_advance(bar, "studies"),
            slice_progress=_advance(bar, "slices"),
        )
    failed = [result for result in results if result.status == "failed"]
    if len(failed) == len(results):
        raise RequestError(f"none of {len(results)} studies could be answered; the first: {failed[0].error}")
    answered = len(results) - len(failed)
    typer.echo(f"{answered} answered, {len(failed)} not; see {out}/{TABLE_FILE}. {NOT_A_MEDICAL_DEVICE}")


def _volume_options(axis: str, batch_size: int, min_volume: float | None, keep_largest: int | None) -> Any:
    from prsmed.volumes import MIN_VOLUME_MM3, VolumeOptions

    min_volume_mm3 = MIN_VOLUME_MM3 if min_volume is None else min_volume
    return VolumeOptions(axis, batch_size, min_volume_mm3, keep_largest)


def _advance(bar: Progress, description: str) -> Callable[[int, int], None]:
    """What moves a new task of a progress bar; it is shown from the first step on."""
    task = bar.add_task(description, total=None, visible=False)
    return lambda done, total: bar.update(task, completed=done, total=total, visible=True)


@app.command()
def evaluate(
    dataset_dir: Annotated[Path, typer.Option(*_DATASET_DIR, help=_DATASET_HELP)],
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
    dataset_dir: Annotated[Path, typer.Option(*_DATASET_DIR, help=_DATASET_HELP)],
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
    logging.getLogger("pydicom").setLevel(
        logging.CRITICAL
    )  # its messages quote paths and tags, which may name patients
    try:
        app()
    except PrsmedError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
