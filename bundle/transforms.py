"""Augmentation as MONAI dictionary transforms on `image` and `label`; words are made later, from the moved label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform, RandFlipd


class RandFlipPictured(RandFlipd):
    """`RandFlipd` that leaves a target with a laterality alone: a mirrored left kidney would still be called left."""

    def __call__(self, data: Mapping[str, Any], lazy: bool | None = None) -> dict[str, Any]:
        return dict(data) if data["laterality"] else dict(super().__call__(data, lazy))


class ClampToUnitd(MapTransform):
    """Back to [0, 1] after intensity changes, as a plain tensor."""

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            value = item[key]
            item[key] = (value.as_tensor() if isinstance(value, MetaTensor) else value).clamp(0, 1).contiguous()
        return item


def seeded(transforms: Compose, *, seed: int) -> Compose:
    """The same transforms with their random state set, so that a sample depends on its seed alone."""
    transforms.set_random_state(seed=seed)
    return transforms
