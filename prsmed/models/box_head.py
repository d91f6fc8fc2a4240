"""The box decoder of MediSee: a fused state to one box of the image."""

from __future__ import annotations

import torch
from torch import nn


class BoxHead(nn.Module):
    """Three linear layers and a sigmoid; starts at the box in the middle that covers a quarter (last layer zero), or at
    the box it is handed.

    Args:
        width: D.
        hidden: of both inner layers (512 in the paper).

    Shape:
        states (K, D), first boxes (K, 4) or None -> (K, 4): centre x, centre y, width, height as shares of the image,
            in (0, 1).
    """

    def __init__(self, width: int, *, hidden: int = 512):
        super().__init__()
        last = nn.Linear(hidden, 4)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), last)

    def forward(self, state_KD: torch.Tensor, first_cxcywh: torch.Tensor | None = None) -> torch.Tensor:
        logits_K4 = self.layers(state_KD)
        if first_cxcywh is not None:
            # Unlike torch.logit's, this has a gradient however much of the image a box covers.
            logits_K4 = logits_K4 + first_cxcywh.clamp(min=1e-4).log() - (1 - first_cxcywh).clamp(min=0.02).log()
        return logits_K4.sigmoid()
