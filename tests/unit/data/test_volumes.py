"""Volumes are read once for all their slices, within a bound, and never go stale."""

import multiprocessing
import os
from collections import Counter
from functools import partial

import numpy as np
import pytest

from prsmed.data import volumes
from prsmed.data.manifest import read_manifest, write_manifest
from prsmed.data.preprocessing import Preprocessing
from prsmed.data.volumes import Recent, open_image, open_prepared, open_target
from prsmed.data.writers.nifti import write_nifti
from prsmed.samples import items_of, load_item
from prsmed.types import Case, MaskRef, Target

STEPS = [
    {"transform": "Orientationd", "axcodes": "LPI", "labels": None, "form": "volume"},
    {"transform": "ScalePercentilesd", "lower": 1, "upper": 99},
    {"transform": "SliceByAxisd", "form": "volume"},
    {"transform": "ToCanonicald", "long_side_px": 16},
]


@pytest.fixture
def reads(monkeypatch):
    """How often each file is read, with a fresh store of 100 kB."""
    counts = Counter()
    for name in ("read_image", "read_target"):
        original = getattr(volumes, name)

        def counted(*args, name=name, original=original, **options):
            counts[name] += 1
            return original(*args, **options)

        monkeypatch.setattr(volumes, name, counted)
    monkeypatch.setattr(volumes, "_recent", Recent(100_000))
    return counts


@pytest.fixture
def manifest(tmp_path):
    """Two MR volumes of 16 x 16 x 8 int16 (4 kB) with a lesion in four slices each."""
    rng = np.random.default_rng(0)
    mask = np.zeros((16, 16, 8), np.uint8)
    mask[3:9, 4:10, 2:6] = 1
    lesion = Target("t1", "lesion", "lesion", masks=(MaskRef("nifti", "mask.nii.gz", 1),))
    write_nifti(tmp_path / "mask.nii.gz", mask, np.eye(4))
    for name in "ab":
        write_nifti(tmp_path / f"{name}.nii.gz", rng.integers(0, 900, mask.shape).astype(np.int16), np.eye(4))
    cases = [Case(name, f"{name}.nii.gz", "mri", name, split="train", targets=(lesion,)) for name in "ab"]
    write_manifest(tmp_path, cases)
    return read_manifest(tmp_path)


def test_what_was_used_last_is_kept():
    made = []

    def get(key, size=40):
        return recent.get(key, lambda: made.append(key) or key, lambda _: size)

    recent = Recent(100)
    assert [get(key) for key in "abab"] == ["a", "b", "a", "b"] and made == ["a", "b"]
    get("a"), get("c")  # b was used longest ago
    assert (get("a"), get("c"), made) == ("a", "c", ["a", "b", "c"])
    get("b")
    assert made == ["a", "b", "c", "b"]
    get("huge", 101), get("huge", 101), get("never", None), get("never", None)
    assert made[4:] == ["huge", "huge", "never", "never"]
    get("c"), get("b")
    assert len(made) == 8  # neither of those pushed anything out


def test_a_volume_is_read_once_for_all_its_slices(manifest, reads):
    items = items_of(manifest, "train", slices={"axis": "axial", "choice": "all"})
    preprocessing = Preprocessing(STEPS)
    samples = [load_item(manifest, item, preprocessing) for item in items]
    assert len(samples) == 8 and all(sample["label"].any() for sample in samples)
    assert reads == {"read_image": 2, "read_target": 2}
    again = Preprocessing(STEPS)  # as a worker's copy would be
    case = items[0].case
    image = open_image(manifest, case)
    assert open_prepared(manifest, case, image, again) is open_prepared(manifest, case, image, preprocessing)
    other = Preprocessing([*STEPS[:1], {**STEPS[1], "upper": 90}, *STEPS[2:]])
    assert open_prepared(manifest, case, image, other) is not open_prepared(manifest, case, image, preprocessing)


def test_a_small_store_reads_again_and_gives_the_same(manifest, reads, monkeypatch):
    items = items_of(manifest, "train", slices={"axis": "axial", "choice": "all"})
    preprocessing = Preprocessing(STEPS)
    kept = [load_item(manifest, item, preprocessing)["image"] for item in items]
    monkeypatch.setattr(volumes, "_recent", Recent(0))
    reads.clear()
    for item, image in zip(items, kept, strict=True):
        assert (load_item(manifest, item, preprocessing)["image"] == image).all()
    assert reads == {"read_image": 8, "read_target": 8}


def test_workers_give_what_this_process_gives(manifest, reads):
    """Forked with a warm store, as a loader's workers are, and asked in any order."""
    items = items_of(manifest, "train", slices={"axis": "axial", "choice": "all"})
    load = partial(load_item, manifest, preprocessing=Preprocessing(STEPS))
    expected = [load(item)["image"] for item in items]
    order = [5, 0, 7, 2, 1, 6, 3, 4]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        samples = pool.map(load, [items[index] for index in order], chunksize=1)
    for index, sample in zip(order, samples, strict=True):
        assert (sample["image"] == expected[index]).all()


def test_a_file_that_changes_is_read_anew(manifest, reads):
    case = manifest.cases[0]
    path = manifest.resolve(case, case.image)
    before = open_image(manifest, case).array[0, 0, 0]
    write_nifti(path, np.full((16, 16, 8), before + 1, np.int16), np.eye(4))
    os.utime(path, ns=(0, 1))  # a clock may be too coarse to tell
    assert open_image(manifest, case).array[0, 0, 0] == before + 1


def test_what_is_shared_cannot_be_written(manifest, reads):
    case = manifest.cases[0]
    image = open_image(manifest, case)
    mask_ijk = open_target(manifest, case, case.targets[0], image)
    for array in (image.array, mask_ijk):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0, 0] = 1
