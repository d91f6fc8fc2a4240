"""The coded names of our targets in DICOM results: a committed table, checked when it is read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from prsmed.errors import DataError
from prsmed.types import LATERALITIES, TARGET_KINDS

CODES_PATH = Path(__file__).with_name("codes.json")

_SCHEMES = ("SCT", "DCM")
_CODE_KEYS = ("category", "type", "region")
_ENTRY_KEYS = {"names", *_CODE_KEYS, "laterality", "source"}


@dataclass(frozen=True)
class Code:
    """One coded concept (DICOM PS3.3 section 8): value, scheme ("SCT" for SNOMED CT, or "DCM") and meaning."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class TargetCodes:
    """How one target is coded.

    Attributes:
        category, type: segmented property category and type (PS3.3 C.8.20.4).
        region: where in the body a lesion lies, where its name says so.
        laterality: of the target itself ("left kidney"), never of one finding.
        source: the context groups of PS3.16 that list the codes.
        note: why a general code stands for a special name; "" where the code is exact.
    """

    category: Code
    type: Code
    region: Code | None
    laterality: Code | None
    source: str
    note: str = ""


@dataclass(frozen=True)
class CodeTable:
    """All entries of codes.json, by their names in lower case."""

    targets: dict[str, TargetCodes]
    fallback: dict[str, TargetCodes]
    laterality: dict[str, Code]

    def of(self, target: str, kind: str) -> TargetCodes:
        """The codes of a target, or the general ones of its kind where the table does not have it.

        Args:
            target: its name as asked for; case and underscores do not matter.
            kind: "lesion" or "organ".
        """
        return self.targets.get(" ".join(target.lower().replace("_", " ").split()), self.fallback[kind])


@cache
def read_codes(path: Path = CODES_PATH) -> CodeTable:
    """Read and check the table.

    Raises:
        DataError: not readable, an entry that is incomplete, or a name that two entries claim.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        laterality = {side: _code(content["laterality"][side], path) for side in LATERALITIES}
        fallback = {kind: _entry(kind, content["fallback"][kind], laterality, path) for kind in TARGET_KINDS}
        records = dict(content["targets"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: cannot be read as a table of codes ({error!r}); restore the file") from error
    targets: dict[str, TargetCodes] = {}
    for name, record in records.items():
        entry = _entry(name, record, laterality, path)
        for spelling in (name, *record["names"]):
            if spelling in targets:
                raise DataError(f"{path}: {spelling!r} names two targets; keep one of them")
            targets[spelling] = entry
    return CodeTable(targets, fallback, laterality)


def _entry(name: str, record: dict[str, Any], laterality: dict[str, Code], path: Path) -> TargetCodes:
    if set(record) - {"note"} != _ENTRY_KEYS or record["laterality"] not in (None, *laterality):
        raise DataError(f"{path}: {name!r} needs {', '.join(sorted(_ENTRY_KEYS))}, got {sorted(record)}; complete it")
    category, kind, region = (record[key] and _code(record[key], path) for key in _CODE_KEYS)
    if not category or not kind or not record["source"]:
        raise DataError(f"{path}: {name!r} has no category, type or source; complete it")
    side = record["laterality"]
    return TargetCodes(
        category, kind, region, laterality[side] if side else None, record["source"], record.get("note", "")
    )


def _code(record: Any, path: Path) -> Code:
    if not isinstance(record, list) or len(record) != 3 or record[1] not in _SCHEMES or not all(record):
        raise DataError(f"{path}: {record!r} is no [value, scheme, meaning] of {' or '.join(_SCHEMES)}; correct it")
    return Code(*record)
