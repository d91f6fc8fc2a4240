"""The audit log: who asked for what, of which image, with which result. Ids are keyed hashes; questions are not kept.

A question may name a patient, and so may an image's id. Both are written as HMAC-SHA-256 with a key that stays beside
the log, so that somebody who holds both can look an id up, and nobody else can guess it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

LOG_FILE = "audit.jsonl"
KEY_FILE = "audit.key"


class AuditLog:
    """One JSON object a line; both files can be read by their owner alone.

    Args:
        folder: made where missing.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / LOG_FILE
        self._key = _key(folder / KEY_FILE)
        self._lock = threading.Lock()

    def hashed(self, text: str) -> str:
        """What stands for an id or a question: the first 16 hex digits of its keyed hash; empty for nothing."""
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()[:16] if text else ""

    def write(self, **entry: Any) -> None:
        """Append one entry with the time; values are to be free of ids and of free text."""
        line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **entry}) + "\n"
        with self._lock, os.fdopen(os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a") as stream:
            stream.write(line)


def _key(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_bytes()
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(secrets.token_bytes(32))
    return path.read_bytes()
