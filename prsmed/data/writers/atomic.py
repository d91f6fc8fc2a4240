"""Files that readers see whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prsmed.errors import DataError


@contextmanager
def replaced_whole(path: str | Path) -> Iterator[Path]:
    """A file to write in place of `path`: it takes the name once it is complete. The folder is made where missing.

    Raises:
        DataError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        reason = error.strerror or error
        raise DataError(f"{path}: cannot be written ({reason}); choose another output folder") from error


def write_atomically(path: str | Path, text: str) -> None:
    """Replace a text file in one step; errors as of `replaced_whole`."""
    with replaced_whole(path) as part, part.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
