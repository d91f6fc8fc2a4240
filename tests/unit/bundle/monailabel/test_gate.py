"""The gate before the server: rules, limits, logins, and the audit log."""

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from bundle.monailabel.audit import AuditLog
from bundle.monailabel.gate import OHIF_RULES, RULES, SMALL_BYTES, Caller, Gate, RefusedError

SECRET = "smith_john_1950"


async def reader(scope: Any, receive: Any, send: Any) -> None:
    """An application that reads the body to its end and says how much it was."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message["body"]), message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


async def broken(scope: Any, receive: Any, send: Any) -> None:
    """An application that fails with a patient's name in its words."""
    raise ValueError(f"cannot open {SECRET}")


async def caller_of(token: str) -> Caller:
    """A realm of two people."""
    if token not in ("reader", "admin"):
        raise RefusedError(401, "the token is not valid")
    return Caller(token, ("monailabel-user",) if token == "reader" else ("monailabel-user", "monailabel-admin"))


def call(
    gate: Gate,
    method: str,
    path: str,
    query: str = "",
    *,
    chunks: Iterable[bytes] = (b"",),
    headers: dict[str, str] | None = None,
) -> tuple[int, bytes]:
    """One request through the gate."""
    waiting, sent = list(chunks), []
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(key.encode(), value.encode()) for key, value in (headers or {}).items()],
        "client": ("127.0.0.1", 1),
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(gate(scope, receive, send))
    return sent[0]["status"], sent[1]["body"]


@pytest.fixture
def audit(tmp_path: Path) -> AuditLog:
    return AuditLog(tmp_path)


def lines(audit: AuditLog) -> list[dict[str, Any]]:
    return [json.loads(line) for line in audit.path.read_text().splitlines()]


def test_what_a_rule_names_passes(audit: AuditLog) -> None:
    gate = Gate(reader, audit=audit, upload_bytes=100)
    assert call(gate, "POST", "/infer/prsmed", f"image={SECRET}", chunks=[b"abc", b"de"]) == (200, b"5")
    assert [call(gate, "GET", path)[0] for path in ("/info/", "/info", "/train/", "/datastore/")] == [200] * 4


@pytest.mark.parametrize(
    ("method", "path", "query", "status"),
    [
        ("GET", "/openapi.json", "", 404),
        ("GET", "/logs/", "", 404),
        ("PUT", "/model/prsmed", "", 404),
        ("GET", "/info/../logs/", "", 404),
        ("PUT", "/datastore/image", "", 405),
        ("DELETE", "/datastore/label", "", 405),
        ("POST", "/infer/prsmed", "image=..%2Fa", 400),
        ("POST", "/infer/prsmed", "image=a&image=b", 400),
        ("POST", "/infer/prsmed", "file=a", 400),
        ("PUT", "/datastore/label", "image=a&tag=..%2Fx", 400),
        ("PUT", "/session/", "uncompress=true", 400),
    ],
)
def test_everything_else_is_refused_and_logged(
    audit: AuditLog, method: str, path: str, query: str, status: int
) -> None:
    assert call(Gate(reader, audit=audit, upload_bytes=100), method, path, query)[0] == status
    assert lines(audit)[-1]["status"] == status


def test_a_large_body_is_refused_by_what_it_states_and_by_what_comes(audit: AuditLog) -> None:
    gate = Gate(reader, audit=audit, upload_bytes=1000)
    assert call(gate, "PUT", "/session/", headers={"content-length": "1001"})[0] == 413
    assert call(gate, "PUT", "/session/", headers={"content-length": "-1"})[0] == 413
    assert call(gate, "PUT", "/session/", chunks=[bytes(900), bytes(200)])[0] == 413
    assert call(gate, "PUT", "/session/", chunks=[bytes(1000)])[0] == 200
    assert call(gate, "POST", "/infer/prsmed", chunks=[bytes(SMALL_BYTES + 1)])[0] == 413


def test_a_framework_that_swallows_the_refusal_changes_nothing(audit: AuditLog) -> None:
    async def swallowing(scope: Any, receive: Any, send: Any) -> None:
        try:
            await reader(scope, receive, send)
        except Exception:
            await send({"type": "http.response.start", "status": 400, "headers": []})

    assert call(Gate(swallowing, audit=audit, upload_bytes=10), "PUT", "/session/", chunks=[bytes(11)])[0] == 413


