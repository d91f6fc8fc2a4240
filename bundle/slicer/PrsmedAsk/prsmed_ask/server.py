"""The MONAI Label server as this module uses it: the requests of Slicer's own MONAI Label module, and three of ours."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import multipart


class ServerError(Exception):
    """The server refused or cannot be reached; the message is for the user, `status` the HTTP status or 0."""

    def __init__(self, message: str, status: int = 0):
        super().__init__(message)
        self.status = status

    @property
    def is_busy(self) -> bool:
        """Whether the same request may succeed a little later."""
        return self.status == 503


@dataclass(frozen=True)
class Reply:
    """What came back for a question: the answer's record, and the file of its label map."""

    params: dict[str, Any]
    label: Path


class LabelServer:
    """One server.

    Args:
        url: for example http://127.0.0.1:8000
        token: a bearer token, where the server asks for a login.
        timeout_s: of one request; a large volume can take minutes.
    """

    def __init__(self, url: str, *, token: str | None = None, timeout_s: float = 600.0):
        scheme = urllib.parse.urlsplit(url).scheme
        if scheme not in ("http", "https"):
            raise ServerError(f"{url}: no address of a server; write http://... or https://...")
        self.url = url.rstrip("/")
        self.token = token
        self.timeout_s = timeout_s

    def login(self, username: str, password: str) -> None:
        """Fetch a token from the realm of the server, and use it from now on."""
        form = urllib.parse.urlencode({"username": username, "password": password, "grant_type": "password"})
        reply = self._send("POST", "/auth/token", form.encode(), "application/x-www-form-urlencoded")
        self.token = json.loads(reply[1])["access_token"]

    def needs_login(self) -> bool:
        """Whether the server asks for a token."""
        try:
            return bool(self._json("GET", "/auth/").get("enabled"))
        except ServerError as error:
            if error.status == 404:
                return False
            raise

    def info(self) -> dict[str, Any]:
        """Models, their options, training, data store."""
        return self._json("GET", "/info/")

    def next_sample(self, strategy: str = "random") -> dict[str, Any]:
        """An image to label next; empty where there is none."""
        return self._json("POST", f"/activelearning/{_quoted(strategy)}", {"client_id": "prsmed-slicer"})

    def download_image(self, image_id: str, out: Path) -> Path:
        """An image of the studies, into a file that is named by the server's reply only in its suffix."""
        headers, body = self._send("GET", f"/datastore/image?image={_quoted(image_id)}")
        name = headers.get("content-disposition", "").rstrip('"')
        suffix = ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix
        path = out / f"image{suffix}"
        path.write_bytes(body)
        return path

    def upload(self, image: Path) -> str:
        """Send an image for the questions of this session; returns the session's id."""
        content_type, body = multipart.encode({}, {"files": image})
        _, reply = self._send("PUT", "/session/", body, content_type)
        return str(json.loads(reply)["session_id"])

    def ask(
        self, out: Path, options: dict[str, Any], *, model: str = "prsmed", image_id: str = "", session_id: str = ""
    ) -> Reply:
        """Ask about an image of the studies or of a session.

        Args:
            out: a folder for the label map, an NRRD.
            options: `question`, and where they matter `modality`, `axis`, `slice`.
            model: which of the server's.
        """
        params = {"result_extension": ".nrrd", "result_dtype": "uint8", **options}
        query = f"/infer/{_quoted(model)}?image={_quoted(image_id)}"
        if session_id:
            query += f"&session_id={_quoted(session_id)}"
        content_type, body = multipart.encode({"params": json.dumps(params)}, {})
        headers, reply = self._send("POST", query, body, content_type)
        try:
            parts = multipart.decode(headers.get("content-type", ""), reply)
            answered, label = json.loads(parts["params"]), parts["image"]
        except (KeyError, ValueError) as error:
            raise ServerError(f"the server's reply cannot be read ({error}); is it of another version?") from error
        path = out / "label.nrrd"
        path.write_bytes(label)
        return Reply(answered, path)

    def save_label(self, image_id: str, label: Path, *, question: str, answer: str = "", modality: str = "") -> None:
        """Save a corrected label map with the question it answers, and the corrected sentence where there is one."""
        params = {"question": question, "answer": answer or None, "modality": modality or None}
        content_type, body = multipart.encode({"params": json.dumps(params)}, {"label": label})
        self._send("PUT", f"/datastore/label?image={_quoted(image_id)}&tag=final", body, content_type)

    def train(self, max_epochs: int) -> dict[str, Any]:
        """Start a training on the corrected labels."""
        return self._json("POST", "/train/prsmed", {"max_epochs": max_epochs})

    def training(self) -> dict[str, Any]:
        """The newest training: `status` is SUBMITTED, RUNNING, DONE, ERROR or STOPPED."""
        return self._json("GET", "/train/")

    def candidates(self) -> list[dict[str, Any]]:
        """The fine-tuned models, oldest first."""
        return self._json("GET", "/prsmed/candidates")

    def accept(self, run: str) -> dict[str, Any]:
        """Let a fine-tuned model answer from now on; `initial` goes back."""
        return self._json("POST", f"/prsmed/accept?run={_quoted(run)}")

    def _json(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        sent = None if body is None else json.dumps(body).encode()
        try:
            return json.loads(self._send(method, path, sent, "application/json")[1])
        except ValueError as error:
            raise ServerError("the server's reply is no JSON; is this a MONAI Label server?") from error

    def _send(
        self, method: str, path: str, body: bytes | None = None, content_type: str = "application/json"
    ) -> tuple[dict[str, str], bytes]:
        request = urllib.request.Request(self.url + path, data=body, method=method)
        if body is not None:
            request.add_header("Content-Type", content_type)
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_s) as response:
                return {key.lower(): value for key, value in response.headers.items()}, response.read()
        except urllib.error.HTTPError as error:
            raise ServerError(_reason(error), error.code) from error
        except (OSError, urllib.error.URLError) as error:
            reason = getattr(error, "reason", error)
            raise ServerError(f"{self.url} cannot be reached ({reason}); is the server running?") from error


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        detail = json.loads(error.read())["detail"]
    except (ValueError, KeyError, TypeError):
        detail = error.reason
    return str(detail)


def _quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="")
