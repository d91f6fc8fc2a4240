"""Attacks on the real label server: each is refused, logged, and leaves it working. Needs the label environment."""

from __future__ import annotations

import gzip
import http.client
import json
import shutil
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import jwt
import typer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from scripts.label_server import RunningServer, report, running_server

_FORM = "multipart/form-data; boundary=xyz"
_ADDRESS = "Where is the lung nodule?"


def send(
    server: RunningServer,
    method: str,
    path: str,
    body: bytes = b"",
    content_type: str = _FORM,
    token: str = "",
    **headers: str,
) -> tuple[int, bytes]:
    """One raw request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    headers |= {"Content-Type": content_type, **({"Authorization": f"Bearer {token}"} if token else {})}
    try:
        connection.request(method, path, body=body, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    except (BrokenPipeError, ConnectionResetError):  # the server stopped reading a body that is too large
        return 413, b""
    finally:
        connection.close()


def form(params: Any, *, name: str = "params", filename: str = "", content: bytes = b"") -> bytes:
    """A form of one field, and of one file where it has a name."""
    parts = [f'--xyz\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode(), _text(params), b"\r\n"]
    if filename:
        head = f'--xyz\r\nContent-Disposition: form-data; name="files"; filename="{filename}"\r\n\r\n'
        parts = [head.encode(), content, b"\r\n"]
    return b"".join([*parts, b"--xyz--\r\n"])


def bomb() -> bytes:
    """A NIfTI of some kilobytes that promises 64 billion voxels, and begins to deliver; fields as nifti1.h has them."""
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, 4000, 4000, 4000, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 2, 8)  # uint8
    struct.pack_into("<f", header, 108, 352.0)
    header[344:348] = b"n+1\0"
    return gzip.compress(bytes(header) + bytes(30_000_000))


def attacks(server: RunningServer, secret: Path) -> Iterator[tuple[str, str, str, bytes, str]]:
    """Name, method, path, body and content type of each attack; all but the last kind must be refused."""
    ask = form({"question": _ADDRESS, "modality": "ct"})
    outside = str(secret)
    for name, image in (
        ("absolute path", outside),
        ("traversal", f"../{secret.name}"),
        ("traversal, dots", "..%2f..%2fetc%2fpasswd"),
        ("backslashes", "..\\..\\secret"),
        ("null", "a\0b"),
        ("link out of the folder", "link"),
    ):
        yield f"image: {name}", "POST", f"/infer/prsmed?image={quote(image, safe='%')}", ask, _FORM
        yield f"download: {name}", "GET", f"/datastore/image?image={quote(image, safe='%')}", b"", ""
    label = form({}, name="label")
    yield "label tag", "PUT", f"/datastore/label?image=a&tag={quote('../../x', safe='')}", label, _FORM
    yield "label id", "PUT", f"/datastore/label?image={quote('../x', safe='')}", label, _FORM
    yield "new image", "PUT", f"/datastore/image?image={quote('../x', safe='')}", label, _FORM
    yield "session id", "POST", "/infer/prsmed?session_id=..", ask, _FORM
    yield "session path", "GET", "/session/..%2f..%2fhome", b"", ""
    yield "model file", "PUT", "/model/prsmed", label, _FORM
    yield "logs", "GET", "/logs/", b"", ""
    yield "description of the interface", "GET", "/openapi.json", b"", ""
    yield "proxy", "GET", "/proxy/dicom/x", b"", ""
    for key in ("model_filename", "network", "_target_", "config", "cache_transforms"):
        params = {"question": _ADDRESS, "modality": "ct", key: "$__import__('os').getpid()"}
        yield f"key {key}", "POST", "/infer/prsmed?image=ct", form(params), _FORM
    for value in ("$__import__('os').system('id')", "@x", -1, 10**9, True, [1], {"a": 1}, 1e99, None):
        yield f"max_epochs {value!r}", "POST", "/train/prsmed", _text({"max_epochs": value}), "application/json"
    yield "training key", "POST", "/train/prsmed", _text({"config_file": "x"}), "application/json"
    yield "batch key", "POST", "/batch/infer/prsmed", _text({"images": ["/x"]}), "application/json"
    huge = form({"question": "x" * 2**20, "modality": "ct"})
    yield "question of 1 MB", "POST", "/infer/prsmed?image=ct", huge, _FORM
    yield "question of 2000 characters", "POST", "/infer/prsmed?image=ct", form({"question": "x" * 2000}), _FORM
    yield "deep JSON", "POST", "/infer/prsmed?image=ct", form("[" * 60_000), _FORM
    yield "no JSON", "POST", "/infer/prsmed?image=ct", form("{'a': 1}"), _FORM
    yield "malformed form", "POST", "/infer/prsmed?image=ct", b"--xyz\r\nrubbish", _FORM
    yield "no boundary", "PUT", "/session/", b"rubbish", "multipart/form-data"
    yield "oversized upload", "PUT", "/session/", form({}, filename="a.nii", content=bytes(3 * 2**20)), _FORM
    yield "zip", "PUT", "/session/?uncompress=true", form({}, filename="a.zip", content=b"PK"), _FORM
    yield "gzip bomb", "PUT", "/session/", form({}, filename="a.nii.gz", content=bomb()), _FORM
    yield "pickle as image", "PUT", "/session/", form({}, filename="a.pkl", content=b"\x80\x04."), _FORM
    yield "pickle as volume", "PUT", "/session/", form({}, filename="a.nii", content=b"\x80\x04." * 200), _FORM
    yield "pickle as weights", "POST", "/prsmed/accept?run=pickled", b"", ""
    yield "weights elsewhere", "POST", f"/prsmed/accept?run={quote('../../x', safe='')}", b"", ""


def plant(server_home: Path, studies: Path, secret: Path) -> None:
    """A link that leads out of the studies, and a pickle in the place of a trained model."""
    (studies / "link.nii.gz").symlink_to(secret)
    best = server_home / "runs/pickled/best"
    best.mkdir(parents=True)
    (best / "model.safetensors").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    weights = {"file": "model.safetensors", "sha256": "0" * 64}
    info = {"task": "prs_med", "preset": "tiny", "weights": weights, "tokenizer": weights}
    (best / "model.json").write_text(json.dumps(info))


def attack(server: RunningServer, secret: Path) -> None:
    """Every attack: refused with a sentence, written to the audit log, nothing left behind."""
    before = sorted(path.name for path in server.studies.rglob("*"))
    for name, method, path, body, content_type in attacks(server, secret):
        lines = len(server.audit().splitlines())
        status, reply = send(server, method, path, body, content_type)
        logged = new_lines(server, lines)
        assert 400 <= status < 500, (name, status, reply[:300])
        assert b"Traceback" not in reply and str(secret).encode() not in reply and b"/runs/" not in reply, (name, reply)
        assert logged, (name, "is not in the audit log")
        assert all(json.loads(line)["status"] >= 400 for line in logged)
        report(name, status=status, said=reply[:110].decode(errors="replace"))
    for headers in ({"Origin": "https://elsewhere.example"}, {"Origin": "null"}, {"Host": "rebind.example:8000"}):
        for method, path in (("POST", "/prsmed/accept?run=initial"), ("GET", "/datastore/image?image=ct")):
            status, reply = send(server, method, path, **headers)
            assert status == 403, (headers, path, status, reply[:300])
        report(f"another web page, {headers}", status=status, said=reply.decode())
    assert sorted(path.name for path in server.studies.rglob("*")) == before, "something was written"
    for question in ("$__import__('os').getcwd() #1 @network %x", "{{7*7}} ${HOME} `id` '; DROP TABLE x; --"):
        status, reply = send(
            server, "POST", "/infer/prsmed?image=ct&output=json", form({"question": question, "modality": "ct"})
        )
        assert status == 200 and json.loads(reply)["question"] == question, (status, reply[:300])
        report("a question arrives as it is", question=question)


def new_lines(server: RunningServer, before: int) -> list[str]:
    """What the audit log gained; it is written after the reply."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        if logged := server.audit().splitlines()[before:]:
            return logged
        time.sleep(0.02)
    return []


