"""`prsmed ask` and `prsmed batch`: one image, a folder, a worklist."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from prsmed.cli.options import MODE_HELP, MODEL_HELP, advance, usable_device
from prsmed.errors import DataError, PrsmedError, RequestError
from prsmed.types import MODALITIES, NOT_A_MEDICAL_DEVICE, SLICE_AXES, Answer, SliceRef

_AXIS_HELP = "Of a volume's slices: axial, coronal or sagittal."
_BATCH_HELP = "Slices of a volume in memory at a time."
_MIN_VOLUME_HELP = "Of a volume: smaller findings are removed (mm3)."
_KEEP_HELP = "Of a volume: at most so many findings stay."
_DICOM_HELP = "Of DICOM images: also write a DICOM SEG and an SR."
_TASK_HELP = "prs_med (where is it?) or medisee (which one is meant?)."
_MODALITY_HELP = f"One of {', '.join(MODALITIES)}. Needed where the file does not say it; never guessed."


def ask(
    image: Annotated[
        Path, typer.Argument(help="A picture, a volume (NIfTI, NRRD, MHA), a DICOM file or series, or a folder.")
    ],
    question: Annotated[str, typer.Argument(help='For example "Where is the polyp?"')],
    modality: Annotated[str | None, typer.Option(help=_MODALITY_HELP)] = None,
    task: Annotated[
        str | None, typer.Option(help=_TASK_HELP, show_default="prs_med, or what --model was made for")
    ] = None,
    model: Annotated[str | None, typer.Option(help=MODEL_HELP, show_default="tiny, of --task medisee: medisee")] = None,
    mode: Annotated[str, typer.Option(help=MODE_HELP)] = "free",
    out: Annotated[Path, typer.Option(help="Where answer.json, mask.png and overlay.png go.")] = Path("answers"),
    slice_: Annotated[
        str | None, typer.Option("--slice", help="Only this slice of a volume: AXIS:INDEX, for example axial:12.")
    ] = None,
    axis: Annotated[str, typer.Option(help=_AXIS_HELP)] = "axial",
    batch_size: Annotated[int, typer.Option(help=_BATCH_HELP)] = 8,
    min_volume: Annotated[float | None, typer.Option(help=_MIN_VOLUME_HELP, show_default="14")] = None,
    keep_largest: Annotated[int | None, typer.Option(help=_KEEP_HELP)] = None,
    series: Annotated[str | None, typer.Option(help="Series UID, where a DICOM folder holds several.")] = None,
    frame: Annotated[int | None, typer.Option(help="Which frame of a DICOM video, counted from 1.")] = None,
    dicom: Annotated[bool, typer.Option("--dicom", help=_DICOM_HELP)] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Of one image: print the whole answer record.")] = False,
) -> None:
    """Ask one image, one volume, or every image of a folder, a question.

    prsmed ask polyp.png "Where is the polyp?" --modality endoscopy

    prsmed ask --task medisee slice.png "Which organ cleans the blood?" --modality ct

    Writes the answer record, the mask at the image's own size and an overlay into --out; a folder of images gets one
    numbered folder each and answers.csv. An image that cannot be read does not stop the others. A folder of DICOM files
    alone is one volume; where other images lie beside them, every file is asked by itself.

    tiny knows generated phantoms only; small and medisee are first trainings, see their cards in models/. Research
    software, not a medical device.
    """
    from prsmed.predictor import Predictor, shipped_model
    from prsmed.sessions import require_dicom

    volume = _volume_options(axis, batch_size, min_volume, keep_largest)
    position = _slice_ref(slice_)
    predictor = Predictor.load(model or shipped_model(task), usable_device(device), mode=mode)
    predictor.require_task(task)

    def answer_one(path: Path, folder: Path) -> Answer:
        session = predictor.open(
            path, modality=modality, position=position, volume=volume, series_uid=series, frame=frame
        )
        if dicom:
            require_dicom(session.source)
        with Progress(console=Console(stderr=True), transient=True) as bar:
            answer = session.ask(question, progress=advance(bar, "asking slices"))
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
    from prsmed.data.readers import image_suffix, is_dicom
    from prsmed.data.writers.answer import forget_answer
    from prsmed.data.writers.atomic import replaced_whole

    files = sorted(path for path in images.rglob("*") if path.is_file())
    paths = [path for path in files if image_suffix(path) or is_dicom(path)]
    if not paths:
        raise DataError(f"{images}: holds no image that can be read; give a folder of pictures, NIfTI or DICOM files")
    rows: list[dict[str, str]] = []
    failures: list[PrsmedError] = []
    with Progress(console=Console(stderr=True)) as bar:
        for number, path in enumerate(bar.track(paths, description="asking"), start=1):
            folder = f"{number:04d}"
            row = dict.fromkeys(("folder", "image", "text", "zones", "contradictions", "warnings", "error"), "")
            row |= {"folder": folder, "image": str(path.relative_to(images))}
            try:
                forget_answer(out / folder)  # of an earlier run this number may be another image
                answer = answer_one(path, out / folder)
                zones = ";".join(finding.zone for finding in answer.objects[0].findings)
                row |= {"text": answer.text, "zones": zones}
                row |= {"contradictions": ";".join(answer.contradictions), "warnings": ";".join(answer.warnings)}
            except PrsmedError as error:
                row["error"] = str(error)
                failures.append(error)
            rows.append(row)
    table_file = out / "answers.csv"
    if len(failures) == len(rows):
        if table_file.is_file():
            table_file.unlink()  # an earlier run's, whose answers are gone
        raise RequestError(f"none of {len(rows)} images could be answered; the first: {failures[0]}")
    with replaced_whole(table_file) as part, part.open("w", newline="", encoding="utf-8") as stream:
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


def batch(
    worklist: Annotated[
        Path,
        typer.Argument(
            help="CSV with the columns image, question and, if known, modality, id, series (a UID) and frame."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Where results.csv and one folder for each row go.")],
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "tiny",
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
    predictor = Predictor.load(model, usable_device(device))
    with Progress(console=Console(stderr=True)) as bar:
        results = run_worklist(
            predictor,
            worklist,
            out,
            volume=volume,
            dicom=dicom,
            progress=advance(bar, "studies"),
            slice_progress=advance(bar, "slices"),
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


def _slice_ref(text: str | None) -> SliceRef | None:
    if text is None:
        return None
    axis, _, index = text.partition(":")
    if axis not in SLICE_AXES or not index.isdecimal():
        raise RequestError(f"--slice {text!r}: expected AXIS:INDEX with AXIS one of {', '.join(SLICE_AXES)}")
    return SliceRef(axis, int(index))
