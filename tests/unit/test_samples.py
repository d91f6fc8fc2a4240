"""Cases to samples to batches; words and pixels must agree after every change of the picture."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from prsmed.data.manifest import read_manifest, write_manifest
from prsmed.data.preprocessing import Preprocessing
from prsmed.data.writers.nifti import write_nifti
from prsmed.errors import DataError
from prsmed.geometry import Geometry
from prsmed.samples import (
    Item,
    add_text,
    ask_for_another,
    collate,
    findings_of,
    foreign_targets,
    items_of,
    load_item,
    state_of,
    truth_of,
)
from prsmed.text.encode import IGNORE_ID
from prsmed.text.parse import parse_position
from prsmed.text.templates import TemplateBank
from prsmed.types import EVIDENCE_STATES, ZONES, Case, MaskRef, Query, SliceRef, Target
from tests.unit.small_networks import small_text

SLICES = {"axis": "axial", "with_target": 2, "without_target": 1}
MIRRORED = {"left": "right", "right": "left"}
OWN_QUESTION = "Where did the endoscopist see it?"


@pytest.fixture(scope="module")
def bank():
    return TemplateBank.load()


@pytest.fixture(scope="module")
def text():
    return small_text()


@pytest.fixture(scope="module")
def preprocessing(repository):
    config = json.loads((repository / "configs/train.json").read_text(encoding="utf-8"))
    return Preprocessing(config["preprocessing_steps"])


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (60, 90, 3), dtype=np.uint8)).save(folder / "polyp.png")
    mask = np.zeros((60, 90), np.uint8)
    mask[5:20, 8:30] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    volume = np.zeros((30, 20, 8), np.uint8)
    volume[20:28, 3:9, 2:5] = 1
    # stored with its first axis to the right and its second to the front
    write_nifti(folder / "ct.nii.gz", rng.normal(0, 300, volume.shape).astype(np.int16), np.eye(4))
    write_nifti(folder / "ct_mask.nii.gz", volume, np.eye(4))
    polyp = Target("t1", "polyp", "lesion", masks=(MaskRef("png", "mask.png"),))
    queries = (
        Query("q1", ("t1",), "position", OWN_QUESTION),
        Query("q2", ("t1",), "attribute", "What colour is it?"),
        Query("q3", ("other",), "position", "Where is something else?"),
    )
    other = Target("other", "instrument", "lesion", laterality="left")
    nodule = Target("t1", "lung nodule", "lesion", masks=(MaskRef("nifti", "ct_mask.nii.gz", 1),))
    cases = [
        Case("pet", "polyp.png", None, "g0", split="train", targets=(polyp,)),
        Case("polyp", "polyp.png", "endoscopy", "g1", split="train", targets=(polyp, other), queries=queries),
        Case("ct", "ct.nii.gz", "ct", "g2", split="train", targets=(nodule,)),
        Case("one", "ct.nii.gz", "ct", "g3", split="val", targets=(nodule,), slice=SliceRef("coronal", 5)),
        Case("bare", "polyp.png", "endoscopy", "g4", split="test"),
    ]
    write_manifest(folder, cases)
    return read_manifest(folder)


def _sample(mask, **facts):
    facts = {"modality": "mri", "target": "lesion", "kind": "lesion", "laterality": "", "queries": []} | facts
    facts = {"named_modality": facts["modality"]} | facts
    label = torch.from_numpy(mask.astype(np.float32))[None]
    fixed = {"geometry": Geometry(mask.shape, mask.shape), "key": "k", "picture": "p", "asked": None, "query": None}
    return {"image": label.expand(3, -1, -1), "label": label, **fixed, **facts}


def _text_of(sample, bank, text, *, split="train", answers=True, seed=0):
    return add_text(
        sample,
        bank=bank,
        text=text,
        split=split,
        answers=answers,
        zone_rule="posmed",
        rng=np.random.default_rng(seed),
    )


def test_what_can_be_asked(manifest):
    items = items_of(manifest, "train", slices=SLICES)
    # the case without a modality is left out; the volume gives slices 2 to 4 with the nodule and the rest without
    assert [item.key for item in items] == ["polyp/t1", "polyp/other", "ct/t1@axial2", "ct/t1@axial4", "ct/t1@axial5"]
    assert [item.key for item in items_of(manifest, "val", slices=SLICES)] == ["one/t1@coronal5"]
    with pytest.raises(DataError, match=r"no case of split 'test' has a modality and a target; check manifest.jsonl"):
        items_of(manifest, "test", slices=SLICES)


def test_the_truth_is_on_the_grid_that_is_shown(manifest):
    polyp, instrument, first = items_of(manifest, "train", slices=SLICES)[:3]
    source, mask = truth_of(manifest, polyp)
    assert mask.shape == source.array.shape[:2] and mask.sum() == 15 * 22
    assert not truth_of(manifest, instrument)[1].any()
    volume, mask = truth_of(manifest, first)
    # stored i runs to the right and j to the front: both are turned round for display
    assert volume.is_volume and mask.shape == (20, 30)
    assert np.argwhere(mask).min(axis=0).tolist() == [20 - 9, 30 - 28] and mask.sum() == 8 * 6


def test_a_picture_that_names_its_slice_is_still_a_picture(manifest):
    item = Item(manifest.split("train")[1], manifest.split("train")[1].targets[0], SliceRef("axial", 3))
    assert truth_of(manifest, item)[1].shape == (60, 90)


def test_loaded_items(manifest, preprocessing):
    polyp, _, first = items_of(manifest, "train", slices=SLICES)[:3]
    sample = load_item(manifest, polyp, preprocessing)
    assert sample["image"].shape == (3, 85, 128) and sample["label"].shape == (1, 85, 128)
    assert sample["label"].unique().tolist() == [0, 1]
    assert [query.question for query in sample["queries"]] == [
        OWN_QUESTION
    ]  # the one that asks where, about this target
    assert (sample["laterality"], sample["target"], sample["kind"], sample["key"]) == (
        "",
        "polyp",
        "lesion",
        "polyp/t1",
    )
    sample = load_item(manifest, first, preprocessing)
    assert sample["geometry"].volume.index == 2 and sample["label"].any()
    assert sample["geometry"].slice_hw_px == (20, 30)


@pytest.mark.parametrize("axis", [2, 1], ids=["left-right", "top-bottom"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_mirrored_picture_has_a_mirrored_answer(bank, text, axis, split):
    swaps = MIRRORED if axis == 2 else {"top": "bottom", "bottom": "top"}
    mask = np.zeros((80, 100), bool)
    mask[6:16, 5:20] = True  # top left
    second = mask.copy()
    second[60:66, 10:18] = True  # and a smaller one, bottom left
    for drawn in (mask, second):
        sample = _sample(drawn)
        flipped = {**sample, "image": sample["image"].flip(axis), "label": sample["label"].flip(axis)}
        for seed in range(40):
            said = _text_of(sample, bank, text, split=split, seed=seed)
            mirrored = _text_of(flipped, bank, text, split=split, seed=seed)
            assert said["question"] == mirrored["question"]
            zones = parse_position(said["answer"], target="lesion").zones
            expected = ["-".join(swaps.get(word, word) for word in zone.split("-")) for zone in zones]
            assert sorted(parse_position(mirrored["answer"], target="lesion").zones) == sorted(expected)
            assert zones[0] == "top-left"


def test_an_answer_in_the_sequence_only_where_asked_for(bank, text):
    mask = np.zeros((40, 40), bool)
    mask[2:9, 2:9] = True
    with_answer = _text_of(_sample(mask), bank, text, seed=3)
    without = _text_of(_sample(mask), bank, text, answers=False, seed=3)
    assert with_answer["question"] == without["question"] and with_answer["answer"] == without["answer"]
    assert (with_answer["encoded"].target_ids >= 0).any() and not (without["encoded"].target_ids >= 0).any()
    length = len(without["encoded"].input_ids)
    assert torch.equal(with_answer["encoded"].input_ids[:length], without["encoded"].input_ids)


def test_a_negative_is_said_to_be_absent(bank, text):
    for seed in range(20):
        said = _text_of(_sample(np.zeros((40, 40), bool)), bank, text, seed=seed)
        assert parse_position(said["answer"], target="lesion").kind == "none"


def test_a_lesion_that_such_a_picture_cannot_show_is_denied(bank, text, manifest):
    mask = np.zeros((40, 40), bool)
    mask[4:12, 4:12] = True
    items = items_of(manifest, "train", slices=SLICES)
    assert foreign_targets(items, "endoscopy") == [("ct", "lung nodule")]
    assert ("endoscopy", "polyp") in foreign_targets(items, "ct") and foreign_targets(items, "mri") != []
    own = _text_of(_sample(mask, target="polyp", modality="endoscopy"), bank, text)
    other = ask_for_another(_sample(mask, modality="endoscopy"), target="lung nodule", modality=None)
    other = _text_of(other, bank, text)
    batch = collate([own, other], pad_id=text.pad_id)
    assert "lung nodule" in other["question"] and parse_position(other["answer"], target="lung nodule").kind == "none"
    assert batch["state_index"].tolist() == [EVIDENCE_STATES.index("top-left"), IGNORE_ID]
    assert batch["present"].tolist() == [1, 0]


@pytest.mark.parametrize(("regions", "state"), [((), "none"), ((4,), "top-left"), ((4, 30), "several")])
def test_the_state_of_a_picture(regions, state):
    mask = np.zeros((40, 40), bool)
    for start in regions:
        mask[start : start + 6, start : start + 6] = True
    assert state_of(findings_of(mask, "lesion", zone_rule="posmed")) == state


def test_own_questions_are_asked_beside_the_templates(bank, text):
    sample = _sample(np.ones((40, 40), bool), queries=[Query("q1", ("t1",), "position", OWN_QUESTION)])
    samples = [_text_of(sample, bank, text, seed=seed) for seed in range(60)]
    asked = [said["question"] for said in samples]
    assert 15 < asked.count(OWN_QUESTION) < 45
    assert len(set(asked)) > 10
    for said in samples:
        assert said["query_kind"] == ("position" if said["question"] == OWN_QUESTION else "template")


def test_random_draws_are_those_of_the_bank(bank, text):
    """One draw for the template, and further ones only where the case has own questions: runs stay repeatable."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        turn = bank.question("train", target="lesion", modality="mri", rng=rng)
        assert _text_of(_sample(np.zeros((40, 40), bool)), bank, text, seed=seed)["question"] == turn.question


