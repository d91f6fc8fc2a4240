"""A package index on this machine, for fetching without the world: it serves a folder, in parts when asked to."""

import re
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class PackageIndex:
    """Files by path; `cut_after` breaks a transfer, `whole_only` ignores ranges; `asked` is what was requested."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.cut_after: int | None = None
        self.whole_only = False
        self.asked: list[tuple[str, str | None]] = []
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                index.answer(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def add_wheel(self, requirement: str, wheel: Path) -> None:
        """Offer a wheel as pip's simple index does."""
        package, _ = requirement.split("==")
        self.files[f"/simple/{package}/"] = f'<a href="/files/{wheel.name}">{wheel.name}</a>'.encode()
        self.files[f"/files/{wheel.name}"] = wheel.read_bytes()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """RFC 9110, section 14: 206 with the rest, or 416 where nothing is left."""
        wanted = handler.headers.get("Range")
        self.asked.append((handler.path, wanted))
        content = self.files.get(handler.path)
        if content is None:
            handler.send_error(404)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and not self.whole_only else 0
        if start and start >= len(content):
            handler.send_error(416)
            return
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Type", "text/html" if handler.path.endswith("/") else "application/octet-stream")
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        handler.wfile.write(content[start:][: self.cut_after])


def write_wheel(path: Path, members: dict[str, bytes]) -> Path:
    """A wheel that pip can read, with these files inside."""
    package, version = path.name.split("-")[:2]
    info = f"{package}-{version}.dist-info"
    every = {
        **members,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in every.items():
            archive.writestr(name, content)
    return path
