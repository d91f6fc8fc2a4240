"""A real label server for the checks beside this file: started on a free loopback port, stopped or killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bundle/slicer/PrsmedAsk"))

from prsmed_ask.server import LabelServer, ServerError  # noqa: E402  (the module's folder is what Slicer adds too)

__all__ = ["LabelServer", "RunningServer", "ServerError", "running_server"]


class RunningServer:
    """The process, its folders and a client of it."""

    def __init__(
        self, studies: Path | str, home: Path, options: Sequence[str] = (), environment: dict[str, str] | None = None
    ):
        self.studies, self.home = Path(studies), home
        self.port = _free_port()
        self.log = home / "server.log"
        home.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "bundle.monailabel", "--studies", str(studies), "--home", str(home)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port), *options],
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.client = LabelServer(f"http://127.0.0.1:{self.port}", timeout_s=300)

    def wait(self, limit_s: float = 1200.0) -> None:
        """Wait until it answers; an HTTP refusal is an answer too."""
        until = time.monotonic() + limit_s
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended: {self.log.read_text()[-2000:]}")
            try:
                self.client.info()
                return
            except ServerError as error:
                if error.status:
                    return
            time.sleep(0.5)
        raise RuntimeError(f"no answer within {limit_s} s: {self.log.read_text()[-2000:]}")

    def resident_mb(self) -> float:
        """Memory of the server process."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def peak_mb(self) -> int:
        """The most memory that the server process has had."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) // 1024

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the process and what it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, how)
            self.process.wait(timeout=60)

    def audit(self) -> str:
        """The audit log so far."""
        path = self.home / "audit.jsonl"
        return path.read_text() if path.exists() else ""


@contextmanager
def running_server(studies: Path | str, home: Path, *options: str, **environment: str) -> Iterator[RunningServer]:
    """A server that answers; it is stopped on the way out."""
    server = RunningServer(studies, home, options, environment)
    try:
        server.wait()
        yield server
    finally:
        server.stop()


def report(name: str, **facts: Any) -> None:
    """One line of what was seen."""
    print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in facts.items()), flush=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
