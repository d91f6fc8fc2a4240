"""The endpoints that take files or work: ours in the place of MONAI Label's, at the same addresses."""

from __future__ import annotations

import json
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, File, Form, HTTPException, Request, UploadFile
from fastapi.responses import FileResponse, JSONResponse, Response
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.async_tasks.task import AsyncTask
from requests_toolbelt import MultipartEncoder
from starlette.background import BackgroundTask

from bundle.monailabel.asked import (
    ask_request,
    batch_request,
    label_request,
    parse_params,
    train_request,
)
from bundle.monailabel.audit import AuditLog
from bundle.monailabel.studies import label_on_grid, series_as_file
from bundle.monailabel.turns import BusyError, Turns
from prsmed.data.readers import IMAGE_SUFFIXES, VOLUME_SUFFIXES
from prsmed.data.readers.extent import require_modest
from prsmed.errors import CheckpointError, DataError, PrsmedError, RequestError

router = APIRouter()
_STATUS = {RequestError: 400, DataError: 422, CheckpointError: 503}


def refusal(request: Request, error: Exception) -> JSONResponse:
    """The reply to a request that cannot be answered: the error's sentence for the client, its kind for the log."""
    if isinstance(error, BusyError):
        _told(request)["refused"] = "busy"
        return JSONResponse({"detail": str(error)}, status_code=503, headers={"Retry-After": "5"})
    assert isinstance(error, PrsmedError)
    _told(request)["refused"] = type(error).__name__
    # our sentences begin with the file's path, which the client need not know
    detail = str(error)
    for path in getattr(request.state, "private_paths", ()):
        detail = detail.replace(str(path), "the image")
    return JSONResponse({"detail": detail}, status_code=_STATUS.get(type(error), 400))


@router.put("/session/")
def upload(request: Request, files: Annotated[list[UploadFile], File()], uncompress: bool = False) -> dict[str, Any]:
    """Keep one image for the questions of one client, under a name that cannot be guessed."""
    if uncompress or len(files) != 1:
        raise RequestError("upload: expected one image file; archives and several files are not taken, send a NIfTI")
    with tempfile.TemporaryDirectory(prefix="prsmed-upload-") as folder:
        image = _received(files[0], Path(folder), IMAGE_SUFFIXES)
        request.state.private_paths = [image]
        require_modest(image)
        sessions = app_instance().sessions()
        session_id, info = sessions.add_session(str(image), session_id=str(uuid.uuid4()))
    _told(request)["session"] = _log(request).hashed(session_id)
    return {"session_id": session_id, "session_info": {"name": session_id, "expiry": info.expiry}}


@router.post("/infer/{model}")
def infer(
    request: Request,
    model: str,
    image: str = "",
    session_id: str = "",
    output: str = "all",
    params: Annotated[str, Form()] = "{}",
    file: Annotated[UploadFile | None, File()] = None,
    label: Annotated[UploadFile | None, File()] = None,
) -> Response:
    """Answer a question: a multipart reply of `params` (JSON) and `image` (the label map), or one of the two."""
    app = app_instance()
    task = app._infers.get(model)
    if task is None:
        raise HTTPException(404, "there is no such model; GET /info/ lists them")
    if file is not None or label is not None:
        raise RequestError("infer: takes no file; upload the image to /session/ and name the session")
    asked = ask_request(parse_params(params))
    path = _session_image(session_id) if session_id else app.study(image)
    request.state.private_paths = [path]
    told = _told(request)
    told.update(model=model, question=_log(request).hashed(asked.question), characters=len(asked.question))
    turns: Turns = request.app.state.turns
    label_file, answered = turns.take(lambda: task.answer(path, asked))
    told.update(present=answered["present"], weights=answered["model"]["weights_sha256"][:12])
    if not session_id:
        app.remember((_caller(request), image), answered)
    return _reply(Path(label_file), answered, output)


@router.get("/datastore/image")
def download(request: Request, image: str) -> FileResponse:
    """The file of an image; of a DICOM series one NIfTI on the grid that labels are made on."""
    path = app_instance().study(image)
    if path.is_file():
        return FileResponse(path, media_type="application/octet-stream", filename=path.name)
    request.state.private_paths = [path]
    folder = tempfile.mkdtemp(prefix="prsmed-series-")
    done = BackgroundTask(shutil.rmtree, folder)
    try:
        file = series_as_file(path, Path(folder))
    except BaseException:
        shutil.rmtree(folder)
        raise
    name = image + ("".join(file.suffixes) if file.parent == Path(folder) else ".dcm")
    return FileResponse(file, media_type="application/octet-stream", filename=name, background=done)


@router.head("/datastore/image")
def has_image(image: str) -> Response:
    """Whether the studies hold an image; a series is not fetched for that."""
    return Response(status_code=200 if image in app_instance().datastore().list_images() else 404)


