"""The mask decoder: transposed convolutions up to the output size, then one 3x3 convolution (PRS-Med, section 4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class UpBlock(nn.Module):
    """Double the grid; where the encoder has a map at the new grid, add it; batch norm and ReLU."""

    def __init__(self, channels_in: int, channels_out: int, *, skip_channels: int = 0):
        super().__init__()
        self.up = nn.ConvTranspose2d(channels_in, channels_out, 2, stride=2)
        self.skip = nn.Conv2d(skip_channels, channels_out, 1) if skip_channels else None
        self.norm = nn.BatchNorm2d(channels_out)
        self.mix = nn.Sequential(
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False), nn.BatchNorm2d(channels_out)
        )

    def forward(self, map_KCHW: torch.Tensor, skip_KCHW: torch.Tensor | None) -> torch.Tensor:
        up = self.up(map_KCHW)
        if self.skip is not None and skip_KCHW is not None:
            up = up + self.skip(skip_KCHW)
        up = torch.relu(self.norm(up))
        return torch.relu(up + self.mix(up))


class MaskDecoder(nn.Module):
    """From the fused map at `stride` to mask logits at `out_stride`; the number of steps follows from the two.

    Args:
        channels: channels of the fused map.
        stride, out_stride: frame pixels per step of the fused map and of the mask.
        skip_channels, skip_strides: the encoder's maps (none: the paper's decoder).
        first_channels: width after the first step; None: half of `channels`.
        min_channels: the width is halved at each step down to this.

    Shape:
        fused (K, C, h, w), skips -> mask_logits (K, 1, h * stride / out_stride, w * stride / out_stride)
    """

    def __init__(
        self,
        *,
        channels: int,
        stride: int,
        out_stride: int = 1,
        skip_channels: Sequence[int] = (),
        skip_strides: Sequence[int] = (),
        first_channels: int | None = None,
        min_channels: int = 16,
    ):
        super().__init__()
        self.skip_strides = tuple(skip_strides)
        widths = dict(zip(skip_strides, skip_channels, strict=True))
        self.blocks = nn.ModuleList()
        self.strides: list[int] = []
        while stride > out_stride:
            stride //= 2
            narrow = max(channels // 2, min_channels)
            if first_channels is not None and not self.strides:
                narrow = first_channels
            self.blocks.append(UpBlock(channels, narrow, skip_channels=widths.get(stride, 0)))
            self.strides.append(stride)
            channels = narrow
        self.head = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, fused: torch.Tensor, skips: Sequence[torch.Tensor]) -> torch.Tensor:
        by_stride = dict(zip(self.skip_strides, skips, strict=True))
        for stride, block in zip(self.strides, self.blocks, strict=True):
            fused = block(fused, by_stride.get(stride))
        return self.head(fused)
