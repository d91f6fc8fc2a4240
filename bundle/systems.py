"""What can be evaluated: a model folder, or the masks and sentences of a system that ran elsewhere."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from monai.inferers import Inferer
from rich.progress import track
from torch import nn

from bundle.data import AskDataset
from bundle.engines import AskInferer
from bundle.scoring import Truths
from bundle.unet import UNetInferer, UNetPredictor
from prsmed.data.containment import file_inside
from prsmed.data.manifest import Manifest
from prsmed.data.predictions import Prediction, PredictionStore, to_soft
from prsmed.data.preprocessing import Preprocessing
from prsmed.data.readers.picture import decode_picture
from prsmed.data.writers.atomic import write_atomically
from prsmed.data.writers.picture import to_display, write_picture
from prsmed.errors import DataError, RequestError
from prsmed.geometry import resize_prob
from prsmed.models.checkpoints import model_folder, read_info
from prsmed.models.feature_cache import keep_maps
from prsmed.models.presets import build_text
from prsmed.predictor import Predictor
from prsmed.samples import Item
from prsmed.text.encode import TextEncoder
from prsmed.text.templates import TemplateBank

_STRETCH_ALLOWED = 0.02


@dataclass(frozen=True)
class Asker:
    """A loaded model and what its questions need on the way in."""

    network: nn.Module
    preprocessing: Preprocessing
    text: TextEncoder
    inferer: Inferer


def model_info(model: str) -> dict[str, Any]:
    """`model.json` of a shipped model or of a folder that training wrote; CheckpointError where there is none."""
    return read_info(model_folder(model))


def load_asker(
    model: str, device: Any, *, mode: str = "free", words: bool = True, feature_cache: str | None = None
) -> Asker:
    """Load a model for evaluation: PRS-Med, MediSee, or the U-Net they are compared with.

    Args:
        mode: how MediSee is asked (`prsmed.models.medisee.MODES`).
        words: False leaves the sentences out, which take most of the time.
        feature_cache: folder that keeps the maps of the encoder, so that a picture is encoded once for several
            evaluations of models that stand on the same encoder; None: nothing is kept.
    """
    folder = model_folder(model)
    if read_info(folder)["task"] == "unet":
        unet = UNetPredictor.load(folder, device=str(device))
        return Asker(unet.network, unet.preprocessing, build_text("prs_med", "tiny"), UNetInferer())
    predictor = Predictor.load(folder, device=str(device), mode=mode)
    if feature_cache is not None:
        keep_maps(predictor.network.encoder, feature_cache)
    inferer = AskInferer(predictor.text, words=words, names=predictor.info.get("targets", ()))
    return Asker(predictor.network, predictor.preprocessing, predictor.text, inferer)


def external_record(name: str, answers_csv: str) -> dict[str, Any]:
    """Who answered, as `model_record` says it of a model; the table's hash tells two systems of one name apart.

    Raises:
        RequestError: the table cannot be read.
    """
    try:
        digest = hashlib.sha256(Path(answers_csv).read_bytes()).hexdigest()
    except OSError as error:
        raise RequestError(f"{answers_csv}: cannot be read ({error.strerror}); give the CSV of answers") from error
    return {"name": name, "version": None, "weights_sha256": None, "licence": None, "answers_sha256": digest}


def import_answers(
    answers_csv: str, store: PredictionStore, items: Sequence[Item], *, manifest: Manifest, masks_dir: str | None = None
) -> None:
    """Store what an external system drew and said; `prsmed questions` writes the file to fill in.

    Columns: `key` (of the question), `mask` (a PNG below `masks_dir`; empty: nothing drawn), and where the system has
    them `text` (its sentence; a system without any has no such column, or an empty one) and `presence` (0 to 1). A mask
    is grey, 0 to 255, and covers the whole picture; one of another size is resized.

    Everything is read at every run, because masks may have been corrected since the last one.

    Raises:
        RequestError: a column or an answer is missing, a key occurs twice, or a presence is no probability.
        DataError: a mask cannot be read, lies outside `masks_dir`, or has another shape than its picture; or all masks
            hold 0 and 1 where 0 to 255 is expected.
    """
    path = Path(answers_csv)
    folder = Path(masks_dir) if masks_dir else path.parent
    given = _read_answers(path)
    if unanswered := [item.key for item in items if item.key not in given]:
        raise RequestError(
            f"{path}: {len(unanswered)} of {len(items)} questions are not answered, the first: {unanswered[0]};"
            " answer every row that `prsmed questions` wrote (an empty mask and text are answers too)"
        )
    truths = Truths(manifest)
    speaks = any(row.get("text") for row in given.values())
    strongest = 0
    for index in track(range(len(items))[idist.get_rank() :: idist.get_world_size()], description="reading masks"):
        item = items[index]
        row = given[item.key]
        soft_HW = _soft_of(row["mask"], folder, *truths(item))
        strongest = max(strongest, int(soft_HW.max()))
        store.add(
            Prediction(
                key=item.key,
                question=item.question or row.get("question") or "",
                query_kind="probe" if item.probe else "template",
                soft_HW=soft_HW,
                presence_prob=_presence(row.get("presence"), path, item.key),
                model_text=row["text"] if speaks else None,
            ),
            rank=idist.get_rank(),
        )
    if strongest == 1:
        raise DataError(f"{folder}: no mask holds a value above 1; write masks as 0 and 255, or as 0 to 255")


def write_questions(
    output_dir: str,
    items: Sequence[Item],
    *,
    manifest: Manifest,
    bank: TemplateBank,
    split: str,
    zone_rule: str,
    preprocessing: Sequence[Mapping[str, Any]],
    seed: int,
    long_side_px: int,
) -> int:
    """Write what an evaluation asks: `questions.csv` with empty columns to fill in, and the pictures as shown.

    Args:
        preprocessing: steps of a model; the pictures keep up to `long_side_px` pixels instead of the model's size.

    Returns:
        how many questions there are.
    """
    steps = [
        {**step, "long_side_px": long_side_px} if step["transform"] == "ToCanonicald" else dict(step)
        for step in preprocessing
    ]
    dataset = AskDataset(
        items,
        manifest=manifest,
        preprocessing=Preprocessing(steps),
        text=build_text("prs_med", "tiny"),
        bank=bank,
        zone_rule=zone_rule,
        split=split,
        answers=False,
        seed=seed,
        cache_rate=0.0,
    )
    folder = Path(output_dir)
    lines = io.StringIO()
    table = csv.DictWriter(lines, ["key", "image", "modality", "target", "question", "mask", "text", "presence"])
    table.writeheader()
    for index in track(range(len(items)), description="writing pictures"):
        sample = dataset[index]
        image = f"pictures/{index:05d}.png"
        write_picture(folder / image, to_display(sample["image"].numpy()))
        table.writerow({name: sample[name] for name in ("key", "modality", "target", "question")} | {"image": image})
    write_atomically(folder / "questions.csv", lines.getvalue())
    return len(items)


def _read_answers(path: Path) -> dict[str, Mapping[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            table = csv.DictReader(stream)
            if missing := {"key", "mask"} - set(table.fieldnames or ()):
                raise RequestError(
                    f"{path}: has no column {', '.join(sorted(missing))}; `prsmed questions` writes them"
                )
            return _by_key(path, table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RequestError(f"{path}: cannot be read as a CSV of answers ({error}); see docs/evaluation.md") from error


def _by_key(path: Path, rows: Iterable[dict[str, str]]) -> dict[str, Mapping[str, str]]:
    found: dict[str, Mapping[str, str]] = {}
    for row in rows:
        if None in row or None in row.values():
            raise RequestError(
                f"{path}: the row of {row['key']} has more or fewer cells than the first line; put quotes around cells"
                " with commas"
            )
        if row["key"] in found:
            raise RequestError(f"{path}: answers {row['key']} twice; drop one of the rows")
        found[row["key"]] = row
    return found


def _soft_of(name: str, folder: Path, truth_HW: np.ndarray, spacing_hw_mm: tuple[float, float] | None) -> np.ndarray:
    hw_px = truth_HW.shape
    if not name:
        return np.zeros(hw_px, dtype=np.uint8)
    path = file_inside(folder, name, "answers")
    soft_HWC = decode_picture(path)[0]
    rows, columns = soft_HWC.shape[:2]
    # A slice of a volume is shown with square pixels; a mask may be drawn on what is shown, or on the stored grid.
    squares = (1.0, 1.0 if spacing_hw_mm is None else spacing_hw_mm[0] / spacing_hw_mm[1])
    stretch = (rows / hw_px[0]) / (columns / hw_px[1])
    fits = any(abs(stretch / square - 1) <= _STRETCH_ALLOWED for square in squares)
    if soft_HWC.shape[2] != 1 or soft_HWC.dtype != np.uint8 or not fits:
        raise DataError(
            f"{path}: is {soft_HWC.dtype} {soft_HWC.shape}; expected an 8-bit grey mask as wide for its height as its"
            f" picture, which is {hw_px[0]} x {hw_px[1]} (rows x columns)"
        )
    if (rows, columns) == hw_px:
        return np.asarray(soft_HWC[..., 0])
    return to_soft(resize_prob(torch.from_numpy(soft_HWC[..., 0] / np.float32(255)), hw_px).numpy())


def _presence(text: str | None, path: Path, key: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise RequestError(f"{path}: presence of {key} is {text!r}; expected a number from 0 to 1, or nothing")
    return value
