"""Augmentation: seeded, in range, and never a mirrored left or right organ."""

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, RandAffined, RandGaussianNoised

from bundle.transforms import ClampToUnitd, RandFlipPictured, seeded

KEYS = ["image", "label"]


def sample(laterality: str = "") -> dict:
    values = torch.linspace(0, 1, 3 * 8 * 10).reshape(3, 8, 10)
    return {"image": values, "label": (values[:1] > 0.1).float(), "laterality": laterality}


@pytest.mark.parametrize(("laterality", "flips"), [("", True), ("left", False), ("right", False)])
def test_a_flip_leaves_laterality_alone(laterality: str, flips: bool) -> None:
    item = sample(laterality)
    moved = RandFlipPictured(KEYS, prob=1.0, spatial_axis=1)(item)
    for key in KEYS:
        assert torch.equal(torch.as_tensor(moved[key]), item[key].flip(2) if flips else item[key])


def test_values_come_back_into_range() -> None:
    moved = ClampToUnitd(KEYS)({"image": MetaTensor(torch.tensor([[-0.5, 0.25, 1.5]])), "label": torch.tensor([2.0])})
    assert moved["image"].tolist() == [[0.0, 0.25, 1.0]] and type(moved["image"]) is torch.Tensor
    assert moved["label"].tolist() == [1.0]


def test_a_seed_decides_everything() -> None:
    transforms = Compose(
        [
            RandFlipPictured(KEYS, prob=0.5, spatial_axis=0),
            RandAffined(KEYS, prob=0.9, rotate_range=0.3, translate_range=(2, 2), padding_mode="zeros"),
            RandGaussianNoised("image", prob=0.5, std=0.1),
        ]
    )
    first, other, again = (seeded(transforms, seed=seed)(sample())["image"] for seed in (1, 2, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
