"""A case's own questions: items, packed samples and their batches."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from prsmed.data.preprocessing import Preprocessing
from prsmed.errors import DataError
from prsmed.geometry import mask_to_box
from prsmed.query_samples import (
    collate_packed,
    load_picture,
    packed_sample,
    pictures_of,
    query_items,
)
from prsmed.samples import add_text, load_item, truth_of
from prsmed.text.encode import IGNORE_ID
from tests.unit.queries_set import HW, write_query_set
from tests.unit.small_medisee import small_text

SLICES = {"axis": "axial", "with_target": 1, "without_target": 0}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_query_set(tmp_path_factory.mktemp("queries"))


@pytest.fixture(scope="module")
def preprocessing(repository):
    config = json.loads((repository / "configs" / "train.json").read_text(encoding="utf-8"))
    return Preprocessing(config["preprocessing_steps"])


@pytest.fixture(scope="module")
def items(manifest):
    return query_items(manifest, "train", slices=SLICES)


@pytest.fixture(scope="module")
def text():
    return small_text()


def test_every_question_is_an_item_of_its_own(manifest, items):
    assert [item.key for item in items] == [
        *(f"case0/q{number}" for number in range(1, 7)),
        *(f"case1/q{number}" for number in range(1, 5)),
    ]
    both = next(item for item in items if item.key == "case0/q6")
    liver, spleen = (truth_of(manifest, item)[1] for item in items if item.key in ("case0/q1", "case0/q4"))
    assert both.target.name == "liver and spleen"
    np.testing.assert_array_equal(truth_of(manifest, both)[1], liver | spleen)


def test_what_is_not_there_is_named_by_the_answer_and_has_an_empty_truth(manifest, items):
    absent = items[-1]
    assert absent.target.name == "spleen" and absent.target.kind == "organ"
    assert not truth_of(manifest, absent)[1].any()


def test_a_case_without_questions_is_asked_by_name(manifest):
    plain = replace(manifest, cases=tuple(replace(case, queries=()) for case in manifest.cases))
    asked = query_items(plain, "train", slices=SLICES)
    assert [item.query.question for item in asked if item.case.id == "case0"] == [
        "Show me the liver.",
        "Show me the spleen.",
    ]


def test_a_question_about_a_foreign_target_is_refused(manifest):
    case = manifest.cases[0]
    lost = replace(case, queries=(replace(case.queries[0], target_ids=("t9",)),))
    with pytest.raises(DataError, match=r"q1.*no target t9"):
        query_items(replace(manifest, cases=(lost,)), "train", slices=SLICES)


def test_asking_keeps_the_question_and_its_kind(manifest, items, preprocessing, text):
    loaded = [load_item(manifest, item, preprocessing) for item in (items[1], items[-1])]
    rng = np.random.default_rng(0)
    options = {"bank": None, "text": text, "split": "train", "zone_rule": "posmed", "rng": rng}
    asked, absent = (add_text(sample, answers=False, **options) for sample in loaded)
    assert asked["question"] == "Which organ makes bile, and stores sugar?" and asked["query_kind"] == "attribute"
    assert torch.equal(asked["encoded"].input_ids, text.encode(asked["question"]).input_ids)
    taught, denied = (add_text(sample, answers=True, **options)["encoded"] for sample in loaded)
    assert taught.candidate_at is not None and denied.candidate_at is None
    assert text.decode(denied.target_ids) == absent["answer"] == "There is no spleen to be seen in this image."


def test_pictures_hold_their_questions_by_group(items):
    first, second = pictures_of(items)
    assert [len(first.groups[name]) for name in ("naming", "reasoning")] == [3, 3]
    assert [len(second.groups[name]) for name in ("naming", "reasoning")] == [2, 2]


def _packed(manifest, items, preprocessing, text, numbers, **options):
    picture = pictures_of(items)[0]
    chosen = [item for item in picture.items if item.query.id in numbers]
    return packed_sample(load_picture(manifest, picture, preprocessing), chosen, text=text, **options)


def test_a_packed_batch_holds_objects_boxes_and_teachers(manifest, items, preprocessing, text):
    first = _packed(manifest, items, preprocessing, text, ("q1", "q5"), plain_queries=True)
    picture = pictures_of(items)[1]
    absent = [item for item in picture.items if not item.query.target_ids]
    second = packed_sample(load_picture(manifest, picture, preprocessing), absent, text=text, plain_queries=True)
    third = _packed(manifest, items, preprocessing, text, ("q2",), plain_queries=True)
    batch = collate_packed([first, second, third], text=text)
    assert batch["obj_image"].tolist() == [0, 0, 2] and batch["label"].shape[:2] == (3, 1)
    names = [text.decode(row[row >= 0]).strip() for row in batch["absent_ids"]]
    assert batch["absent_image"].tolist() == [1] * len(absent) and names == [item.target.name for item in absent]
    # The teachers of the spleen of the first picture, and of the liver of the third.
    assert batch["teacher_image"].tolist() == [0, 2] and batch["teacher_of"].tolist() == [1, 2]
    for image, at in [
        *zip(batch["obj_image"], batch["candidate_at"], strict=True),
        *zip(batch["teacher_image"], batch["teacher_at"], strict=True),
    ]:
        assert batch["input_ids"][image, at + 1].tolist() == text.candidate_ids
    for image, at in zip(batch["teacher_image"], batch["teacher_at"], strict=True):
        assert (batch["target_ids"][image, at + 1] == IGNORE_ID).all()
    for image, at in zip(batch["obj_image"], batch["candidate_at"], strict=True):
        assert batch["target_ids"][image, at + 1].tolist() == text.candidate_ids


def test_an_unexplained_answer_ends_behind_the_candidates(manifest, items, preprocessing, text):
    options = {"plain_queries": False, "explained": [True, False]}
    full, short = _packed(manifest, items, preprocessing, text, ("q1", "q5"), **options)["turns"]
    assert full.target_ids[full.target_ids != IGNORE_ID][-1] == text.end_id
    assert short.target_ids[short.target_ids != IGNORE_ID].tolist() == text.candidate_ids
    picture = pictures_of(items)[1]
    absent = [item for item in picture.items if not item.query.target_ids]
    loaded = load_picture(manifest, picture, preprocessing)
    denied = packed_sample(loaded, absent, text=text, plain_queries=False, explained=[False] * len(absent))["turns"]
    assert all("There is no" in text.decode(turn.target_ids) for turn in denied)


def test_boxes_are_shares_of_the_picture_without_padding(manifest, items, preprocessing, text):
    batch = collate_packed([_packed(manifest, items, preprocessing, text, ("q1",), plain_queries=False)], text=text)
    height, width = HW[0]
    box = torch.tensor(mask_to_box(truth_of(manifest, items[0])[1])) / torch.tensor([width, height, width, height])
    torch.testing.assert_close(batch["boxes_xyxy_norm"][0], box, atol=0.5 / height, rtol=0)
    assert batch["valid"].all() and batch["teacher_of"].shape == (0,)


def test_what_augmentation_moves_out_of_the_picture_is_denied(manifest, items, preprocessing, text):
    picture = pictures_of(items)[0]
    loaded = load_picture(manifest, picture, preprocessing)
    moved = {**loaded, "label": torch.zeros_like(loaded["label"])}
    sample = packed_sample(moved, picture.items[:1], text=text, plain_queries=True)
    assert not sample["labels"] and not sample["teacher_of"]
    assert "No liver is visible" in text.decode(sample["turns"][0].target_ids)
