"""Fusion of image and language: image positions ask, prompt states answer (PRS-Med, equations 3 and 4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def sincos_positions(side: int, width: int) -> torch.Tensor:
    """Fixed sine and cosine codes of a (side, side) grid, float32 (side * side, width), row by row."""
    frequencies = 1.0 / 100 ** (torch.arange(width // 4, dtype=torch.float32) / (width // 4))
    steps = torch.arange(side, dtype=torch.float32)[:, None] * frequencies
    codes = torch.cat([steps.sin(), steps.cos()], dim=1)
    rows = codes[:, None].expand(side, side, -1)
    columns = codes[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=-1).reshape(side * side, -1)


class CrossAttentionFusion(nn.Module):
    """Cross-attention from the image map to the prompt states, self-attention over the map, skip connection.

    Args:
        channels: channels of the image map.
        prompt_width: hidden width of the language model.
        width: shared width of both projections (256 in the paper).
        heads: attention heads.
        map_px: side of the map the attention runs on; a larger feature map is pooled to it and meets the full map
            again in the sum.

    Shape:
        features (K, C, h, w), prompt_KTD with prompt_mask_KT (True where a state belongs to the question)
        -> fused (K, C, h, w). Where the mask is False, a state has no influence at all.
    """

    positions: torch.Tensor

    def __init__(self, *, channels: int, prompt_width: int, width: int = 256, heads: int = 8, map_px: int = 16):
        super().__init__()
        self.map_px = map_px
        self.image_in = nn.Conv2d(channels, width, 1)
        self.prompt_in = nn.Linear(prompt_width, width)
        self.cross_norm, self.self_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.prompt_norm = nn.LayerNorm(width)
        self.cross = nn.MultiheadAttention(width, heads, batch_first=True)
        self.self_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.image_out = nn.Conv2d(width, channels, 1)
        self.register_buffer("positions", sincos_positions(map_px, width), persistent=False)

    def forward(self, features: torch.Tensor, prompt_KTD: torch.Tensor, prompt_mask_KT: torch.Tensor) -> torch.Tensor:
        pooled = F.adaptive_avg_pool2d(self.image_in(features), self.map_px)
        image_KVD = pooled.flatten(2).transpose(1, 2) + self.positions
        prompt = self.prompt_norm(self.prompt_in(prompt_KTD))
        image_KVD = image_KVD + self._attend(self.cross, self.cross_norm(image_KVD), prompt, ~prompt_mask_KT)
        normed = self.self_norm(image_KVD)
        image_KVD = image_KVD + self._attend(self.self_attention, normed, normed, None)
        fused = image_KVD.transpose(1, 2).unflatten(2, (self.map_px, self.map_px))
        if fused.shape[-2:] != features.shape[-2:]:
            fused = F.interpolate(fused, size=features.shape[-2:], mode="bilinear")
        return features + self.image_out(fused)

    @staticmethod
    def _attend(
        attention: nn.MultiheadAttention, query: torch.Tensor, key: torch.Tensor, ignored_KT: torch.Tensor | None
    ) -> torch.Tensor:
        return attention(query, key, key, key_padding_mask=ignored_KT, need_weights=False)[0]
