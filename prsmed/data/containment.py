"""Paths that come from data files may not leave the folder they are relative to."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

from prsmed.errors import DataError


def check_relative_path(path: str, who: str) -> None:
    """Raise DataError where a path is absolute or contains `..`, in POSIX or Windows spelling."""
    for flavour in (PurePosixPath(path), PureWindowsPath(path)):
        if flavour.anchor:
            raise DataError(f"{who}: {path!r} is an absolute path; name the folder apart, and the rest relative to it")
        if ".." in flavour.parts:
            raise DataError(f"{who}: {path!r} climbs out with '..'; choose a folder that holds the file")
    if "\0" in path:
        raise DataError(f"{who}: {path!r} contains a null character; correct the path")


def file_inside(root: Path, relative_path: str, who: str) -> Path:
    """The file, or the folder of a DICOM series, that a relative path stands for, contained after resolving links.

    Raises:
        DataError: the path leaves `root`, or nothing is there.
    """
    check_relative_path(relative_path, who)
    try:
        path = (root / relative_path).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{who}: {relative_path!r} cannot be resolved ({error}); correct the path") from error
    if not path.is_relative_to(root.resolve()):
        raise DataError(
            f"{who}: {relative_path} is a link that leads out of root {root} to {path}; "
            "put the file itself there, or choose a root that holds it"
        )
    if not path.exists():
        raise DataError(f"{who}: there is no file {root / relative_path}; restore it or drop the entry")
    return path