def test_the_question_of_a_probe_is_asked_as_it_is(bank, text):
    mask = np.zeros((40, 40), bool)
    mask[2:9, 2:9] = True
    rng = np.random.default_rng(0)
    state = rng.bit_generator.state
    sample = _sample(mask, asked="Where, and why?", queries=[Query("q1", ("t1",), "position", OWN_QUESTION)])
    said = add_text(sample, bank=bank, text=text, split="test", answers=False, zone_rule="posmed", rng=rng)
    assert (said["question"], said["query_kind"]) == ("Where, and why?", "probe")
    assert said["answer"] == "The lesion is in the top left of the image."
    assert rng.bit_generator.state == state  # nothing was drawn


def test_a_mirrored_item(manifest, preprocessing):
    for item in items_of(manifest, "train", slices=SLICES):  # a picture, a negative, slices of a volume
        mirrored = replace(item, probe="flip", base=item.key, edit="mirror")
        assert mirrored.key == f"{item.key}#flip" and replace(mirrored, number=2).key == f"{item.key}#flip2"
        np.testing.assert_array_equal(truth_of(manifest, mirrored)[1], truth_of(manifest, item)[1][:, ::-1])
        before, after = load_item(manifest, item, preprocessing), load_item(manifest, mirrored, preprocessing)
        assert torch.equal(after["image"], before["image"].flip(2))
        # interpolation may round a pixel of the mask's edge the other way
        assert (after["label"] != before["label"].flip(2)).sum() <= 2
        assert after["geometry"] == before["geometry"]


