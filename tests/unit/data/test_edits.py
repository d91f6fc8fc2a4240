"""Edits of a picture: what they do to the pixels and to the truth, always the same."""

import numpy as np
import pytest
import torch

from prsmed.data.edits import EDITS


def _picture(height=64, width=96, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).random((3, height, width), dtype=np.float32))


def _mask(rows, columns, hw_px=(64, 96)):
    mask = np.zeros(hw_px, bool)
    mask[rows, columns] = True
    return mask


TOP_LEFT = _mask(slice(4, 20), slice(6, 30))


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_keeps_its_input_and_gives_the_same_again(name):
    image, mask = _picture(), TOP_LEFT.copy()
    before = image.clone()
    edited = EDITS[name].picture(image, mask)
    assert torch.equal(image, before) and (mask == TOP_LEFT).all()
    assert edited.shape == image.shape and edited.dtype == torch.float32
    assert edited.min() >= 0 and edited.max() <= 1
    assert torch.equal(edited, EDITS[name].picture(_picture(), TOP_LEFT))
    truth = EDITS[name].mask(mask)
    assert truth.shape == mask.shape and truth.dtype == bool and (mask == TOP_LEFT).all()


def test_a_mirror_swaps_left_and_right():
    image = _picture()
    mirror = EDITS["mirror"]
    edited = mirror.picture(image, TOP_LEFT)
    assert torch.equal(edited[:, :, 0], image[:, :, 95]) and torch.equal(edited.flip(2), image)
    assert (np.argwhere(mirror.mask(TOP_LEFT)).min(axis=0) == [4, 96 - 30]).all()
    assert (mirror.mask(mirror.mask(TOP_LEFT)) == TOP_LEFT).all()


def test_blank_and_noise_show_nothing():
    blank = EDITS["blank"].picture(_picture(), TOP_LEFT)
    assert blank.unique().tolist() == [0.5]
    noise = EDITS["noise"].picture(_picture(), TOP_LEFT)
    assert noise.std() == pytest.approx(12**-0.5, abs=0.02)  # of a uniform distribution
    assert torch.equal(noise[0], noise[2])
    other = EDITS["noise"].picture(_picture(seed=1), TOP_LEFT)
    assert not torch.equal(noise, other)
    correlation = np.corrcoef(noise[0].flatten(), _picture().mean(0).flatten())[0, 1]
    assert abs(correlation) < 0.06  # 4.7 standard errors: nothing of the picture is left
    assert not EDITS["blank"].mask(TOP_LEFT).any() and not EDITS["noise"].mask(TOP_LEFT).any()


@pytest.mark.parametrize(
    ("rows", "columns", "corner"),
    [
        (slice(4, 20), slice(6, 30), "bottom right"),
        (slice(4, 20), slice(70, 90), "bottom left"),
        (slice(44, 60), slice(6, 30), "top right"),
        (slice(44, 60), slice(70, 90), "top left"),
    ],
)
def test_a_wrong_place_is_burned_in_far_from_the_finding(rows, columns, corner):
    image, mask = torch.full((3, 64, 96), 0.25), _mask(rows, columns)
    edited = EDITS["burned_text"].picture(image, mask)
    changed = (edited != image).any(dim=0).numpy()
    assert not (changed & mask).any()
    level, side = corner.split()
    y, x = np.argwhere(changed).mean(axis=0)
    assert (level == "bottom") == (y > 32) and (side == "right") == (x > 48)
    letters = edited[0].numpy()[changed]
    assert letters.max() > 0.9 and letters.min() == 0  # white on black
    assert (EDITS["burned_text"].mask(mask) == mask).all()


def test_a_caption_hides_nothing_where_only_one_corner_is_free():
    mask = np.ones((64, 96), bool)
    mask[:20, :] = False
    mask[:20, 48:] = True  # all but the top left
    changed = (EDITS["burned_text"].picture(torch.full((3, 64, 96), 0.5), mask) != 0.5).any(dim=0).numpy()
    assert changed.any() and not changed[20:].any()
    assert (changed & mask).sum() < changed.sum() / 2


@pytest.mark.parametrize("hw_px", [(64, 96), (7, 5)])
def test_a_caption_on_an_empty_or_tiny_picture(hw_px):
    edited = EDITS["burned_text"].picture(torch.full((3, *hw_px), 0.5), np.zeros(hw_px, bool))
    assert edited.shape == (3, *hw_px) and (edited != 0.5).any()
