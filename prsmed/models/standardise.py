"""A language model's states on one scale, for what reads them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Standardise(nn.BatchNorm1d):
    """Each number of a state less its running mean, over its running deviation.

    A language model's states have a few numbers that are very large and hardly change. Beside them a layer norm leaves
    little of all others, and what reads it learns slowly (docs/decisions/coarse_mask.md). A batch of fewer than two
    objects is measured by the running values.
    """

    def __init__(self, width: int):
        super().__init__(width, affine=False)

    def forward(self, states_KD: torch.Tensor) -> torch.Tensor:
        return super().forward(states_KD) if len(states_KD) > 1 else self.by_running_values(states_KD)

    def by_running_values(self, states_KD: torch.Tensor) -> torch.Tensor:
        """States (K, D) by the running mean and deviation, which stay as they are."""
        return F.batch_norm(states_KD, self.running_mean, self.running_var, eps=self.eps)
