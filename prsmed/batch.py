"""A worklist of studies: every row asked and written, resumable, with one table of results.

A row's folder is named by its number and a hash of what was asked, never by what the image is called; `done.json` is
written there last, so that a row without it is asked again.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prsmed.data.readers import is_dicom
from prsmed.data.writers.atomic import write_atomically
from prsmed.errors import PrsmedError, RequestError
from prsmed.predictor import Predictor
from prsmed.sessions import Progress
from prsmed.types import Answer
from prsmed.volumes import VolumeOptions

logger = logging.getLogger(__name__)

DONE_FILE = "done.json"
TABLE_FILE = "results.csv"


@dataclass(frozen=True)
class WorklistRow:
    """One study and one question about it.

    Attributes:
        number: from 1, the first row below the heading.
        image: a file, or a DICOM folder.
        series: UID of the one that is meant, where a DICOM folder holds several.
        frame: which one of a DICOM video, counted from 1.
    """

    number: int
    image: str
    question: str
    modality: str | None
    id: str
    series: str | None
    frame: int | None


@dataclass(frozen=True)
class Result:
    """One line of the table. Several values of one cell are separated by semicolons, the largest finding first."""

    row: int
    folder: str
    status: str = "waiting"
    text: str = ""
    zones: str = ""
    patient_side: str = ""
    volume_ml: str = ""
    contradictions: str = ""
    warnings: str = ""
    error: str = ""


def read_worklist(path: Path) -> list[WorklistRow]:
    """The rows of a worklist: columns `image` and `question`; where there are any, `modality`, `id`, `series`, `frame`.

    Raises:
        RequestError: the file cannot be read, lacks a column, or has no rows.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            table = csv.DictReader(stream)
            if missing := {"image", "question"} - set(table.fieldnames or ()):
                raise RequestError(f"{path}: has no column {', '.join(sorted(missing))}; see docs/asking.md")
            names = ("image", "question", "modality", "id", "series", "frame")
            cells = [{name: (row.get(name) or "").strip() for name in names} for row in table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RequestError(f"{path}: cannot be read as a CSV of studies ({error}); see docs/asking.md") from error
    if not cells:
        raise RequestError(f"{path}: holds no row; see docs/asking.md")
    if wrong := [row["frame"] for row in cells if row["frame"] and not row["frame"].isdecimal()]:
        raise RequestError(f"{path}: frame {wrong[0]!r} is no number; see docs/asking.md")
    return [
        WorklistRow(
            number,
            row["image"],
            row["question"],
            row["modality"] or None,
            row["id"],
            row["series"] or None,
            int(row["frame"]) if row["frame"] else None,
        )
        for number, row in enumerate(cells, start=1)
    ]


def run_worklist(
    predictor: Predictor,
    worklist: Path,
    out: Path,
    *,
    volume: VolumeOptions,
    dicom: bool = False,
    progress: Progress | None = None,
    slice_progress: Progress | None = None,
) -> list[Result]:
    """Ask every row that is not done yet; a row that fails does not stop the others and is tried again next time.

    Args:
        worklist: see `read_worklist`. Images are named relative to its folder, or absolutely: it is the
            user's own file.
        out: holds a folder for each row and results.csv, which is replaced after every row.
        dicom: also write a DICOM SEG and SR of rows that are DICOM.
        progress: told the rows done and all; `slice_progress` the same of the slices of a volume.

    Raises:
        RequestError: the worklist cannot be used.
        DataError: `out` cannot be written.
    """
    rows = read_worklist(worklist)
    used = {name: predictor.info.get(name) for name in ("thresholds", "zone_rule", "preprocessing")}
    settings = {"weights": predictor.model_record()["weights_sha256"], "dicom": dicom, **used, **asdict(volume)}
    asked = [{**asdict(row), "file": _file_state(row, worklist.parent), **settings} for row in rows]
    folders = [out / f"{row.number:05d}-{_digest(one)}" for row, one in zip(rows, asked, strict=True)]
    results = [_done(folder) or Result(row.number, folder.name) for row, folder in zip(rows, folders, strict=True)]
    for index, (row, folder) in enumerate(zip(rows, folders, strict=True)):
        if results[index].status != "done":
            results[index] = _ask(predictor, row, folder, worklist.parent, volume, dicom, slice_progress)
            _write_table(out / TABLE_FILE, results)
        if progress:
            progress(index + 1, len(rows))
    _write_table(out / TABLE_FILE, results)
    return results


def _ask(
    predictor: Predictor,
    row: WorklistRow,
    folder: Path,
    root: Path,
    volume: VolumeOptions,
    dicom: bool,
    slice_progress: Progress | None,
) -> Result:
    try:
        if not row.image:
            raise RequestError(f"row {row.number}: names no image; fill in its cell")
        session = predictor.open(
            root / row.image, modality=row.modality, volume=volume, series_uid=row.series, frame=row.frame
        )
        answer = session.ask(row.question, progress=slice_progress)
        can_be_dicom = session.source.series is not None and row.frame is None  # none refers to one frame of a video
        session.write(folder, answer, dicom=dicom and can_be_dicom)
    except PrsmedError as error:
        return Result(row.number, folder.name, status="failed", error=str(error))
    # A library may fail on one study in a way nobody has met yet; the others must still be asked.
    except Exception as error:
        # The library's own words may quote a patient's name; they go no further.
        logger.error("row %d failed unexpectedly: %s", row.number, type(error).__name__)
        told = f"unexpected {type(error).__name__}; ask this study alone with `prsmed ask` to see where it comes from"
        return Result(row.number, folder.name, status="failed", error=told)
    result = _result(row, folder, answer)
    write_atomically(folder / DONE_FILE, json.dumps(asdict(result), indent=2, ensure_ascii=False) + "\n")
    return result


def _result(row: WorklistRow, folder: Path, answer: Answer) -> Result:
    statistics = answer.volume_statistics
    found: list[dict[str, Any]] = (
        statistics["findings"] if statistics else [asdict(finding) for finding in answer.objects[0].findings]
    )
    return Result(
        row.number,
        folder.name,
        status="done",
        text=answer.text,
        zones=";".join(finding["zone"] for finding in found),
        patient_side=";".join(finding["patient_side"] for finding in found),
        volume_ml=f"{statistics['volume_ml']:g}" if statistics else "",
        contradictions=";".join(answer.contradictions),
        warnings=";".join(answer.warnings),
    )


def _done(folder: Path) -> Result | None:
    try:
        return Result(**json.loads((folder / DONE_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _file_state(row: WorklistRow, root: Path) -> list[Any]:
    """Which file is meant, and whether it is still the one that was asked: of a folder, every DICOM file in it."""
    if not row.image:
        return []
    image = root / row.image
    files = sorted(filter(is_dicom, image.rglob("*"))) if image.is_dir() else [image]
    state: list[Any] = [str(image.resolve())]
    for file in files:
        try:
            state.append([file.name, file.stat().st_size, file.stat().st_mtime_ns])
        except OSError:
            state.append([file.name])
    return state


def _digest(asked: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:10]


def _write_table(path: Path, results: list[Result]) -> None:
    lines = io.StringIO()
    table = csv.DictWriter(lines, list(Result.__dataclass_fields__))
    table.writeheader()
    table.writerows(asdict(result) for result in results)
    write_atomically(path, lines.getvalue())