@pytest.mark.parametrize("edit", ["blank", "noise"])
def test_nothing_is_true_of_a_picture_that_is_gone(manifest, preprocessing, edit):
    item = replace(items_of(manifest, "train", slices=SLICES)[0], probe=edit, base="b", edit=edit, question="Where?")
    assert not truth_of(manifest, item)[1].any()
    sample = load_item(manifest, item, preprocessing)
    assert not sample["label"].any() and sample["asked"] == "Where?"


def test_a_target_that_is_not_in_the_picture(manifest):
    polyp = items_of(manifest, "train", slices=SLICES)[0]
    assert not truth_of(manifest, replace(polyp, target=Target("foreign", "skin lesion", "lesion")))[1].any()


def test_only_what_lies_in_a_zone_is_true(tmp_path):
    mask = np.zeros((60, 90), np.uint8)
    mask[5:20, 8:30] = mask[40:50, 60:70] = mask[58, 88] = 255  # top left; bottom right, with a speck
    for name, pixels in (("mask.png", mask), ("image.png", mask)):
        Image.fromarray(pixels).save(tmp_path / name)
    polyp = Target("t1", "polyp", "lesion", masks=(MaskRef("png", "mask.png"),))
    write_manifest(tmp_path, [Case("two", "image.png", "endoscopy", "g", split="test", targets=(polyp,))])
    two = read_manifest(tmp_path)
    item = replace(items_of(two, "test", slices=SLICES)[0], zone_rule="posmed")
    areas = {zone: int(truth_of(two, replace(item, only_zone=zone))[1].sum()) for zone in ZONES}
    assert areas == {"top-left": 15 * 22, "bottom-right": 101, "top-right": 0, "bottom-left": 0, "center": 0}


