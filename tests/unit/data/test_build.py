"""Building a manifest: from folders and tables made here, and from the real table where it lies beside the project."""

import csv
import os
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from prsmed.data.build import build
from prsmed.data.manifest import read_manifest
from prsmed.data.readers import read_image, read_target
from prsmed.errors import DataError, RequestError
from prsmed.types import SPLITS

SHARED_DATA = Path(os.environ.get("PRSMED_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))


def _pair(folder, name, value=0, *, empty=False):
    """An 8 x 8 grey picture and its mask, a square unless `empty`."""
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5, 2:5] = 0 if empty else 255
    for part, array in (("images", np.full((8, 8), value, np.uint8)), ("masks", mask)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / part / f"{name}.png")
    return folder


def _table(folder, *rows):
    """A table of (name, group, split) with the pairs made by `_pair`."""
    lines = [f"images/{name}.png,masks/{name}.png,polyp,{group},{split}" for name, group, split in rows]
    (folder / "t.csv").write_text("\n".join(["image,mask,target,group,split", *lines]))
    return str(folder / "t.csv")


def test_a_folder_is_indexed_where_it_lies(tmp_path):
    data = tmp_path / "polyps"
    for index in range(10):
        _pair(data, f"картинка {index}", index, empty=index == 0)
    steps = []
    report = build(
        [str(data)], tmp_path / "out", modality="endoscopy", target="polyp", progress=lambda *step: steps.append(step)
    )
    manifest = read_manifest(report.path)
    assert report.images == len(manifest.cases) == 10 and report.refusals == ()
    assert manifest.roots == {"polyps": data.resolve()}
    assert sum(count.targets for count in report.counts) == 10 and sum(count.negatives for count in report.counts) == 1
    assert {count.modality for count in report.counts} == {"endoscopy"}
    assert {case.split for case in manifest.cases} == set(SPLITS)
    assert steps == [(done, 10) for done in range(1, 11)]
    case = manifest.cases[1]
    image = read_image(manifest.resolve(case, case.image))
    assert read_target(manifest, case, case.targets[0], image).sum() == 9


def test_a_folder_may_hold_its_own_manifest(tmp_path):
    build([str(_pair(tmp_path, "a"))], tmp_path, target="polyp")
    assert read_manifest(tmp_path).cases[0].root == "."


def test_two_sources_with_equal_names_stay_apart(tmp_path):
    one, two = _pair(tmp_path / "x" / "data", "a", 1), _pair(tmp_path / "y" / "data", "a", 2)
    with pytest.raises(RequestError, match="NAME=PATH"):
        build([str(one), str(two)], tmp_path / "out", target="polyp")
    build([f"one={one}", f"two={two}"], tmp_path / "out", target="polyp")
    cases = read_manifest(tmp_path / "out").cases
    assert [(case.id, case.group, case.dataset) for case in cases] == [
        ("one/a", "one/a", "one"),
        ("two/a", "two/a", "two"),
    ]


def test_the_label_of_a_volume_is_settled(tmp_path):
    array = np.zeros((4, 4, 4), np.uint8)
    for part, name in (("images", "v.nii.gz"), ("masks", "v_mask.nii.gz")):
        (tmp_path / part).mkdir()
        array[1, 1, 1] = 255 if part == "masks" else 9
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / part / name)
    report = build([str(tmp_path)], tmp_path, target="lesion", modality="ct")
    assert read_manifest(tmp_path).cases[0].targets[0].masks[0].selector == 255
    assert report.counts[0].negatives == 0


def test_a_bad_mask_costs_its_target_and_not_the_case(tmp_path):
    _pair(tmp_path, "a")
    (tmp_path / "t.csv").write_text("image,mask,target\nimages/a.png,masks/a.png,polyp\nimages/a.png,no.png,fold\n")
    report = build([str(tmp_path / "t.csv")], tmp_path)
    assert [target.name for target in read_manifest(tmp_path).cases[0].targets] == ["polyp"]
    assert [(refusal.file, refusal.row) for refusal in report.refusals] == [("no.png", 3)]


