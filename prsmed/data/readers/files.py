"""What every reader asks of a file before it looks inside."""

from pathlib import Path

from prsmed.errors import DataError


def require_file(path: Path) -> None:
    """Raise DataError where there is no file, no permission, or nothing in it."""
    try:
        with path.open("rb") as stream:
            first_byte = stream.read(1)
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror}); restore it or correct the path") from error
    if not first_byte:
        raise DataError(f"{path}: the file is empty (0 bytes); export or download it again")
