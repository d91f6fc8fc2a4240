"""SA-Med2D-20M's published layout, written small: names, classes, instances, unions, splits, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prsmed.data.build import build
from prsmed.data.manifest import read_manifest, read_refusals
from prsmed.data.readers import read_image, read_target
from prsmed.data.sources.sa_med2d import readable_class
from prsmed.errors import DataError
from prsmed.types import Case

CLASSES = {
    "BTCV": {"spleen": 0, "kidney_right": 1, "kidney_left": 2, "union_kidney": 3},
    "ACDC": {"left_ventricle": 1, "myocardium": 2, "ventricles": 3},
    "ISIC": {"skin_lesion": 0},
}
GOOD = "ct_00--BTCV--p1--z_0010"
BAD = "ct_00--BTCV--p2--z_0010"


def _square(x: int, value: int = 255, side: int = 16) -> np.ndarray:
    mask = np.zeros((side, side), np.uint8)
    mask[4:8, x : x + 3] = value
    return mask


class Collection:
    """A folder in the published layout, to which a test adds images and masks."""

    def __init__(self, folder: Path):
        self.folder, self.index, self.classes = folder, {}, json.loads(json.dumps(CLASSES))
        (folder / "images").mkdir(parents=True)
        (folder / "masks").mkdir()

    def image(self, stem: str, masks: dict[str, np.ndarray]) -> None:
        pixels = np.random.default_rng(len(self.index)).integers(0, 256, (16, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(self.folder / "images" / f"{stem}.png")
        for ending, mask in masks.items():
            Image.fromarray(mask).save(self.folder / "masks" / f"{stem}--{ending}.png")
        self.index[f"images/{stem}.png"] = [f"masks/{stem}--{ending}.png" for ending in masks]

    def build(self, out: Path) -> list[Case]:
        (self.folder / "SAMed2D_v1.json").write_text(json.dumps(self.index))
        (self.folder / "SAMed2D_v1_class_mapping_id.json").write_text(json.dumps(self.classes))
        build([f"sa={self.folder}"], out)
        return list(read_manifest(out).cases)


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    made = Collection(tmp_path / "data")
    made.image(GOOD, {"0000_000": _square(2), "0002_000": _square(6)})
    return made


@pytest.mark.parametrize(
    ("name", "words", "side"),
    [
        ("kidney_left", "left kidney", "left"),
        ("Right Lung", "right lung", "right"),
        ("inferior_vena_cava", "inferior vena cava", None),
        ("left", "left", None),
    ],
)
def test_class_names_become_words(name: str, words: str, side: str | None) -> None:
    assert readable_class(name) == (words, side)


def test_names_facts_and_instances(collection: Collection, tmp_path: Path) -> None:
    collection.image("mr_t1--BTCV--p9--x_0003", {"0001_000": _square(1), "0001_001": _square(9)})
    collection.image("pet_00--BTCV--p8--z_0001", {"0000_000": _square(1)})
    collection.image("dermoscopy_00--ISIC--d1--2d_none", {"0000_000": _square(1)})
    cases = {case.id: case for case in collection.build(tmp_path / "out")}
    good, merged = cases[f"sa/{GOOD}"], cases["sa/mr_t1--BTCV--p9--x_0003"]
    named = [(target.name, target.kind, target.laterality) for target in good.targets]
    assert named == [("spleen", "organ", None), ("left kidney", "organ", "left")]
    assert (good.modality, good.dataset, good.group) == ("ct", "BTCV", "sa/BTCV/p1")
    assert {key: good.source[key] for key in ("volume", "index", "listed")} == {
        "volume": "ct_00--BTCV--p1--z",
        "index": 10,
        "listed": ["left kidney", "spleen"],
    }
    (target,) = merged.targets
    manifest = read_manifest(tmp_path / "out")
    image = read_image(manifest.resolve(merged, merged.image))
    # two instances of 4 x 3 pixels
    assert merged.modality == "mri" and read_target(manifest, merged, target, image).sum() == 24
    assert cases["sa/pet_00--BTCV--p8--z_0001"].modality is None
    lesion = cases["sa/dermoscopy_00--ISIC--d1--2d_none"]
    assert (lesion.targets[0].kind, lesion.source["index"]) == ("lesion", None)


def test_unions_and_inverted_sets_are_left_out_once(collection: Collection, tmp_path: Path) -> None:
    for number in range(3):
        collection.image(f"ct_00--BTCV--u--z_{number}", {"0000_000": _square(2), "0003_000": _square(5)})
        collection.image(f"mr_cmr--ACDC--u--z_{number}", {"0001_000": _square(2), "0003_000": _square(5)})
        collection.image(f"fundus_photography--ichallenge_adam_task2--u{number}--2d_1", {"0000_000": _square(2)})
    cases = collection.build(tmp_path / "out")
    assert {target.name for case in cases for target in case.targets} == {"spleen", "left kidney", "left ventricle"}
    reasons = [refusal.reason for refusal in read_refusals(tmp_path / "out")]
    assert len(reasons) == 3 and {reason.split(":")[0] for reason in reasons} == {
        "BTCV",
        "ACDC",
        "ichallenge_adam_task2",
    }


def test_no_patient_is_on_two_sides(collection: Collection, tmp_path: Path) -> None:
    for patient in range(6):
        for index in range(4):
            collection.image(f"ct_00--BTCV--q{patient}--z_{index}", {"0000_000": _square(patient)})
    sides: dict[str, set[str | None]] = {}
    for case in collection.build(tmp_path / "out"):
        sides.setdefault(case.group, set()).add(case.split)
    assert len(sides) == 7 and all(len(splits) == 1 for splits in sides.values())
    assert set.union(*sides.values()) == {"train", "val", "test"}


def test_stated_splits_are_kept(collection: Collection, tmp_path: Path) -> None:
    (collection.folder / "splits.json").write_text(json.dumps({GOOD: "test"}))
    assert [case.split for case in collection.build(tmp_path / "out")] == ["test"]


def _unknown_class(collection: Collection) -> None:
    collection.image(BAD, {"0044_000": _square(2)})


def _no_255(collection: Collection) -> None:
    collection.image(BAD, {"0000_000": _square(2, value=1)})


def _all_black(collection: Collection) -> None:
    collection.image(BAD, {"0000_000": _square(2, value=0)})


def _one_instance_without_255(collection: Collection) -> None:
    collection.image(BAD, {"0000_000": _square(2), "0000_001": _square(9, value=7)})


def _another_size(collection: Collection) -> None:
    collection.image(BAD, {"0000_000": _square(2, side=20)})


def _unreadable_image(collection: Collection) -> None:
    collection.image(BAD, {"0000_000": _square(2)})
    (collection.folder / "images" / f"{BAD}.png").write_bytes(b"\x89PNG nothing")


def _missing_mask(collection: Collection) -> None:
    collection.image(BAD, {"0000_000": _square(2)})
    (collection.folder / "masks" / f"{BAD}--0000_000.png").unlink()


def _name_with_three_fields(collection: Collection) -> None:
    collection.image("ct_00--BTCV--z_0010", {"0000_000": _square(2)})


def _unknown_modality(collection: Collection) -> None:
    collection.image("oct_00--BTCV--p2--z_0010", {"0000_000": _square(2)})


def _mask_of_another_image(collection: Collection) -> None:
    collection.image(BAD, {"0000_000": _square(2)})
    collection.index[f"images/{BAD}.png"] = [f"masks/{GOOD}--0000_000.png"]


def _mask_without_instance(collection: Collection) -> None:
    collection.image(BAD, {"0000": _square(2)})


def _path_outside(collection: Collection) -> None:
    collection.image(BAD, {"0000_000": _square(2)})
    collection.index[f"images/{BAD}.png"] = [f"../data/masks/{BAD}--0000_000.png"]


def _masks_no_list(collection: Collection) -> None:
    collection.image(BAD, {})
    collection.index[f"images/{BAD}.png"] = 3


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_unknown_class, "class 44 of BTCV is unknown"),
        (_no_255, "no pixel of the mask is 255, its largest value is 1"),
        (_all_black, "no pixel of the mask is 255, its largest value is 0"),
        (_one_instance_without_255, "its largest value is 7"),
        (_another_size, "mask is (20, 20), image is (16, 16)"),
        (_unreadable_image, "cannot be decoded"),
        (_missing_mask, "there is no file"),
        (_name_with_three_fields, "the name has 3 fields"),
        (_unknown_modality, "modality 'oct_00'"),
        (_mask_of_another_image, f"expected a mask of {BAD}"),
        (_mask_without_instance, "expected a mask of"),
        (_path_outside, "climbs out"),
        (_masks_no_list, "lists no mask"),
    ],
)
def test_bad_input_is_refused_alone(
    collection: Collection, tmp_path: Path, spoil: Callable[[Collection], None], says: str
) -> None:
    spoil(collection)
    cases = collection.build(tmp_path / "out")
    (refusal,) = read_refusals(tmp_path / "out")
    assert [case.id for case in cases] == [f"sa/{GOOD}"]
    assert says in refusal.reason and refusal.remedy


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("SAMed2D_v1_class_mapping_id.json", None),
        ("SAMed2D_v1_class_mapping_id.json", "{"),
        ("SAMed2D_v1_class_mapping_id.json", '{"BTCV": {"spleen": 0, "liver": 0}}'),
        ("SAMed2D_v1_class_mapping_id.json", '{"BTCV": {"spleen": "0"}}'),
        ("SAMed2D_v1.json", "[]"),
        ("splits.json", "[1"),
    ],
)
def test_a_collection_without_its_tables_is_an_error(
    collection: Collection, tmp_path: Path, file: str, content: str | None
) -> None:
    collection.build(tmp_path / "out")
    if content is None:
        (collection.folder / file).unlink()
    else:
        (collection.folder / file).write_text(content)
    with pytest.raises(DataError, match=file):
        build([f"sa={collection.folder}"], tmp_path / "again")


def test_the_shared_slices(shared_data: Path, tmp_path: Path) -> None:
    """153 slices of 21 patients, 883 masks of 13 organs: the counts of the data's own index."""
    report = build([str(shared_data / "sa_med2d")], tmp_path)
    cases = read_manifest(tmp_path).cases
    index = json.loads((shared_data / "sa_med2d" / "SAMed2D_v1.json").read_text())
    assert report.images == len(index) and not report.refusals
    assert sum(len(case.targets) for case in cases) == sum(map(len, index.values()))
    assert len({target.name for case in cases for target in case.targets}) == 13
    by_group: dict[str, set[str | None]] = {}
    for case in cases:
        by_group.setdefault(case.group, set()).add(case.split)
    assert len(by_group) == 21 and all(len(splits) == 1 for splits in by_group.values())
