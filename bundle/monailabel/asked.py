"""What a client may send, key by key and type by type. Texts stay texts: nothing of a request is ever evaluated."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from prsmed.errors import RequestError
from prsmed.types import MODALITIES, SLICE_AXES, SliceRef

AS_STATED = "as the file says"
WHOLE_VOLUME = "whole volume"
DEFAULT_QUESTION = "Where is the lesion?"
"""What the options table shows at first. OHIF sends no option until somebody has opened that table."""
MAX_QUESTION_CHARACTERS = 1000
MAX_ANSWER_CHARACTERS = 2000
MAX_PARAMS_BYTES = 64 * 1024
LABEL_TAGS = ("final", "original")
BATCH_IMAGES = ("all", "labeled", "unlabeled")

# An id is a file's name without its suffix, or a DICOM UID: never a path, never a hidden file.
_ID = re.compile(r"(?!\.)[^/\\\x00-\x1f\x7f]{1,200}")
_NAME = re.compile(r"(?!\.)[\w.-]{1,100}", re.ASCII)
_SESSION_ID = re.compile(r"[0-9a-f-]{32,36}")


@dataclass(frozen=True)
class AskRequest:
    """One question about one image, and the form its label map is to have.

    Attributes:
        modality: one of `MODALITIES`; None leaves it to the file.
        slice_index: along `axis`, counted on the stored array; None asks the whole volume.
        extension: `.nrrd` or `.nii.gz`.
    """

    question: str
    modality: str | None = None
    axis: str = SLICE_AXES[0]
    slice_index: int | None = None
    extension: str = ".nrrd"
    dtype: str = "uint8"
    compress: bool = True

    @property
    def position(self) -> SliceRef | None:
        """The one slice that is asked about."""
        return None if self.slice_index is None else SliceRef(self.axis, self.slice_index)


@dataclass(frozen=True)
class TrainRequest:
    """How long to go on from the served model, and the share of the labelled images that is held back."""

    max_epochs: int = 4
    val_split: float = 0.25


@dataclass(frozen=True)
class LabelRequest:
    """What is known about a label that a person saved; None where the client does not say."""

    question: str | None = None
    answer: str | None = None
    modality: str | None = None


def ask_options() -> dict[str, Any]:
    """The options that Slicer's table shows: a text is a cell, a list a drop-down whose first entry is sent."""
    return {
        "question": DEFAULT_QUESTION,
        "modality": [AS_STATED, *MODALITIES],
        "axis": list(SLICE_AXES),
        "slice": WHOLE_VOLUME,
    }


def parse_params(text: str) -> dict[str, Any]:
    """The JSON object of a form's `params` field.

    Raises:
        RequestError: it is too large or no JSON object.
    """
    if len(text) > MAX_PARAMS_BYTES:
        raise RequestError(f"params: {len(text)} characters, at most {MAX_PARAMS_BYTES}; shorten the question")
    try:
        params = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise RequestError("params: not JSON; send one JSON object") from error
    if not isinstance(params, dict):
        raise RequestError(f"params: {type(params).__name__}, expected a JSON object; send one")
    return params


def ask_request(params: Mapping[str, Any]) -> AskRequest:
    """Check the options of an inference; where none names a question, it is the one that the options table shows.

    Raises:
        RequestError: no option at all (a form that could not be read), an unknown key, a wrong type or value, an empty
            question.
    """
    if not params:
        raise RequestError(f"params: missing; send at least a question, for example: {DEFAULT_QUESTION}")
    known = {"question": DEFAULT_QUESTION, **_checked(params, _ASK, "options of a question")}
    if not known["question"]:
        raise RequestError(f"question: empty; write one, for example: {DEFAULT_QUESTION}")
    return AskRequest(**known)


def train_request(params: Mapping[str, Any]) -> TrainRequest:
    """Check the options of a training; errors as of `ask_request`."""
    return TrainRequest(**_checked(params, _TRAIN, "options of a training"))


def label_request(params: Mapping[str, Any]) -> LabelRequest:
    """Check what comes with a saved label; errors as of `ask_request`."""
    return LabelRequest(**_checked(params, _LABEL, "parameters of a label"))


def batch_request(params: Mapping[str, Any]) -> dict[str, Any]:
    """Check the options of a batch: those of a question, the largest number of images, the tag to save under.

    Raises:
        RequestError: as `ask_request`.
    """
    own = {key: params[key] for key in ("max_batch_size", "label_tag") if key in params}
    # what stock clients send beside it; the app alone decides how it works
    ignored = ("device", "multi_gpu", "gpus", "logging", "save_label", "max_workers")
    asked = {key: value for key, value in params.items() if key not in own and key not in ignored}
    ask_request(asked)
    limits: dict[str, tuple[str | None, _Check]] = {
        "max_batch_size": ("max_batch_size", _whole_number(0, 100_000)),
        "label_tag": ("label_tag", _one_of(LABEL_TAGS)),
    }
    return {**asked, **_checked(own, limits, "options of a batch")}


def check_query(name: str, value: str) -> None:
    """Check one value of a URL's query.

    Raises:
        RequestError: it is none that this key may have.
    """
    pattern, choices = _QUERY[name]
    if pattern and not (value == "" or pattern.fullmatch(value)):
        raise RequestError(f"{name}: not an id; an id holds no path, no control character, and at most 200 characters")
    if choices and value not in choices:
        raise RequestError(f"{name}: unknown value; expected one of {', '.join(choices)}")