@contextmanager
def realm() -> Iterator[tuple[str, Any]]:
    """An OpenID Connect realm with one key, as far as the server reads it."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    body = json.dumps({"public_key": "".join(public.decode().splitlines()[1:-1])}).encode()

    class Realm(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Realm)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/realms/clinic", key
    finally:
        server.shutdown()


def attack_login(server: RunningServer, issuer: str, key: Any) -> None:
    """Missing, forged, expired and foreign tokens are refused; the right one may do what its roles allow."""
    now = datetime.now(UTC)

    def token(*, roles: tuple[str, ...] = ("monailabel-user",), signer: Any = key, **changes: Any) -> str:
        claims = {"iss": issuer, "exp": now + timedelta(hours=1), "preferred_username": "reader"}
        return jwt.encode({**claims, "realm_access": {"roles": list(roles)}, **changes}, signer, "RS256")

    unsigned = jwt.encode({"iss": issuer, "exp": now + timedelta(hours=1)}, None, "none")
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    admin = ("monailabel-user", "monailabel-admin")
    for name, given, path, expected in (
        ("no token", "", "/info/", 401),
        ("rubbish", "abc", "/info/", 401),
        ("unsigned", unsigned, "/info/", 401),
        ("another key", token(signer=other), "/info/", 401),
        ("expired", token(exp=now - timedelta(minutes=1)), "/info/", 401),
        ("another realm", token(iss="http://elsewhere"), "/info/", 401),
        ("no role", token(roles=()), "/info/", 403),
        ("user", token(), "/info/", 200),
        ("user, stock endpoint", token(), "/datastore/", 200),
        ("user accepts a model", token(), "/prsmed/accept?run=initial", 403),
        ("admin accepts a model", token(roles=admin), "/prsmed/accept?run=initial", 200),
    ):
        method = "POST" if "accept" in path else "GET"
        status, reply = send(server, method, path, token=given)
        assert status == expected, (name, status, reply[:300])
        report(f"login: {name}", status=status)
    assert '"who": "reader"' in server.audit()


def main(volume: Annotated[Path, typer.Argument(help="A CT volume, NIfTI.")]) -> None:
    """Attack a server without and one with a login."""
    with tempfile.TemporaryDirectory() as folder:
        studies, home, secret = Path(folder) / "studies", Path(folder) / "home", Path(folder) / "secret.nii.gz"
        studies.mkdir()
        shutil.copyfile(volume, studies / "ct.nii.gz")
        shutil.copyfile(volume, secret)
        plant(home, studies, secret)
        with running_server(studies, home, "--upload-mb", "2") as server:
            attack(server, secret)
        with realm() as (issuer, key), running_server(studies, Path(folder) / "home2", "--realm", issuer) as server:
            attack_login(server, issuer, key)


def _text(value: Any) -> bytes:
    return (value if isinstance(value, str) else json.dumps(value)).encode()


if __name__ == "__main__":
    typer.run(main)
