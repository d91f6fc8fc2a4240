"""The manifest: one JSON line per image, volume or slice, and the folders that its paths are relative to.

A manifest folder holds `manifest.jsonl` (facts, schema_version 1), `roots.json` (name to folder) and, where rows were
refused, `refusals.jsonl`. Data is indexed without being copied: a root may lie anywhere, but a path inside a row is
relative to its root and may not leave it. How one row is written and checked is in `rows.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prsmed.data.containment import file_inside
from prsmed.data.rows import case_from_json, case_to_json
from prsmed.errors import DataError, RequestError
from prsmed.types import SPLITS, Case

__all__ = [
    "Manifest",
    "Refusal",
    "case_from_json",
    "case_to_json",
    "find_leaks",
    "read_manifest",
    "read_refusals",
    "write_manifest",
    "write_refusals",
]

MANIFEST_FILE = "manifest.jsonl"
ROOTS_FILE = "roots.json"
REFUSALS_FILE = "refusals.jsonl"


@dataclass(frozen=True)
class Refusal:
    """One row or file that was left out, why, and what to do about it.

    Attributes:
        file: the file that has the fault.
        row: its line, counted from 1, where the fault was found in a table or a manifest.
        case_id: the case it belongs to, where known.
        reason: what was got and what was expected.
        remedy: what to do.
    """

    file: str
    row: int | None
    case_id: str | None
    reason: str
    remedy: str

    @classmethod
    def from_error(
        cls, error: DataError | str, file: str, row: int | None = None, case_id: str | None = None
    ) -> Refusal:
        """From a message in the house form "who: reason; remedy"; the last semicolon parts the two."""
        reason, _, remedy = str(error).rpartition("; ")
        return cls(file=file, row=row, case_id=case_id, reason=reason, remedy=remedy)


@dataclass(frozen=True)
class Manifest:
    """The usable rows of one manifest folder.

    Attributes:
        folder: where `manifest.jsonl` lies.
        cases: the rows, in file order.
        roots: root name to absolute folder, links resolved.
        refusals: rows that were left out on reading.
    """

    folder: Path
    cases: tuple[Case, ...]
    roots: dict[str, Path]
    refusals: tuple[Refusal, ...] = ()

    def resolve(self, case: Case, relative_path: str) -> Path:
        """The file that a path of this case's row stands for.

        Raises:
            DataError: the path leaves its root (containment is checked after resolving links), or no file is there.
        """
        who = f"case {case.id}"
        root = self.roots.get(case.root)
        if root is None:
            raise DataError(f"{who}: root {case.root!r} is unknown; add it to {ROOTS_FILE}")
        return file_inside(root, relative_path, who)

    def split(self, name: str) -> tuple[Case, ...]:
        """The cases of one split, in file order.

        Raises:
            RequestError: `name` is not a split.
        """
        if name not in SPLITS:
            raise RequestError(f"split {name!r} is unknown; ask for one of {', '.join(SPLITS)}")
        return tuple(case for case in self.cases if case.split == name)

    def fingerprint(self) -> str:
        """SHA-256 over the rows as canonical JSON, independent of their order and of where the roots lie.

        Rows made by `build` carry the hashes of their image and masks, so a changed pixel changes the fingerprint.
        """
        lines = sorted(_encode(case_to_json(case), sort_keys=True) for case in self.cases)
        return hashlib.sha256(b"\n".join(lines)).hexdigest()


def find_leaks(cases: Iterable[Case]) -> dict[str, str]:
    """Rows whose group also lies in another split, as case id to "reason; remedy".

    The split that holds most rows of the group keeps them (the first of train, val, test where they are equal).
    """
    members: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        members[case.group].append(case)
    leaks = {}
    for group, rows in members.items():
        counts = Counter(case.split for case in rows if case.split)
        if len(counts) < 2:
            continue
        kept = max(SPLITS, key=lambda split: counts[split])
        for case in rows:
            if case.split and case.split != kept:
                leaks[case.id] = (
                    f"case {case.id}: group {group!r} is in {case.split} here and in {kept} elsewhere "
                    f"({counts[kept]} rows), a leak; give the whole group one split"
                )
    return leaks


def read_manifest(folder: str | Path) -> Manifest:
    """Read a manifest folder; rows that cannot be used are collected as refusals and never stop the reading.

    Refused are malformed rows, the later of two rows with one id, rows without a split, rows of a root that is not
    there, and groups that leak between splits. Files are not opened here; `Manifest.resolve` checks them.

    Raises:
        DataError: no manifest, no usable row at all, or an unreadable `roots.json`.
    """
    folder = Path(folder)
    path = folder / MANIFEST_FILE
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); make one with `prsmed data build`") from error
    roots = _read_roots(folder)
    usable_roots = {name for name, root in roots.items() if root.is_dir()}
    rows: dict[str, tuple[int, Case]] = {}
    refusals: list[Refusal] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        case_id = None
        try:
            row = _parse_line(line, number)
            case_id = row.get("id") if isinstance(row, dict) else None
            case = case_from_json(row)
            _check_usable(case, rows, usable_roots)
            rows[case.id] = (number, case)
        except DataError as error:
            refusals.append(Refusal.from_error(error, MANIFEST_FILE, number, case_id))
    for leak_id, message in find_leaks(case for _, case in rows.values()).items():
        number, _ = rows.pop(leak_id)
        refusals.append(Refusal.from_error(message, MANIFEST_FILE, number, leak_id))
    if not rows:
        first = f"; the first: row {refusals[0].row}, {refusals[0].reason}; {refusals[0].remedy}" if refusals else ""
        raise DataError(f"{path}: no usable row ({len(refusals)} refused); build it with `prsmed data build`{first}")
    return Manifest(folder, tuple(case for _, case in rows.values()), roots, tuple(refusals))


def write_manifest(
    folder: str | Path,
    cases: Sequence[Case],
    roots: Mapping[str, str | Path] | None = None,
    refusals: Sequence[Refusal] = (),
) -> None:
    """Write `manifest.jsonl`, `roots.json` and `refusals.jsonl` (removed where nothing was refused).

    Each file is written aside, flushed to disk and moved into place, so a reader sees the old one or the new one.
    Roots inside `folder` are stored relative to it, so that the folder can be moved; others stay absolute.

    Args:
        folder: made where it does not exist.
        cases: rows, each with a split.
        roots: root name to folder, absolute or relative to `folder`; default {".": "."}.
        refusals: what was left out while these rows were made.

    Raises:
        DataError: a case breaks the schema, or the folder cannot be written.
    """
    folder = Path(folder)
    roots = roots or {".": "."}
    rows = [case_to_json(case) for case in cases]
    seen: dict[str, tuple[int, Case]] = {}
    for number, row in enumerate(rows, start=1):
        case = case_from_json(row)
        _check_usable(case, seen, roots)
        seen[case.id] = (number, case)
    stored_roots = {name: _store_root(folder.resolve(), root) for name, root in roots.items()}
    _write_files(
        folder,
        {
            ROOTS_FILE: _encode(stored_roots) + b"\n",
            REFUSALS_FILE: _lines([asdict(refusal) for refusal in refusals]),
            MANIFEST_FILE: _lines(rows),
        },
    )


def write_refusals(folder: str | Path, refusals: Sequence[Refusal]) -> None:
    """Write the refusal report alone, for a build that found nothing usable.

    Raises:
        DataError: the folder cannot be written.
    """
    _write_files(Path(folder), {REFUSALS_FILE: _lines([asdict(refusal) for refusal in refusals])})


def read_refusals(folder: str | Path) -> tuple[Refusal, ...]:
    """The refusal report of the build that wrote a manifest; empty where nothing was refused.

    Raises:
        DataError: a report that cannot be read.
    """
    path = Path(folder) / REFUSALS_FILE
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return tuple(Refusal(**json.loads(line)) for line in lines)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); build the manifest again") from error


def _parse_line(line: bytes, number: int) -> Any:
    def refuse_constant(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        return json.loads(line.decode("utf-8"), parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise DataError(f"row {number}: is not JSON ({error}); write one JSON object a line, as UTF-8") from error


def _check_usable(case: Case, rows: Mapping[str, tuple[int, Case]], usable_roots: Collection[str]) -> None:
    """What makes a well-formed row unusable in its manifest."""
    if case.id in rows:
        raise DataError(f"case {case.id}: the id is already that of row {rows[case.id][0]}; give each row its own id")
    if case.split is None:
        raise DataError(f"case {case.id}: has no split; use assign_splits, or write one of {', '.join(SPLITS)}")
    if case.root not in usable_roots:
        raise DataError(
            f"case {case.id}: root {case.root!r} is unknown or its folder is not there; correct {ROOTS_FILE}"
        )


def _read_roots(folder: Path) -> dict[str, Path]:
    path = folder / ROOTS_FILE
    if not path.exists():
        return {".": folder.resolve()}
    try:
        stored = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f'{path}: cannot be read ({error}); write a JSON object such as {{".": "."}}') from error
    if not isinstance(stored, dict) or not all(isinstance(root, str) and root for root in stored.values()):
        raise DataError(f'{path}: expected names and folders; write a JSON object such as {{".": "."}}')
    return {name: (folder / root).resolve() for name, root in stored.items()}


def _store_root(folder: Path, root: str | Path) -> str:
    absolute = (folder / root).resolve()
    return absolute.relative_to(folder).as_posix() if absolute.is_relative_to(folder) else absolute.as_posix()


def _encode(record: Mapping[str, Any], *, sort_keys: bool = False) -> bytes:
    """Compact JSON in UTF-8; a file name that is no valid Unicode keeps its bytes as JSON escapes."""
    text = json.dumps(record, ensure_ascii=False, allow_nan=False, sort_keys=sort_keys)
    return text.encode("utf-8", "backslashreplace")


def _lines(records: Sequence[dict[str, Any]]) -> bytes:
    return b"".join(_encode(record) + b"\n" for record in records)


def _write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Put every file in place at once, after all of them are safe on the disk; empty contents remove a file."""
    written: dict[str, Path] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            if content:
                written[name] = folder / f".{name}.{os.getpid()}.tmp"
                with written[name].open("wb") as stream:
                    stream.write(content)
                    stream.flush()
                    os.fsync(stream.fileno())
        for name in contents:
            if name in written:
                os.replace(written.pop(name), folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
    except OSError as error:
        for leftover in written.values():
            leftover.unlink(missing_ok=True)
        raise DataError(f"{folder}: cannot be written ({error.strerror}); choose another output folder") from error