@router.put("/datastore/label")
def save_label(
    request: Request,
    image: str,
    label: Annotated[UploadFile, File()],
    tag: str = "final",
    params: Annotated[str, Form()] = "{}",
) -> dict[str, str]:
    """Save a corrected label with its question and answer, or with what its sender last asked of the image."""
    app = app_instance()
    said = label_request(parse_params(params))
    target = app.study(image)
    known = app.told.get((_caller(request), image), {})
    if said.question not in (None, known.get("question")):
        known = {}  # the model's answer to another question says nothing about this label
    question = said.question or known.get("question")
    name, kind, _ = app.served_by_name["prsmed"].predictor.name_target(question or "")
    info = {
        "question": question,
        "target": name,
        "kind": kind,
        "answer": said.answer,
        "modality": said.modality or known.get("modality"),
        "model_answer": known.get("answer"),
        "model": known.get("model"),
        "saved_by": _told(request)["who"],
    }
    with tempfile.TemporaryDirectory(prefix="prsmed-upload-") as folder:
        sent = _received(label, Path(folder), VOLUME_SUFFIXES)
        request.state.private_paths = [sent, target]
        mask = label_on_grid(sent, target, Path(folder))
        app.datastore().save_label(image, str(mask), tag or "final", info)
    return {"image": image, "label": image, "tag": tag or "final"}


@router.post("/batch/infer/{model}")
def batch(
    request: Request, model: str, images: str = "all", params: Annotated[dict[str, Any] | None, Body()] = None
) -> Any:
    """Ask one question of many images, in a process of its own; labels are saved under `original`."""
    if model not in app_instance()._infers:
        raise HTTPException(404, "there is no such model; GET /info/ lists them")
    checked = {"label_tag": "original", **batch_request(params or {})}
    # one image after the other, in the app's own way
    checked |= {"device": "cpu", "multi_gpu": False, "max_workers": 1, "result_extension": ".nrrd"}
    _told(request)["model"] = model
    return _started("batch_infer", {"model": model, "images": images}, checked)


@router.post("/train/")
@router.post("/train/{model}")
def train(request: Request, model: str = "", params: Annotated[dict[str, Any] | None, Body()] = None) -> Any:
    """Start a training from the served weights; one at a time."""
    trainers = app_instance()._trainers
    model = model or next(iter(trainers), "")
    if model not in trainers:
        raise HTTPException(404, "there is no such model to train; GET /info/ lists them")
    params = params or {}
    nested = params.get(model)  # the stock client asks for every model at once like that
    checked = vars(train_request(nested if isinstance(nested, dict) else params))
    _told(request)["model"] = model
    return _started("train", {"model": model}, dict(checked))


@router.get("/prsmed/candidates")
def candidates() -> list[dict[str, Any]]:
    """The fine-tuned models, and which one answers."""
    return app_instance().served_by_name["prsmed"].candidates()


@router.post("/prsmed/accept")
def accept(request: Request, run: str) -> dict[str, Any]:
    """Let a fine-tuned model answer from now on."""
    told = _told(request)
    told["run"] = run
    return app_instance().served_by_name["prsmed"].accept(run, who=told["who"])


def _started(method: str, request: dict[str, Any], params: dict[str, Any]) -> Any:
    result, detail = AsyncTask.run(method, request=request, params=params)
    if result is None:
        raise BusyError(f"{detail.strip('+ ')}; wait, or stop it")
    return result


def _received(upload: UploadFile, folder: Path, suffixes: tuple[str, ...]) -> Path:
    """The sent file under a name of ours; of its own only the suffix is used."""
    name = (upload.filename or "").lower()
    suffix = max((suffix for suffix in suffixes if name.endswith(suffix)), key=len, default=None)
    if suffix is None:
        raise RequestError(f"upload: unknown kind of file; expected one of {', '.join(suffixes)}")
    path = folder / f"image{suffix}"
    with path.open("wb") as stream:
        shutil.copyfileobj(upload.file, stream)
    return path


def _session_image(session_id: str) -> Path:
    info = app_instance().sessions().get_session(session_id)
    if info is None:
        raise DataError("session: unknown or expired; upload the image again")
    return Path(info.image)


def _reply(label_file: Path, params: Mapping[str, Any], output: str) -> Response:
    done = BackgroundTask(shutil.rmtree, label_file.parent)
    if output == "json":
        return JSONResponse(dict(params), background=done)
    if output == "image":
        return FileResponse(
            label_file, media_type="application/octet-stream", filename=label_file.name, background=done
        )
    with label_file.open("rb") as stream:
        fields = {
            "params": (None, json.dumps(params), "application/json"),
            "image": (label_file.name, stream, "application/octet-stream"),
        }
        encoded = MultipartEncoder(fields=fields)
        return Response(encoded.to_string(), media_type=encoded.content_type, background=done)


def _caller(request: Request) -> str:
    """Who asks: the name of a login, else the address."""
    told = _told(request)
    return told["who"] or told["from"]


def _told(request: Request) -> dict[str, Any]:
    """What the gate writes about this request."""
    return request.state.audit


def _log(request: Request) -> AuditLog:
    return request.app.state.audit_log
