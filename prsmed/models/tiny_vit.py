"""TinyViT with SAM's neck, under segment-anything's checkpoint names (TinySAM, MobileSAM and LiteMedSAM share it).

Source: Wu et al. 2022 (TinyViT); Kirillov et al. 2023 (the neck). Maps are (B, C, H, W) throughout; only attention
and linear layers look at tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


class ConvNorm(nn.Sequential):
    """Convolution without bias, then batch norm, under the checkpoint names `c` and `bn`."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 1, *, stride: int = 1, groups: int = 1):
        super().__init__()
        self.add_module(
            "c", nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False)
        )
        self.add_module("bn", nn.BatchNorm2d(channels_out))


class PatchEmbed(nn.Module):
    """Two 3x3 convolutions of stride 2 (1x1 of stride 1 in LiteMedSAM)."""

    def __init__(self, channels_out: int, *, kernel: int = 3, stride: int = 2):
        super().__init__()
        self.seq = nn.Sequential(
            ConvNorm(3, channels_out // 2, kernel, stride=stride),
            nn.GELU(),
            ConvNorm(channels_out // 2, channels_out, kernel, stride=stride),
        )

    def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        return self.seq(image_BCHW)


class MBConv(nn.Module):
    """Inverted bottleneck: widen, depthwise 3x3, narrow, add."""

    def __init__(self, channels: int, *, expansion: int = 4):
        super().__init__()
        hidden = channels * expansion
        self.conv1 = ConvNorm(channels, hidden)
        self.conv2 = ConvNorm(hidden, hidden, 3, groups=hidden)
        self.conv3 = ConvNorm(hidden, channels)

    def forward(self, map_BCHW: torch.Tensor) -> torch.Tensor:
        hidden = F.gelu(self.conv2(F.gelu(self.conv1(map_BCHW))))
        return F.gelu(map_BCHW + self.conv3(hidden))


class PatchMerging(nn.Module):
    """Between two stages: change the width and, with stride 2, halve the grid."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: int):
        super().__init__()
        self.conv1 = ConvNorm(channels_in, channels_out)
        self.conv2 = ConvNorm(channels_out, channels_out, 3, stride=stride, groups=channels_out)
        self.conv3 = ConvNorm(channels_out, channels_out)

    def forward(self, map_BCHW: torch.Tensor) -> torch.Tensor:
        return self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(map_BCHW)))))


class WindowAttention(nn.Module):
    """Multi-head attention inside one window, with a learned bias per absolute offset (rows, columns)."""

    bias_index: torch.Tensor

    def __init__(self, channels: int, *, heads: int, window: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        rows, columns = (
            side.flatten() for side in torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
        )
        index = (rows[:, None] - rows).abs() * window + (columns[:, None] - columns).abs()
        self.register_buffer("bias_index", index, persistent=False)

    def forward(self, tokens_BTD: torch.Tensor) -> torch.Tensor:
        batch, length, width = tokens_BTD.shape
        # The checkpoint interleaves q, k and v head by head.
        qkv = self.qkv(self.norm(tokens_BTD)).view(batch, length, self.heads, 3, width // self.heads)
        query, key, value = qkv.permute(3, 0, 2, 1, 4)
        bias = self.attention_biases[:, self.bias_index].to(query.dtype)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.expand(batch, -1, -1, -1))
        return self.proj(mixed.transpose(1, 2).reshape(batch, length, width))


class Mlp(nn.Module):
    """Norm, widen, GELU, narrow."""

    def __init__(self, channels: int, *, ratio: int = 4):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, channels * ratio)
        self.fc2 = nn.Linear(channels * ratio, channels)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(tokens))))


class TransformerBlock(nn.Module):
    """Window attention, a depthwise 3x3 convolution over the whole map, and an MLP."""

    def __init__(self, channels: int, *, heads: int, window: int):
        super().__init__()
        self.window = window
        self.attn = WindowAttention(channels, heads=heads, window=window)
        self.local_conv = ConvNorm(channels, channels, 3, groups=channels)
        self.mlp = Mlp(channels)

    def forward(self, map_BCHW: torch.Tensor) -> torch.Tensor:
        map_BCHW = map_BCHW + self._attend_in_windows(map_BCHW)
        map_BCHW = self.local_conv(map_BCHW)
        tokens_BHWC = map_BCHW.permute(0, 2, 3, 1)
        return (tokens_BHWC + self.mlp(tokens_BHWC)).permute(0, 3, 1, 2)

    def _attend_in_windows(self, map_BCHW: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = map_BCHW.shape
        side = self.window
        # Zero padding at the bottom and right takes part in attention, as in the original.
        padded = F.pad(map_BCHW, (0, -width % side, 0, -height % side))
        rows, columns = padded.shape[2] // side, padded.shape[3] // side
        windows = padded.view(batch, channels, rows, side, columns, side).permute(0, 2, 4, 3, 5, 1)
        tokens_BTD = self.attn(windows.reshape(-1, side * side, channels))
        back = tokens_BTD.view(batch, rows, columns, side, side, channels).permute(0, 5, 1, 3, 2, 4)
        return back.reshape(batch, channels, rows * side, columns * side)[:, :, :height, :width]


class Stage(nn.Module):
    """Blocks at one resolution, then the step to the next stage; `forward` returns both ends."""

    def __init__(self, blocks: Sequence[nn.Module], downsample: nn.Module | None):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, map_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for block in self.blocks:
            map_BCHW = block(map_BCHW)
        return (map_BCHW if self.downsample is None else self.downsample(map_BCHW)), map_BCHW


class ChannelNorm(nn.Module):
    """Layer norm over the channels of a map (SAM's neck)."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, map_BCHW: torch.Tensor) -> torch.Tensor:
        tokens = F.layer_norm(map_BCHW.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, eps=1e-6)
        return tokens.permute(0, 3, 1, 2)


class TinyViT(nn.Module):
    """The encoder: a convolutional stage, three attention stages, and the neck.

    Args:
        widths, depths, heads, windows: one number a stage (heads and windows of the first stage are unused).
        neck_channels: channels of the output map.
        patch_kernel, patch_stride: of each of the two patch-embedding convolutions.

    Shape:
        image (B, 3, S, S) float32 -> (features (B, neck_channels, S / stride, S / stride), the four stages' maps
        before their down-sampling, finest first).
    """

    def __init__(
        self,
        *,
        widths: Sequence[int] = (64, 128, 160, 320),
        depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (2, 4, 5, 10),
        windows: Sequence[int] = (7, 7, 14, 7),
        neck_channels: int = 256,
        patch_kernel: int = 3,
        patch_stride: int = 2,
    ):
        super().__init__()
        self.patch_embed = PatchEmbed(widths[0], kernel=patch_kernel, stride=patch_stride)
        last = len(widths) - 1
        self.layers = nn.ModuleList()
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            blocks: list[nn.Module] = [
                MBConv(width) if stage == 0 else TransformerBlock(width, heads=heads[stage], window=windows[stage])
                for _ in range(depth)
            ]
            # SAM keeps a stride of 16: the step into the last stage changes the width only.
            step = (
                PatchMerging(width, widths[stage + 1], stride=1 if stage == last - 1 else 2) if stage < last else None
            )
            self.layers.append(Stage(blocks, step))
        self.neck = nn.Sequential(
            nn.Conv2d(widths[-1], neck_channels, 1, bias=False),
            ChannelNorm(neck_channels),
            nn.Conv2d(neck_channels, neck_channels, 3, padding=1, bias=False),
            ChannelNorm(neck_channels),
        )
        self.channels = neck_channels
        self.stride = patch_stride**2 * 2 ** (last - 1)

    def forward(self, image_BCHW: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        hidden, stages = self.begin(image_BCHW, stages=len(self.layers))
        return self.end(hidden, stages=0), stages

    def begin(self, image_BCHW: torch.Tensor, *, stages: int) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """The first stages: what goes on into the next one, and their maps."""
        hidden = self.patch_embed(image_BCHW)
        maps = []
        for layer in self.layers[:stages]:
            hidden, stage_map = layer(hidden)
            maps.append(stage_map)
        return hidden, tuple(maps)

    def end(self, hidden: torch.Tensor, *, stages: int) -> torch.Tensor:
        """The last stages after `begin`, and the neck."""
        for layer in self.layers[len(self.layers) - stages :]:
            hidden, _ = layer(hidden)
        return self.neck(hidden)
