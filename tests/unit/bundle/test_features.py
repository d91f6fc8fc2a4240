"""Fixed looks at pictures, and their features made once."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bundle.data import AskDataset
from bundle.features import encode_all
from prsmed.errors import RequestError
from tests.unit.bundle.test_data import TEXT, dataset  # noqa: F401
from tests.unit.small_networks import small_network


def test_looks_are_fixed_and_the_first_is_unchanged(dataset: Callable[..., AskDataset]) -> None:  # noqa: F811
    views, plain = dataset(views=3), dataset(augmentation=None)
    looks = [views.look(0, view)["image"] for view in range(3)]
    assert torch.equal(looks[0], plain[0]["image"])
    assert not torch.equal(looks[1], looks[0])
    assert not torch.equal(looks[2], looks[1])
    assert all(torch.equal(dataset(views=3).look(0, view)["image"], look) for view, look in enumerate(looks))


def test_every_epoch_sees_another_look_and_after_all_the_first_again(
    dataset: Callable[..., AskDataset],  # noqa: F811
) -> None:
    views = dataset(views=2)
    seen = []
    for epoch in range(3):
        views.set_epoch(epoch)
        seen.append(views[1]["image"])
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


def test_training_looks_at_what_was_encoded(dataset: Callable[..., AskDataset], tmp_path: Path) -> None:  # noqa: F811
    """After `encode_all`, two epochs ask the encoder for nothing new; a second call does nothing either."""
    network, views = small_network(len(TEXT.tokenizer)), dataset(views=2)
    for _ in range(2):
        encode_all(network, [views], folder=str(tmp_path), device=torch.device("cpu"))
    entries = list(tmp_path.rglob("*.safetensors"))
    assert 0 < len(entries) <= 2 * len(views)
    for epoch in range(2):
        views.set_epoch(epoch)
        for sample in (views[index] for index in range(len(views))):
            network.encoder.encode(sample["image"][None], [sample["geometry"].canonical_hw_px])
    assert list(tmp_path.rglob("*.safetensors")) == entries


def test_pictures_that_never_come_again_cannot_be_cached(
    dataset: Callable[..., AskDataset],  # noqa: F811
    tmp_path: Path,
) -> None:
    with pytest.raises(RequestError, match="views"):
        encode_all(small_network(len(TEXT.tokenizer)), [dataset()], folder=str(tmp_path), device=torch.device("cpu"))