def check_name(name: str) -> str:
    """A run's name as it is, where it can be one.

    Raises:
        RequestError: it is none.
    """
    if not _NAME.fullmatch(name):
        raise RequestError("run: not the name of a run; GET /prsmed/candidates lists them")
    return name


_QUERY: dict[str, tuple[re.Pattern[str] | None, tuple[str, ...]]] = {
    "image": (_ID, ()),
    "label": (_ID, ()),
    "session_id": (_SESSION_ID, ()),
    "tag": (None, ("", *LABEL_TAGS)),
    "images": (None, BATCH_IMAGES),
    "output": (None, ("", "all", "image", "json", "stats", "train")),
    "check_sum": (re.compile(r"(?:SHA256:)?[0-9a-f]{64}"), ()),
    "uncompress": (None, ("false", "False")),
    "expiry": (re.compile(r"\d{1,6}"), ()),
    "all": (None, ("true", "false", "True", "False")),
    "check_if_running": (None, ("true", "false", "True", "False")),
    "update_ts": (None, ("true", "false", "True", "False")),
    "run_sync": (None, ("false", "False")),
    "enqueue": (None, ("true", "false", "True", "False")),
    "run": (_NAME, ()),
    "client_id": (_ID, ()),
}

_Check = Callable[[str, Any], Any]


def _checked(params: Mapping[str, Any], checks: Mapping[str, tuple[str | None, _Check]], what: str) -> dict[str, Any]:
    checked = {}
    for key, value in params.items():
        if key not in checks:
            known = ", ".join(sorted(checks))
            raise RequestError(f"{key[:40]!r}: not among the {what} ({known}); leave it away")
        name, check = checks[key]
        value = check(key, value)
        if name:
            checked[name] = value
    return checked


def _text(limit: int) -> _Check:
    def check(key: str, value: Any) -> str | None:
        if value is None:
            return None
        if not isinstance(value, str):
            raise RequestError(f"{key}: {type(value).__name__}, expected a text; send one")
        if len(value) > limit:
            raise RequestError(f"{key}: {len(value)} characters, at most {limit}; shorten it")
        return value.strip() or None

    return check


def _one_of(choices: tuple[Any, ...]) -> _Check:
    def check(key: str, value: Any) -> Any:
        value = value[0] if isinstance(value, list) and value else value  # an untouched drop-down, as some clients send
        if not any(value == choice and type(value) is type(choice) for choice in choices):
            raise RequestError(f"{key}: unknown value; expected one of {', '.join(map(str, choices))}")
        return value

    return check


def _whole_number(low: int, high: int) -> _Check:
    def check(key: str, value: Any) -> int:
        if isinstance(value, str) and re.fullmatch(r"\d{1,6}", value, re.ASCII):  # Slicer's table holds texts
            value = int(value)
        if type(value) is not int or not low <= value <= high:
            raise RequestError(f"{key}: expected a whole number from {low} to {high}; correct it")
        return value

    return check


def _share(low: float, high: float) -> _Check:
    def check(key: str, value: Any) -> float:
        if isinstance(value, str) and re.fullmatch(r"0?\.\d{1,4}", value, re.ASCII):
            value = float(value)
        if type(value) is not float or not low <= value <= high:
            raise RequestError(f"{key}: expected a number from {low} to {high}; correct it")
        return value

    return check


def _slice(key: str, value: Any) -> int | None:
    if value is None or (isinstance(value, str) and value.strip().lower() in ("", "all", WHOLE_VOLUME)):
        return None
    try:
        return _whole_number(0, 99_999)(key, value.strip() if isinstance(value, str) else value)
    except RequestError as error:
        raise RequestError(f"slice: expected {WHOLE_VOLUME!r} or an index counted from 0; correct it") from error


def _modality(key: str, value: Any) -> str | None:
    value = _one_of((AS_STATED, "", *MODALITIES))(key, "" if value is None else value)
    return value if value in MODALITIES else None


def _anything(key: str, value: Any) -> None:
    """What stock clients send and this app has no use for; it goes nowhere."""


_ASK: dict[str, tuple[str | None, _Check]] = {
    "question": ("question", _text(MAX_QUESTION_CHARACTERS)),
    "modality": ("modality", _modality),
    "axis": ("axis", _one_of(SLICE_AXES)),
    "slice": ("slice_index", _slice),
    "result_extension": ("extension", _one_of((".nrrd", ".nii.gz"))),
    "result_dtype": ("dtype", _one_of(("uint8", "uint16"))),
    "result_compress": ("compress", _one_of((True, False))),
    **dict.fromkeys(("client_id", "label_info", "restore_label_idx", "device", "model"), (None, _anything)),
}
_TRAIN: dict[str, tuple[str | None, _Check]] = {
    "max_epochs": ("max_epochs", _whole_number(1, 50)),
    "val_split": ("val_split", _share(0.1, 0.5)),
    **dict.fromkeys(("client_id", "model"), (None, _anything)),
}
_LABEL: dict[str, tuple[str | None, _Check]] = {
    "question": ("question", _text(MAX_QUESTION_CHARACTERS)),
    "answer": ("answer", _text(MAX_ANSWER_CHARACTERS)),
    "modality": ("modality", _modality),
    **dict.fromkeys(("client_id", "label_info"), (None, _anything)),
}
