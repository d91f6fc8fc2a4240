"""Packing: who may look at whom, where positions start again, and where candidates are."""

import pytest
import torch

from prsmed.text.encode import IGNORE_ID, IMAGE_ID, TextEncoder, candidate_names, load_tokenizer
from prsmed.text.packing import pack_batch


@pytest.fixture(scope="module")
def text(repository) -> TextEncoder:
    tokenizer = load_tokenizer(repository / "models" / "tiny" / "tokenizer.json")
    return TextEncoder(tokenizer, image_tokens=3, candidates=2)


@pytest.fixture(scope="module")
def packed(text):
    first = [text.encode("show the liver", "the liver", points=True), text.encode("and now?", "nothing")]
    return pack_batch([first, [text.encode("a spleen", "it", points=True)]], text), first


def test_candidates_begin_the_answer_and_are_no_words(text):
    turn = text.encode("show the liver", "the liver", points=True)
    known = len(text.tokenizer)
    assert text.candidate_ids == [known, known + 1] and candidate_names(3) == ("[SEG]", "[BBOX]", "[C3]")
    at = turn.candidate_at
    assert turn.input_ids[at + 1].tolist() == turn.target_ids[at + 1].tolist() == text.candidate_ids
    assert int(at[0]) == int(turn.prompt_mask.sum()) - 1
    assert text.decode(turn.target_ids) == "the liver"
    plain = text.encode("show the liver", "the liver")
    assert plain.candidate_at is None and text.decode(plain.target_ids) == "the liver"
    # A user cannot spell one: typed, it is five characters.
    assert not set(text.candidate_ids) & set(text.encode("[SEG] [BBOX]").input_ids.tolist())


def test_a_turn_sees_the_image_and_itself(text, packed):
    batch, first = packed
    shared, one, two = text.shared_tokens, *(len(turn.input_ids) - text.shared_tokens for turn in first)
    visible = batch["attention_mask"][0, 0]
    assert (batch["input_ids"][0, :shared] == IMAGE_ID).sum() == 3
    second = slice(shared + one, shared + one + two)
    assert visible[second, :shared].all()
    assert not visible[second, shared : shared + one].any()
    assert torch.equal(visible[second, second], torch.ones(two, two, dtype=torch.bool).tril())
    assert not visible[:shared, shared:].any()


def test_positions_of_every_turn_follow_the_image(text, packed):
    batch, first = packed
    shared = text.shared_tokens
    lengths = [len(turn.input_ids) - shared for turn in first]
    expected = [*range(shared), *(shared + index for length in lengths for index in range(length))]
    assert batch["position_ids"][0].tolist() == expected


def test_candidates_and_targets_keep_their_meaning(text, packed):
    batch, first = packed
    assert batch["turn_image"].tolist() == [0, 1] and batch["candidate_at"].shape == (2, 2)
    for image, at in zip(batch["turn_image"], batch["candidate_at"], strict=True):
        assert batch["input_ids"][image, at + 1].tolist() == text.candidate_ids
    real = torch.cat([turn.target_ids[turn.target_ids >= 0] for turn in first])
    assert torch.equal(batch["target_ids"][0][batch["target_ids"][0] >= 0], real)


def test_padding_sees_itself_alone(text, packed):
    batch, _ = packed
    length = len(text.encode("a spleen", "it", points=True).input_ids)
    visible = batch["attention_mask"][1, 0]
    padding = visible[length:]
    assert torch.equal(padding[:, length:], torch.eye(len(padding), dtype=torch.bool)) and not padding[:, :length].any()
    assert not visible[:length, length:].any()
    assert (batch["target_ids"][1, length:] == IGNORE_ID).all()


@pytest.mark.parametrize("image_tokens", [0, 1, 9])
def test_candidates_are_found_however_many_tokens_an_image_has(text, image_tokens):
    other = TextEncoder(text.tokenizer, image_tokens=image_tokens, candidates=2)
    turns = [other.encode(question, "it", points=True) for question in ("show the liver", "a longer question, spleen")]
    batch = pack_batch([turns, turns[:1]], other)
    assert (batch["input_ids"][0] == IMAGE_ID).sum() == image_tokens
    for image, at in zip(batch["turn_image"], batch["candidate_at"], strict=True):
        assert batch["input_ids"][image, at + 1].tolist() == other.candidate_ids


def test_an_image_of_which_nothing_is_there_has_no_candidates(text):
    batch = pack_batch([[text.encode("a spleen", "no")]], text)
    assert batch["candidate_at"].shape == (0, 2) and batch["turn_image"].shape == (0,)