def test_two_lungs_are_one_finding_and_two_lesions_are_two():
    mask = np.zeros((60, 60), bool)
    mask[10:50, 5:20], mask[10:50, 40:55] = True, True
    assert len(findings_of(mask, "organ", zone_rule="posmed")) == 1
    assert len(findings_of(mask, "lesion", zone_rule="posmed")) == 2


def test_a_batch_is_padded_at_the_bottom_and_right(bank, text):
    drawn = np.zeros((20, 30), bool)
    drawn[2:12, 3:14] = True
    samples = [_sample(drawn), _sample(np.zeros((40, 16), bool), kind="organ", modality="ct")]
    samples = [_text_of(sample, bank, text, seed=seed) for seed, sample in enumerate(samples)]
    batch = collate(samples, pad_id=text.pad_id)
    assert batch["image"].shape == (2, 3, 40, 30) and batch["label"].shape == batch["valid"].shape == (2, 1, 40, 30)
    for row, sample in enumerate(samples):
        height, width = sample["image"].shape[1:]
        assert torch.equal(batch["image"][row, :, :height, :width], sample["image"])
        assert torch.equal(batch["label"][row, :, :height, :width], sample["label"])
        assert batch["valid"][row].sum() == height * width == batch["valid"][row, :, :height, :width].sum()
        assert batch["image"][row].sum() == sample["image"].sum()
        length = len(sample["encoded"].input_ids)
        assert torch.equal(batch["input_ids"][row, :length], sample["encoded"].input_ids)
        assert batch["attention_mask"][row].sum() == length
        assert (batch["input_ids"][row, length:] == text.pad_id).all()
    assert batch["present"].tolist() == [1.0, 0.0] and batch["obj_image"].tolist() == [0, 1]
    assert batch["modality_index"].tolist() == [1, 0] and batch["kind_index"].tolist() == [0, 1]
    assert batch["query_kind"] == ["template", "template"]
    assert batch["modality"] == ["mri", "ct"] and batch["kind"] == ["lesion", "organ"]