def test_byte_identical_images_share_a_group(tmp_path):
    for name, value in (("a", 1), ("b", 2), ("c", 1), ("d", 2), ("e", 3)):
        _pair(tmp_path, name, value)
    table = _table(tmp_path, ("a", "p", ""), ("b", "p", ""), ("c", "q", ""), ("d", "r", "test"), ("e", "s", ""))
    report = build([f"set={table}"], tmp_path)
    groups = {case.id[-1]: (case.group, case.split) for case in read_manifest(tmp_path).cases}
    assert report.merged_groups == 2 and report.refusals == ()
    # a = c and b = d tie p, q and r together, and r is in test
    assert len({groups[name] for name in "abcd"}) == 1 and groups["a"][1] == "test"
    assert groups["e"][0] == "set/s"


def test_an_image_of_two_given_splits_and_its_group_stay_in_the_tested_one(tmp_path):
    for name, value in (("a", 1), ("b", 1), ("c", 2), ("d", 3), ("e", 4)):
        _pair(tmp_path, name, value)
    table = _table(
        tmp_path, ("a", "p", "train"), ("b", "q", "test"), ("c", "p", "train"), ("d", "p", ""), ("e", "r", "train")
    )
    report = build([f"set={table}"], tmp_path)
    kept = {case.id[-1]: (case.group, case.split) for case in read_manifest(tmp_path).cases}
    assert kept == {"b": ("set/q", "test"), "d": ("set/q", "test"), "e": ("set/r", "train")}
    assert [(refusal.file, refusal.row) for refusal in report.refusals] == [("images/a.png", 2), ("images/c.png", 4)]
    assert all("byte for byte" in refusal.reason for refusal in report.refusals)


def test_a_group_in_two_given_splits_loses_the_smaller_side(tmp_path):
    for index, name in enumerate("abc"):
        _pair(tmp_path, name, index)
    table = _table(tmp_path, ("a", "p", "test"), ("b", "p", "train"), ("c", "p", "train"))
    report = build([f"set={table}"], tmp_path)
    assert [refusal.case_id for refusal in report.refusals] == ["set/images/a"]


def test_the_fingerprint_sees_a_changed_mask(tmp_path):
    prints = []
    for empty in (False, True):
        build([str(_pair(tmp_path, "a", empty=empty))], tmp_path, target="polyp")
        prints.append(read_manifest(tmp_path).fingerprint())
    assert prints[0] != prints[1]


@pytest.mark.parametrize("options", [{"modality": "pet"}, {"kind": "tumour"}])
def test_unknown_words_in_the_options(tmp_path, options):
    with pytest.raises(RequestError, match="use one of"):
        build([str(tmp_path)], tmp_path / "out", **options)


def test_a_source_that_is_none(tmp_path):
    with pytest.raises(DataError, match="neither a folder with images/"):
        build([str(tmp_path / "nothing")], tmp_path / "out")


def test_the_real_table_keeps_every_fact(tmp_path):
    table = SHARED_DATA / "six_modalities" / "manifest.csv"
    if not table.exists():
        pytest.skip(f"real images are not here: {table}")
    report = build([str(table)], tmp_path)
    assert report.refusals == () and report.merged_groups == 0
    with table.open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    cases = read_manifest(tmp_path).cases
    built = [
        (case.id, case.image, case.modality, case.dataset, case.group, case.split, target.name, target.kind)
        for case in cases
        for target in case.targets
    ]
    columns = ["image", "modality", "dataset", "group", "split", "target", "kind"]
    stated = []
    for row in rows:
        image, modality, dataset, group, split, target, kind = (row[column] for column in columns)
        prefix = "six_modalities/"
        stated.append((prefix + row["id"], image, modality, dataset, prefix + group, split, target, kind))
    assert built == stated
    negatives: Counter[str] = Counter()
    for count in report.counts:
        negatives[count.split] += count.negatives
    assert negatives == Counter(row["split"] for row in rows if row["components"] == "0")