def test_logins(audit: AuditLog) -> None:
    gate = Gate(reader, audit=audit, upload_bytes=10, caller_of=caller_of)

    def status(token: str, method: str = "GET", path: str = "/info/") -> int:
        return call(gate, method, path, headers={"authorization": token} if token else {})[0]

    assert [status(token) for token in ("", "Basic reader", "Bearer forged", "Bearer reader")] == [401, 401, 401, 200]
    assert status("Bearer reader", "POST", "/train/prsmed") == 403
    assert status("Bearer admin", "POST", "/train/prsmed") == 200
    assert status("", "POST", "/auth/token") == 200
    assert [line["who"] for line in lines(audit)][3:6] == ["reader", "", "admin"]


def test_no_id_and_no_words_of_an_error_reach_the_log_or_the_client(
    audit: AuditLog, caplog: pytest.LogCaptureFixture
) -> None:
    status, body = call(Gate(broken, audit=audit, upload_bytes=10), "POST", "/infer/prsmed", f"image={SECRET}")
    assert status == 500
    assert SECRET not in body.decode() + audit.path.read_text() + caplog.text
    assert "ValueError" in caplog.text
    assert lines(audit)[-1]["image"] == audit.hashed(SECRET)


def test_ids_are_hashed_with_a_key_that_stays(tmp_path: Path) -> None:
    first, again, other = AuditLog(tmp_path / "a"), AuditLog(tmp_path / "a"), AuditLog(tmp_path / "b")
    assert first.hashed(SECRET) == again.hashed(SECRET) != other.hashed(SECRET)
    assert (tmp_path / "a/audit.key").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/ohif/", 200),
        ("/ohif/assets/images/a.b-1.js", 200),
        ("/ohif/../x", 404),
        ("/ohif/.git", 404),
        ("/proxy/dicom/qido/studies", 200),
        ("/proxy/dicom/wado/studies/1.2.3/series/4.5/metadata", 200),
        ("/proxy/dicom/wado/studies/../../instances", 404),
        ("/proxy/dicom/wado/instances", 404),
        ("/proxy/dicom/stow/studies", 404),
        ("/proxy/dicom/wado/studies//x", 404),
    ],
)
def test_a_viewer_reads_below_studies_only(audit: AuditLog, path: str, status: int) -> None:
    gate = Gate(reader, audit=audit, upload_bytes=100, rules=(*RULES, *OHIF_RULES))
    assert call(gate, "GET", path, "PatientName=Smith*&limit=101")[0] == status
    assert call(gate, "POST", path)[0] in (404, 405)
    assert call(Gate(reader, audit=audit, upload_bytes=100), "GET", path)[0] == 404
    assert "Smith" not in audit.path.read_text()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "127.0.0.1:8000"}, 200),
        ({"host": "localhost:8000", "origin": "http://localhost:8000"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"host": "rebind.example:8000"}, 403),
        ({"host": "127.0.0.1:8000", "origin": "https://elsewhere.example"}, 403),
        ({"host": "127.0.0.1:8000", "origin": "null"}, 403),
        ({"host": "127.0.0.1:8000", "sec-fetch-site": "cross-site"}, 403),  # an <img> of another page sends no origin
        ({"host": "127.0.0.1:8000", "sec-fetch-site": "same-origin"}, 200),
        ({"host": "[::1"}, 200),
        ({"host": "[rebind.example"}, 403),
    ],
)
def test_no_other_web_page_gets_in_where_nobody_logs_in(audit: AuditLog, headers: dict[str, str], status: int) -> None:
    gate = Gate(reader, audit=audit, upload_bytes=100)
    assert call(gate, "GET", "/info/", headers=headers)[0] == status


def test_with_a_login_the_name_of_the_server_is_free(audit: AuditLog) -> None:
    gate = Gate(reader, audit=audit, upload_bytes=100, caller_of=caller_of)
    headers = {"host": "label.hospital.lan", "authorization": "Bearer reader"}
    assert call(gate, "GET", "/info/", headers=headers)[0] == 200
