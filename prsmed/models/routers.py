"""Adaptive democratic candidate fusion (MediSee, equation 2): how loud each candidate token speaks to a decoder."""

from __future__ import annotations

import torch
from torch import nn

from prsmed.errors import RequestError

GATES = ("sigmoid_l1", "softmax", "mean", "hard")


class CandidateRouter(nn.Module):
    """Fuses the states of n candidate tokens into one, by weights that sum to 1 for every object.

    Args:
        width: D.
        candidates: n.
        hidden: of the two-layer network (1024 in the paper).
        gate: `sigmoid_l1` (each logit through a sigmoid, divided by their sum, as the authors released it), `softmax`,
            `mean` (all alike) or `hard` (only `pick` speaks). The last two have no parameters, and so has n = 1.
        pick: the candidate of `hard`.

    Shape:
        candidates (K, n, D) -> fused (K, D), weights (K, n).
    """

    def __init__(self, width: int, candidates: int, *, hidden: int = 1024, gate: str = "sigmoid_l1", pick: int = 0):
        super().__init__()
        if gate not in GATES:
            raise RequestError(f"gate {gate!r}: unknown; give one of {', '.join(GATES)}")
        self.gate, self.pick = gate, pick
        learns = gate in ("sigmoid_l1", "softmax") and candidates > 1
        self.score = (
            nn.Sequential(nn.Linear(candidates * width, hidden), nn.GELU(), nn.Linear(hidden, candidates))
            if learns
            else None
        )

    def forward(self, candidates_KND: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weights_KN = self._weights(candidates_KND)
        return (weights_KN[..., None] * candidates_KND).sum(dim=1), weights_KN

    def _weights(self, candidates_KND: torch.Tensor) -> torch.Tensor:
        objects, count, _ = candidates_KND.shape
        if self.score is not None:
            return gate_weights(self.score(candidates_KND.flatten(1)), self.gate)
        weights_KN = candidates_KND.new_full((objects, count), 1 / count)
        if self.gate == "hard" and count > 1:
            weights_KN.zero_()[:, self.pick] = 1
        return weights_KN


def gate_weights(logits_KN: torch.Tensor, gate: str) -> torch.Tensor:
    """Weights (K, n) that sum to 1, from a router's logits, by `sigmoid_l1` or `softmax`."""
    if gate == "softmax":
        return logits_KN.softmax(dim=1)
    # In log space: where every sigmoid underflows, their shares still exist.
    return torch.nn.functional.logsigmoid(logits_KN).softmax(dim=1)
