"""The coarse mask of MediSee, our addition: where on the picture a state points, before SAM is prompted."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from prsmed.models.evidence import Context
from prsmed.models.known import Said

SIDE_PER_DEVIATION = 4.0
"""Of a filled ellipse: its width is four standard deviations of its pixels' places."""
FIRST_LOGIT = -3.0
"""Most cells show something else."""
AGREED = 0.9
"""Of all names' products; with less, an answer says that it is not sure what was meant."""


class CoarseMask(nn.Module):
    """A state and a map's cells, multiplied (as MaskFormer's masks, Cheng et al. 2021; docs/decisions/coarse_mask.md).

    A box head that reads one state must learn the way from words to coordinates; this finds the cells that look like
    what the state says, and learns from masks. What cells look like can be learned first, without the language model,
    from the targets' names: a name's query is made of its words' embeddings.

    Args:
        channels: of the map, C.
        width: of the states and of words' embeddings, D.
        hidden: E, in which queries and cells are compared.
        context_layers: see `prsmed.models.evidence.Context`.
    """

    def __init__(self, channels: int, width: int, *, hidden: int = 64, context_layers: int = 2):
        super().__init__()
        self.context = Context(channels, hidden, layers=context_layers)
        self.cells = nn.Sequential(
            nn.Conv2d(channels + hidden, hidden, 3, padding=1), nn.GELU(), nn.Conv2d(hidden, hidden, 1)
        )
        self.query = nn.Sequential(Standardise(width), *_to_query(width, hidden))
        self.named = nn.Sequential(nn.LayerNorm(width), *_to_query(width, hidden))
        # FSDP shards no scalars
        self.bias, self.log_sharpness = nn.Parameter(torch.tensor([FIRST_LOGIT])), nn.Parameter(torch.zeros(1))
        self.shown = nn.Parameter(torch.zeros(channels))

    def look(self, features: torch.Tensor, offsets_B2HW: torch.Tensor) -> torch.Tensor:
        """A map's cells as queries meet them: features (B, C, h, w), offsets (B, 2, h, w) of the cells from the image's
        centre -> (B, E, h, w)."""
        cells = self.cells(torch.cat([features, self.context(features, offsets_B2HW)], dim=1))
        return F.layer_norm(cells.float().movedim(1, -1), cells.shape[1:2]).movedim(-1, 1)

    def forward(self, queries_KE: torch.Tensor, cells: torch.Tensor, obj_image: torch.Tensor) -> torch.Tensor:
        """Queries, each about the image `obj_image` (K,) names -> logits (K, h, w)."""
        products = torch.einsum("ke,kehw->khw", queries_KE, cells[obj_image])
        return self.log_sharpness.exp() * products / cells.shape[1] ** 0.5 + self.bias

    def decide(
        self,
        queries_KE: torch.Tensor,
        names_NE: torch.Tensor,
        said: Said,
        cells: torch.Tensor,
        obj_image: torch.Tensor,
        inside_KM: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Which of N names K questions are about, (K,), whether that is sure, and what asks for it.

        The likeliest name by the product of three probabilities: of what the network understands, which is the
        geometric mean of what its words would say (`said.log_prob`) and of what the question's query is like (as
        `recall` teaches it); of the class in whose facts the question's words stand (`said.told`); and of what the
        image shows (the surest cell that the name asks for). Sure is a name that has `AGREED` of what the products
        of all names add up to. A query that means that name asks for itself.
        """
        like_KN = names_NE.shape[1] ** -0.5 * queries_KE @ names_NE.T
        asked_KHW = [self(name_E.expand_as(queries_KE), cells, obj_image) for name_E in names_NE]
        seen_KN = torch.stack([peaks_of(logits_KHW, inside_KM) for logits_KHW in asked_KHW], dim=1)
        understood_KN = (said.log_prob + like_KN) / 2
        share_K, named_K = (understood_KN + said.told + F.logsigmoid(seen_KN)).softmax(dim=1).max(dim=1)
        is_meant_K = like_KN.argmax(dim=1) == named_K
        return named_K, share_K >= AGREED, torch.where(is_meant_K[:, None], queries_KE, names_NE[named_K])

    def embed(self, logits_KHW: torch.Tensor, inside_KM: torch.Tensor) -> torch.Tensor:
        """For SAM's mask decoder: one learned vector wherever the coarse mask is, (K, C, h, w); nothing at first.

        Args:
            inside_KM: which cells lie in the image; in the padding there is no mask, whatever the logits say.
        """
        prob_KHW = logits_KHW.sigmoid() * inside_KM.unflatten(1, logits_KHW.shape[1:])
        return prob_KHW[:, None] * self.shown[:, None, None]


def _to_query(width: int, hidden: int) -> list[nn.Module]:
    """Queries are normalised as cells are: a state and a name differ in direction alone, from the first step."""
    last = nn.LayerNorm(hidden, elementwise_affine=False)
    return [nn.Linear(width, 2 * hidden), nn.GELU(), nn.Linear(2 * hidden, hidden), last]


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


def box_around(logits_KHW: torch.Tensor, centers_norm_KM2: torch.Tensor, inside_KM: torch.Tensor) -> torch.Tensor:
    """The box of the ellipse that has the place and the spread of a coarse mask; differentiable.

    Args:
        logits_KHW: of M = h * w cells.
        centers_norm_KM2: x and y of the cells' centres as shares of the image.
        inside_KM: which cells lie in the image.

    Returns:
        (K, 4) centre x, centre y, width, height as shares of the image.
    """
    # Squared probabilities, so that a faint background over many cells does not pull the centre to the middle.
    log_weight_KM = 2 * F.logsigmoid(logits_KHW.flatten(1))
    share_KM1 = log_weight_KM.masked_fill(~inside_KM, -torch.inf).softmax(dim=1)[..., None]
    mean_K12 = (share_KM1 * centers_norm_KM2).sum(dim=1, keepdim=True)
    variance_K2 = (share_KM1 * (centers_norm_KM2 - mean_K12) ** 2).sum(dim=1)
    return torch.cat([mean_K12[:, 0], SIDE_PER_DEVIATION * (variance_K2 + 1e-5).sqrt()], dim=1)


def peaks_of(logits_KHW: torch.Tensor, inside_KM: torch.Tensor) -> torch.Tensor:
    """The logit (K,) of a coarse mask's surest cell in the image: below 0, nothing in it is like what was asked for."""
    return logits_KHW.flatten(1).masked_fill(~inside_KM, -torch.inf).amax(dim=1)
