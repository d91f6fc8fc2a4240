"""What every reader asks of a file before it looks inside."""

from pathlib import Path

from prsmed.errors import DataError


def require_file(path: Path) -> None:
    """Raise DataError where there is no file, no permission, or nothing in it."""
    _first_bytes(path, 1)


def read_file(path: Path) -> bytes:
    """All of a file that is small enough for the memory; DataError as `require_file`."""
    return _first_bytes(path, -1)


def _first_bytes(path: Path, count: int) -> bytes:
    try:
        with path.open("rb", buffering=0) as stream:
            content = stream.read(count)
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror}); restore it or correct the path") from error
    if not content:
        raise DataError(f"{path}: the file is empty (0 bytes); export or download it again")
    return content
