"""Questions in a manifest: what is absent, what is replaced, and the real slices."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prsmed.data.build import build
from prsmed.data.manifest import Refusal, read_manifest, read_refusals, write_manifest
from prsmed.errors import DataError
from prsmed.scenes import absent_targets, write_queries
from prsmed.text.classes import load_classes
from prsmed.text.queries import QueryCounts
from prsmed.types import Case, MaskRef, Query, Target


def _slice(index: int, *listed: str, volume: str = "v", usable: tuple[str, ...] | None = None) -> Case:
    names = listed if usable is None else usable
    targets = tuple(Target(f"t{n}", name, "organ", None, (MaskRef("png", "m.png"),)) for n, name in enumerate(names))
    source = {"volume": volume, "index": index, "listed": list(listed)}
    return Case(f"{volume}{index}", "a.png", "ct", "g", "train", targets=targets, source=source)


def _absent(cases: list[Case]) -> dict[str, list[str]]:
    return {case_id: [target.name for target in targets] for case_id, targets in absent_targets(cases).items()}


def test_absent_is_what_lies_elsewhere_in_the_volume_and_not_next_door() -> None:
    """The spleen of slice 30 may have a tip in 20 that was too small to be kept; in 10 and 0 it cannot."""
    cases = [_slice(30, "spleen", "liver"), _slice(0, "liver"), _slice(20, "liver"), _slice(10, "liver")]
    assert _absent(cases) == {"v30": [], "v20": [], "v10": ["spleen"], "v0": ["spleen"]}


def test_what_the_volume_never_shows_is_not_called_absent() -> None:
    cases = [_slice(0, "liver"), _slice(10, "liver"), _slice(0, "spleen", volume="w"), _slice(10, "liver", volume="w")]
    assert not any(_absent(cases).values())


def test_a_listed_target_without_usable_mask_is_not_absent() -> None:
    cases = [_slice(0, "spleen"), _slice(10, "liver"), _slice(20, "spleen", "liver", usable=("liver",))]
    assert _absent(cases)["v20"] == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A picture with a liver, one without the polyp it was searched for, and a question from elsewhere."""
    mask = np.zeros((40, 40), np.uint8)
    mask[5:20, 5:15] = 255
    for name, pixels in (("a", mask + 7), ("liver", mask), ("empty", np.zeros_like(mask))):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    liver = Target("t1", "liver", "organ", None, (MaskRef("png", "liver.png"),))
    polyp = Target("t1", "polyp", "lesion", None, (MaskRef("png", "empty.png"),))
    theirs = Query("q1", ("t1",), "location", "Where is it?", made_by="a reader")
    cases = [
        Case("full", "a.png", "ct", "g1", "train", targets=(liver,), queries=(theirs,)),
        Case("negative", "a.png", "endoscopy", "g2", "train", targets=(polyp,)),
        Case("broken", "none.png", "ct", "g3", "train", targets=(liver,)),
    ]
    refusal = Refusal("x.png", None, None, "was bad", "repair it")
    write_manifest(tmp_path, cases, None, [refusal])
    return tmp_path


def test_writing_again_replaces_only_its_own_questions(folder: Path) -> None:
    first = write_queries(folder)
    once = (folder / "manifest.jsonl").read_bytes()
    assert write_queries(folder) == first and (folder / "manifest.jsonl").read_bytes() == once
    write_queries(folder, seed=1)
    assert (folder / "manifest.jsonl").read_bytes() != once
    queries = read_manifest(folder).cases[0].queries
    assert queries[0].made_by == "a reader" and len({query.id for query in queries}) == len(queries) > 5


def test_only_one_split_is_asked_more(folder: Path) -> None:
    cases = read_manifest(folder).cases
    write_manifest(folder, [cases[0], replace(cases[1], split="test")], None)
    before, more = write_queries(folder).cases, QueryCounts(attribute=4, absent=4)
    after = write_queries(folder, counts=more, split="train").cases
    assert len(after[0].queries) > len(before[0].queries) and after[1] == before[1] == read_manifest(folder).cases[1]
    with pytest.raises(DataError, match="no case of split 'val'"):
        write_queries(folder, split="val")


def test_refusals_stay_and_unreadable_cases_are_counted(folder: Path) -> None:
    report = write_queries(folder)
    assert report.skipped == ("broken",) and report.unknown == ()
    assert [refusal.reason for refusal in read_refusals(folder)] == ["was bad"]
    assert len(report.cases) == 3 and not report.cases[2].queries


def test_an_empty_target_is_asked_for_and_answered_honestly(folder: Path) -> None:
    queries = write_queries(folder).cases[1].queries
    assert queries and all(query.target_ids == ("t1",) and "not" in f"not{query.answer}" for query in queries)
    assert all("no polyp" in query.answer or "not to be seen" in query.answer for query in queries)


def test_the_shared_slices(shared_data: Path, tmp_path: Path) -> None:
    """Every question of the real set: hidden targets, several kinds for each organ, refusals among the absent."""
    build([str(shared_data / "sa_med2d")], tmp_path)
    report = write_queries(tmp_path, counts=QueryCounts(naming=1, attribute=2, location=2, absent=2))
    assert not report.unknown and not report.skipped
    kinds: dict[str, set[str]] = {}
    absent = 0
    for case in report.cases:
        for query in case.queries:
            absent += not query.target_ids
            for name in (case.target(target_id).name for target_id in query.target_ids):
                kinds.setdefault(name, set()).add(query.kind)
                entry = load_classes().of(name)
                assert entry and entry.is_given_away(query.question) == (query.kind == "naming"), query
    assert len(kinds) == 13 and absent > 100
    # bowel is not outlined here, so of sacs no place singles one out
    assert {name for name, found in kinds.items() if "location" not in found} == {"gallbladder"}
    assert all({"naming", "attribute"} <= found for found in kinds.values())
