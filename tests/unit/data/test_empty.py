"""Pictures that show nothing."""

import torch

from prsmed.data.empty import EMPTY_PICTURES, empty_picture


def test_each_is_the_same_every_time_and_unlike_the_others():
    pictures = [empty_picture(number, 32) for number in range(EMPTY_PICTURES)]
    for number, picture in enumerate(pictures):
        assert picture.shape == (3, 32, 32) and picture.dtype == torch.float32
        assert picture.min() >= 0 and picture.max() <= 1
        assert torch.equal(picture, empty_picture(number, 32))
    assert len({picture.numpy().tobytes() for picture in pictures}) == EMPTY_PICTURES


def test_the_four_kinds():
    even, ramp, noise, clouds = (empty_picture(number, 64) for number in range(4))
    assert even.flatten(1).std(dim=1).max() == 0
    assert ramp.std() > 0.02 and (ramp[:, 1:] - ramp[:, :-1]).abs().max() < 0.02
    assert (noise[:, 1:] - noise[:, :-1]).abs().mean() > 0.04
    assert clouds.std() > 0.05 and (clouds[:, 1:] - clouds[:, :-1]).abs().mean() < 0.5 * clouds.std()
