"""Segmentation encoders: each owns its preprocessing (frame and normalisation); callers hand over canonical images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from prsmed.geometry import Frame
from prsmed.models.tiny_vit import TinyViT

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass
class EncodedImage:
    """What an encoder gives.

    Attributes:
        features: (B, C, h, w), the encoder frame at `stride`.
        skips: finer maps of the same frame, finest first; their strides are `SegmentationEncoder.skip_strides`.
        stride: frame pixels a step of the feature map.
    """

    features: torch.Tensor
    skips: tuple[torch.Tensor, ...]
    stride: int

    def select(self, index_K: torch.Tensor) -> EncodedImage:
        """The maps of the images named by `index_K`, one row per object."""
        return EncodedImage(self.features[index_K], tuple(skip[index_K] for skip in self.skips), self.stride)


class SegmentationEncoder(nn.Module):
    """Interface. `frame` says how a canonical image is placed; `channels`, `skip_channels` describe the maps."""

    frame: Frame
    channels: int
    stride: int
    skip_channels: tuple[int, ...]
    skip_strides: tuple[int, ...]

    def preprocess(self, image_BCHW: torch.Tensor, canonical_hw_px: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Canonical images in [0, 1], padded to a common size, as this encoder wants them: (B, 3, S, S)."""
        raise NotImplementedError

    def forward(self, frame_BCHW: torch.Tensor) -> EncodedImage:
        raise NotImplementedError


class TinyViTEncoder(SegmentationEncoder):
    """TinyViT in a padded square frame, normalised with ImageNet's mean and deviation (as TinySAM).

    Args:
        size_px: side of the frame.
        skip_stages: which stages' maps are handed to the decoder as skip connections, finest first.
        vit: arguments of `TinyViT`.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, *, size_px: int, skip_stages: Sequence[int] = (), **vit: Any):
        super().__init__()
        self.frame = Frame(size_px, "pad")
        self.net = TinyViT(**vit)
        self.channels = self.net.channels
        self.stride = self.net.stride
        self.skip_stages = tuple(skip_stages)
        widths = vit.get("widths", (64, 128, 160, 320))
        first = vit.get("patch_stride", 2) ** 2
        self.skip_channels = tuple(widths[stage] for stage in self.skip_stages)
        self.skip_strides = tuple(min(first * 2**stage, self.stride) for stage in self.skip_stages)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def preprocess(self, image_BCHW: torch.Tensor, canonical_hw_px: Sequence[tuple[int, int]]) -> torch.Tensor:
        normalised = (image_BCHW - self.mean) / self.std
        return self.frame.enter(normalised, canonical_hw_px)

    def forward(self, frame_BCHW: torch.Tensor) -> EncodedImage:
        features, stages = self.net(frame_BCHW)
        return EncodedImage(features, tuple(stages[stage] for stage in self.skip_stages), self.stride)
