"""Stored predictions: what a system drew and said, kept apart from any score, so that scoring repeats without it.

A folder holds `about.json` (which system, data and questions), `answers-*.jsonl` (one line per question, appended) and
`masks/` (one 8-bit soft map per question, on the grid of the source picture). A line is written after its mask, so a
killed run leaves whole predictions, and the next run asks only what is missing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prsmed.data.readers.picture import decode_picture
from prsmed.data.writers.atomic import write_atomically
from prsmed.data.writers.picture import write_picture
from prsmed.errors import DataError, RequestError

ABOUT_FILE = "about.json"


@dataclass(frozen=True)
class Prediction:
    """One answer as a system gave it.

    Attributes:
        key: of the item that was asked.
        question, query_kind: the words, and where they came from.
        soft_HW: uint8 mask probabilities, 0 to 255, on the grid of the source picture.
        presence_prob: that the target is there, or None for a system that draws only.
        model_text: its sentence, or None for a system without sentences.
        box_xyxy_px: what its box decoder says, continuous; () where that says nothing is there, None for a system
            without one.
        agreed: whether the model was sure what the answer is about; None where that was not decided.
    """

    key: str
    question: str
    query_kind: str
    soft_HW: np.ndarray
    presence_prob: float | None
    model_text: str | None
    box_xyxy_px: tuple[float, ...] | None = None
    agreed: bool | None = None


@dataclass(frozen=True)
class _Line:
    key: str
    question: str
    query_kind: str
    mask: str
    presence_prob: float | None
    model_text: str | None
    box_xyxy_px: Sequence[float] | None = None
    agreed: bool | None = None


class PredictionStore:
    """Predictions in a folder.

    Args:
        folder: made where it does not exist.
        about: facts that must be the same for every prediction in the folder (model, data, questions); None to read
            a folder as it is.

    Raises:
        DataError: the folder holds predictions about something else or damaged ones, or cannot be read or written.
    """

    def __init__(self, folder: str | Path, about: Mapping[str, Any] | None = None):
        self.folder = Path(folder)
        path = self.folder / ABOUT_FILE
        if about is not None and not any(self.folder.glob("answers-*.jsonl")):  # nothing is lost by another system
            write_atomically(path, json.dumps(about, indent=2, ensure_ascii=False, default=str) + "\n")
        try:
            self.about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{self.folder}: holds no predictions ({error}); run an evaluation first") from error
        wanted = json.loads(json.dumps(about, default=str)) if about is not None else self.about
        if different := sorted(name for name in {*wanted, *self.about} if wanted.get(name) != self.about.get(name)):
            raise DataError(
                f"{self.folder}: holds predictions of another evaluation (different: {', '.join(different)});"
                " choose another --out, or delete the folder"
            )
        self._lines = {line.key: line for line in self._read_lines()}

    def _read_lines(self) -> Iterable[_Line]:
        for path in sorted(self.folder.glob("answers-*.jsonl")):
            *whole, _ = path.read_bytes().split(b"\n")  # the last is what a killed run left, or empty
            try:
                yield from (_Line(**json.loads(line)) for line in whole)
            except (ValueError, TypeError) as error:
                remedy = f"delete {self.folder} and run again"
                raise DataError(f"{path}: holds a damaged line ({error}); {remedy}") from error

    def refresh(self) -> None:
        """See what other processes have added."""
        self._lines = {line.key: line for line in self._read_lines()}

    def __len__(self) -> int:
        return len(self._lines)

    def __contains__(self, key: str) -> bool:
        return key in self._lines

    def add(self, prediction: Prediction, *, rank: int = 0) -> None:
        """Store one prediction; each process (`rank`) appends to a file of its own."""
        # A hash, not the key: keys may hold slashes, and must not put a patient's name into a file name.
        name = f"masks/{hashlib.sha256(prediction.key.encode()).hexdigest()[:24]}.png"
        write_picture(self.folder / name, prediction.soft_HW)
        presence_prob = None if prediction.presence_prob is None else round(prediction.presence_prob, 4)
        line = _Line(
            prediction.key,
            prediction.question,
            prediction.query_kind,
            name,
            presence_prob,
            prediction.model_text,
            prediction.box_xyxy_px,
            prediction.agreed,
        )
        path = self.folder / f"answers-{rank}.jsonl"
        _end_broken_line(path)
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(line)) + "\n")
        self._lines[prediction.key] = line

    def get(self, key: str) -> Prediction:
        """The prediction for an item.

        Raises:
            RequestError: there is none.
            DataError: its mask cannot be read.
        """
        if key not in self._lines:
            raise RequestError(f"{self.folder}: holds no prediction for {key}; run the evaluation again to add it")
        line = self._lines[key]
        soft_HW = decode_picture(self.folder / line.mask)[0]
        box = None if line.box_xyxy_px is None else tuple(line.box_xyxy_px)
        return Prediction(
            key,
            line.question,
            line.query_kind,
            soft_HW[..., 0],
            line.presence_prob,
            line.model_text,
            box,
            line.agreed,
        )


def to_soft(prob_HW: np.ndarray) -> np.ndarray:
    """Probabilities in [0, 1] as 8-bit values, so that 0.5 and more is 128 and more."""
    return np.floor(np.clip(prob_HW, 0, 1) * 255 + 0.5).astype(np.uint8)


def _end_broken_line(path: Path) -> None:
    """Cut what a killed run left of a line."""
    if not path.exists():
        return
    with path.open("rb+") as stream:
        size = stream.seek(0, os.SEEK_END)
        if size == 0:
            return
        stream.seek(size - 1)
        if stream.read(1) == b"\n":
            return
        stream.seek(0)
        stream.truncate(stream.read().rfind(b"\n") + 1)
