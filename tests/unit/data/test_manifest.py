"""Manifest folders: what is written is read, what cannot be used is refused and nothing else is lost."""

import json
from dataclasses import replace

import pytest

from prsmed.data.manifest import Refusal, find_leaks, read_manifest, write_manifest
from prsmed.errors import DataError, RequestError
from prsmed.types import Case, MaskRef, Target

TARGET = Target("t1", "polyp", "lesion", masks=(MaskRef("png", "m.png"),))


def _case(name, split="train", group=None, **facts):
    return Case(
        id=name, image=f"{name}.png", modality="ct", group=group or name, split=split, targets=(TARGET,), **facts
    )


def test_written_rows_come_back(tmp_path):
    cases = (_case("a"), _case("ü文", "test"))
    write_manifest(tmp_path / "new" / "folder", cases)
    manifest = read_manifest(tmp_path / "new" / "folder")
    assert manifest.cases == cases and manifest.refusals == ()
    assert manifest.roots == {".": (tmp_path / "new" / "folder").resolve()}
    assert manifest.split("test") == cases[1:] and manifest.split("val") == ()
    assert {path.name for path in manifest.folder.iterdir()} == {"manifest.jsonl", "roots.json"}
    with pytest.raises(RequestError, match="train, val, test"):
        manifest.split("dev")


def test_roots_inside_the_folder_are_relative_and_others_absolute(tmp_path):
    inside, outside = tmp_path / "out" / "data", tmp_path / "else"
    inside.mkdir(parents=True)
    outside.mkdir()
    write_manifest(tmp_path / "out", [_case("a", root="in"), _case("b", root="el")], {"in": "data", "el": outside})
    stored = json.loads((tmp_path / "out" / "roots.json").read_text())
    assert stored == {"in": "data", "el": str(outside.resolve())}
    (tmp_path / "out").rename(tmp_path / "moved")
    assert read_manifest(tmp_path / "moved").roots["in"] == (tmp_path / "moved" / "data").resolve()


def test_rows_whose_root_is_gone_are_refused(tmp_path):
    (tmp_path / "data").mkdir()
    write_manifest(tmp_path, [_case("a"), _case("b", root="data")], {".": ".", "data": "data"})
    (tmp_path / "data").rmdir()
    manifest = read_manifest(tmp_path)
    assert [case.id for case in manifest.cases] == ["a"]
    assert [(refusal.row, refusal.case_id) for refusal in manifest.refusals] == [(2, "b")]


def test_bad_lines_are_refused_one_by_one(tmp_path):
    write_manifest(tmp_path, [_case("a"), _case("b")])
    good = (tmp_path / "manifest.jsonl").read_bytes().splitlines()
    other = json.loads(good[1])
    lines = [
        good[0],
        b"{not json",
        b'{"schema_version": 1, "id": "x", "source": {"n": NaN}}',
        b"\xff\xfe",
        b"[" * 100_000,
        b"",
        json.dumps({**other, "modality": "pet"}).encode(),
        json.dumps({**other, "split": None}).encode(),
        good[1],
        good[0],
    ]
    (tmp_path / "manifest.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines))
    manifest = read_manifest(tmp_path)
    assert [case.id for case in manifest.cases] == ["a", "b"]
    assert [refusal.row for refusal in manifest.refusals] == [2, 3, 4, 5, 7, 8, 10]
    assert "already that of row 1" in manifest.refusals[-1].reason
    assert all(refusal.reason and refusal.remedy for refusal in manifest.refusals)


def test_a_leaking_group_keeps_its_larger_side(tmp_path):
    cases = [_case("a", "test", "p"), _case("b", "train", "p"), _case("c", "test", "p"), _case("d", "val", "q")]
    assert set(find_leaks(cases)) == {"b"}
    write_manifest(tmp_path, cases)
    manifest = read_manifest(tmp_path)
    assert [case.id for case in manifest.cases] == ["a", "c", "d"]
    assert manifest.refusals[0].row == 2 and "a leak" in manifest.refusals[0].reason


def test_equal_sides_of_a_leak_stay_in_train():
    assert set(find_leaks([_case("a", "test", "p"), _case("b", "train", "p")])) == {"a"}


def test_fingerprint_sees_facts_and_neither_order_nor_place(tmp_path):
    a, b = _case("a"), _case("b")
    prints = []
    for index, cases in enumerate([(a, b), (b, a), (a, replace(b, source={"sha256": "1"}))]):
        write_manifest(tmp_path / str(index), cases)
        prints.append(read_manifest(tmp_path / str(index)).fingerprint())
    assert prints[0] == prints[1] != prints[2]


def test_refusals_are_written_and_a_stale_report_is_removed(tmp_path):
    refusal = Refusal("a.png", 3, "a", "is broken", "repair it")
    write_manifest(tmp_path, [_case("a")], refusals=[refusal])
    assert json.loads((tmp_path / "refusals.jsonl").read_text()) == {
        "file": "a.png",
        "row": 3,
        "case_id": "a",
        "reason": "is broken",
        "remedy": "repair it",
    }
    write_manifest(tmp_path, [_case("a")])
    assert not (tmp_path / "refusals.jsonl").exists()


@pytest.mark.parametrize(
    "cases",
    [[_case("a", split=None)], [_case("a"), _case("a")], [_case("a", root="x")], [replace(_case("a"), modality="pet")]],
)
def test_a_manifest_that_could_not_be_read_is_not_written(tmp_path, cases):
    write_manifest(tmp_path, [_case("old")])
    with pytest.raises(DataError):
        write_manifest(tmp_path, cases)
    assert [case.id for case in read_manifest(tmp_path).cases] == ["old"]


def test_a_failed_write_leaves_the_old_manifest_alone(tmp_path, monkeypatch):
    write_manifest(tmp_path, [_case("old")])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(DataError, match="No space left on device"):
        write_manifest(tmp_path, [_case("new")])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("text", ["[]", '{"a": 1}', "{", ""])
def test_bad_roots_are_an_error(tmp_path, text):
    write_manifest(tmp_path, [_case("a")])
    (tmp_path / "roots.json").write_text(text)
    with pytest.raises(DataError, match=r"roots\.json"):
        read_manifest(tmp_path)
