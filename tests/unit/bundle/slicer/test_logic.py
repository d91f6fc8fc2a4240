"""The Slicer module's logic: what it sends, what it shows, and that Slicer's Python (3.9) can read it."""

import ast
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[4] / "bundle/slicer/PrsmedAsk"
sys.path.insert(0, str(FOLDER))

from prsmed_ask import multipart  # noqa: E402
from prsmed_ask.conversation import Conversation, answer_lines, new_segments, segment_name  # noqa: E402
from prsmed_ask.server import LabelServer, ServerError  # noqa: E402
from prsmed_ask.slices import axial_index  # noqa: E402

LABEL = b"NRRD0004\r\n--xyz\r\n\x00\xff" * 50  # bytes that look like the form around them


class Handler(BaseHTTPRequestHandler):
    """A server that remembers what was sent and replies as MONAI Label does."""

    seen: ClassVar[list[tuple[str, str, dict[str, str], bytes]]] = []
    status = 200

    def reply(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.seen.append((self.command, self.path, dict(self.headers), body))
        content_type, content = "application/json", json.dumps({"detail": "the server is busy; ask again"}).encode()
        if self.status == 200 and self.path.startswith("/infer/"):
            content_type = "multipart/form-data; boundary=b0"
            head = '--b0\r\nContent-Disposition: form-data; name="{}"\r\n\r\n'
            content = head.format("params").encode() + b'{"answer": "Top left."}\r\n'
            content += b'--b0\r\nContent-Disposition: form-data; name="image"; filename="label.nrrd"\r\n'
            content += b"Content-Type: application/octet-stream\r\n\r\n" + LABEL + b"\r\n--b0--\r\n"
        elif self.status == 200:
            content = json.dumps({"session_id": "s1", "access_token": "t1"}).encode()
        self.send_response(self.status)
        self.send_header("Content-Type", content_type)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = reply

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[LabelServer]:
    Handler.seen, Handler.status = [], 200
    http = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield LabelServer(f"http://127.0.0.1:{http.server_port}/")
    http.shutdown()
    http.server_close()


@pytest.mark.parametrize("file", sorted(FOLDER.rglob("*.py")), ids=lambda file: file.name)
def test_slicers_python_can_read_it(file: Path) -> None:
    ast.parse(file.read_text(encoding="utf-8"), feature_version=(3, 9))


@pytest.mark.parametrize("file", sorted((FOLDER / "prsmed_ask").glob("*.py")), ids=lambda file: file.name)
def test_the_logic_needs_the_standard_library_only(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        assert all(name.split(".")[0] in sys.stdlib_module_names for name in names), names


def test_a_form_comes_back_as_it_was_sent(tmp_path: Path) -> None:
    image = tmp_path / "smith_john.nii.gz"
    image.write_bytes(LABEL)
    content_type, body = multipart.encode({"params": '{"question": "Where is it, \u00fc?"}'}, {"files": image})
    parts = multipart.decode(content_type, body)
    assert parts["files"] == LABEL
    assert json.loads(parts["params"])["question"] == "Where is it, \u00fc?"
    assert b"smith_john" not in body and b'filename="image.nii.gz"' in body
    with pytest.raises(ValueError, match="cut off"):
        multipart.decode(content_type, body[:-40])


def test_a_question_and_its_answer(server: LabelServer, tmp_path: Path) -> None:
    reply = server.ask(tmp_path, {"question": "Where is #2, $x?"}, image_id="a b&c")
    assert reply.label.read_bytes() == LABEL and reply.params == {"answer": "Top left."}
    method, path, headers, body = Handler.seen[0]
    assert (method, path) == ("POST", "/infer/prsmed?image=a%20b%26c")
    params = json.loads(multipart.decode(headers["Content-Type"], body)["params"])
    assert params == {"result_extension": ".nrrd", "result_dtype": "uint8", "question": "Where is #2, $x?"}


def test_the_token_of_a_login_is_sent(server: LabelServer) -> None:
    server.login("reader", "pass&word")
    server.info()
    assert b"pass%26word" in Handler.seen[0][3]
    assert Handler.seen[1][2]["Authorization"] == "Bearer t1"


def test_a_busy_server_and_a_missing_one_are_told_apart(server: LabelServer) -> None:
    Handler.status = 503
    with pytest.raises(ServerError, match="busy") as refusal:
        server.info()
    assert refusal.value.is_busy
    with pytest.raises(ServerError, match="cannot be reached") as refusal:
        LabelServer("http://127.0.0.1:9").info()
    assert not refusal.value.is_busy
    with pytest.raises(ServerError, match="no address"):
        LabelServer("file:///etc/passwd")


def test_an_answer_is_shown_with_what_does_not_agree() -> None:
    finding = {"zone": "top-left", "patient_side": "right", "ap": "unknown", "si": "unknown", "volume_ml": 2.5}
    params = {
        "answer": "Top left.",
        "present": True,
        "findings": [finding, {"zone": "center"}],
        "contradictions": ["words and mask differ"],
        "warnings": ["phantoms only"],
        "label_names": {"Top left.": 1},
    }
    shown = answer_lines(params)
    assert shown[1] == "Finding 1: top-left of the picture; patient's right; 2.5 ml"
    assert shown[2] == "Finding 2: center of the picture; side of the patient unknown"
    assert "Disagreement: words and mask differ" in shown and "Note: phantoms only" in shown
    assert segment_name(params) == "Top left."


def test_nothing_visible_is_said_and_is_no_finding_of_health() -> None:
    shown = answer_lines({"answer": "No tumour is visible.", "present": False, "label_names": {}})
    assert any("no finding of health" in line for line in shown)
    assert segment_name({"label_names": {}}) == "nothing visible"


def test_the_history_is_newest_first() -> None:
    asked = Conversation()
    asked.add("a?", {"answer": "1"})
    asked.add("b?", {"answer": "2"})
    assert asked.lines() == ["b?  ->  2", "a?  ->  1"]


@pytest.mark.parametrize(("column", "along"), [((0, 0, 3.0), 2), ((0, 0, -3.0), 2)])
def test_a_height_is_the_slice_of_the_stored_array(column: tuple[float, ...], along: int) -> None:
    """Origin at 100 mm, 3 mm steps: index n of a volume that runs upwards lies at 100 + 3 n, downwards at 100 - 3 n."""
    affine = np.eye(4)
    affine[:3, along], affine[:3, 3] = column, (0, 0, 100)
    for index in (0, 4, 9):
        height_mm = 100 + column[2] * index
        got = axial_index(np.linalg.inv(affine).tolist(), affine.tolist(), (20, 20, 10), height_mm)
        assert got == index
    assert axial_index(np.linalg.inv(affine).tolist(), affine.tolist(), (20, 20, 10), 1e4) in (0, 9)


def test_head_to_feet_may_be_another_stored_axis() -> None:
    """A sagittal acquisition: I runs to the front, J to the head with 2 mm, K to the right."""
    affine = np.array([[0, 0, 5.0, 0], [1.0, 0, 0, 0], [0, 2.0, 0, -10], [0, 0, 0, 1]])
    assert axial_index(np.linalg.inv(affine).tolist(), affine.tolist(), (30, 40, 8), 14.0) == 12


def test_what_is_saved_belongs_to_the_last_question() -> None:
    assert new_segments(["nodule", "tumour", "drawn by hand"], {"nodule"}) == ["tumour", "drawn by hand"]
    assert new_segments(["nodule"], {"nodule"}) == []
