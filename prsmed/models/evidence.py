"""Evidence: a coarse map of what the picture shows, and one image token per kind that sums it up for the words."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from prsmed.models.sam import full_precision
from prsmed.types import EVIDENCE_STATES, TARGET_KINDS

SURE = 0.8
MOMENTS = 9


class Evidence(NamedTuple):
    """What the picture shows, whatever is asked.

    Attributes:
        map_logits: (B, kinds, H, W) on the batch's canonical grid.
        state_logits: (B, kinds, states) of `EVIDENCE_STATES`; None from a summary without words.
        prob: (B, kinds, h, w) on the encoder's frame, zero in its padding.
    """

    map_logits: torch.Tensor
    state_logits: torch.Tensor | None
    prob: torch.Tensor


class EvidenceHead(nn.Module):
    """A coarse map of lesion and organ evidence from the encoder's features alone (no question, no answer).

    Args:
        channels: of the features.
        cells_per_step: evidence cells per step of the features and side.
        hidden: width behind the features; None: as wide.
        context_layers: transformer layers over a map of a quarter of the side, so that a cell knows the whole picture.
            A frozen encoder's features need them; an encoder that learns can bring the picture to the cell itself.

    Shape: features (B, C, h, w), offsets (B, 2, h, w) of the steps from the image's centre
        -> logits (B, kinds, h * cells, w * cells).
    """

    def __init__(self, channels: int, *, cells_per_step: int, hidden: int | None = None, context_layers: int = 0):
        super().__init__()
        hidden = hidden or channels
        self.context = Context(channels, hidden, layers=context_layers) if context_layers else None
        self.head = nn.Sequential(
            nn.Conv2d(channels + (hidden if context_layers else 0), hidden, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(hidden, len(TARGET_KINDS) * cells_per_step**2, 1),
            nn.PixelShuffle(cells_per_step),
        )

    def forward(self, features: torch.Tensor, offsets_B2HW: torch.Tensor) -> torch.Tensor:
        if self.context is not None:
            features = torch.cat([features, self.context(features, offsets_B2HW)], dim=1)
        return self.head(features)


class Context(nn.Module):
    """What the whole picture says about each step of a map, by self-attention over a map of a quarter of the side.

    Shape: features (B, C, h, w), offsets (B, 2, h, w) -> (B, out, h, w).
    """

    def __init__(self, channels: int, out: int, *, layers: int, width: int = 128):
        super().__init__()
        self.down = nn.Conv2d(channels, width, 4, stride=4)
        self.place = nn.Linear(2, width)
        layer = nn.TransformerEncoderLayer(
            width, nhead=4, dim_feedforward=2 * width, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.up = nn.Conv2d(width, out, 1)

    def forward(self, features: torch.Tensor, offsets_B2HW: torch.Tensor) -> torch.Tensor:
        coarse = self.down(features)
        places = F.adaptive_avg_pool2d(offsets_B2HW, coarse.shape[-2:])
        tokens_BMD = coarse.flatten(2).transpose(1, 2) + self.place(places.flatten(2).transpose(1, 2))
        seen = self.layers(tokens_BMD).transpose(1, 2).unflatten(2, coarse.shape[-2:])
        return F.interpolate(self.up(seen), size=features.shape[-2:], mode="bilinear")


class EvidenceSummary(nn.Module):
    """One image token per kind: how much evidence there is, where its centre lies, how far it spreads, also beside one
    disc of the same mass.

    Attention over the image tokens can work out the same; learning to takes a small language model much longer.

    Shape: prob (B, kinds, M), offsets (B, M, 2) of the cells from the image's centre in units of its shorter side
        -> (B, kinds, D), None.
    """

    def __init__(self, width: int):
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(MOMENTS, width), nn.GELU(), nn.Linear(width, width), nn.LayerNorm(width))
        self.kinds = nn.Parameter(torch.randn(len(TARGET_KINDS), width))

    def forward(self, prob_BKM: torch.Tensor, offsets_BM2: torch.Tensor) -> tuple[torch.Tensor, None]:
        return self.embed(moments(prob_BKM, offsets_BM2)) + self.kinds, None


class WordedSummary(nn.Module):
    """The same moments, told to a pretrained language model in words it knows already.

    A token is the mean of its words' embeddings, by how likely each state of `EVIDENCE_STATES` is, plus the kind's.
    That a sentence repeats a word that stands before it is what such a model can do from the start; to find out what a
    new vector means takes it thousands of steps. The states learn from the true mask, by a term of the loss.

    Args:
        states_ZD, kinds_KD: first embeddings of the states' and the kinds' words; they go on learning.
        hidden: width of the reading of the moments.

    Shape: as `EvidenceSummary`, and (B, kinds, states) logits.
    """

    def __init__(self, states_ZD: torch.Tensor, kinds_KD: torch.Tensor, *, hidden: int = 64):
        super().__init__()
        self.read = nn.Sequential(
            nn.Linear(MOMENTS, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, len(states_ZD)),
        )
        self.states = nn.Parameter(states_ZD.clone())
        self.kinds = nn.Parameter(kinds_KD.clone())

    def forward(self, prob_BKM: torch.Tensor, offsets_BM2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits_BKZ = self.read(moments(prob_BKM, offsets_BM2)).float()
        said_BKZ = logits_BKZ.detach().softmax(dim=2)  # so that a stage without words needs no gradient through them
        return said_BKZ.to(self.states) @ self.states + self.kinds, logits_BKZ


STATE_WORDS = {"none": "no", "several": "several"}
"""Words of the states that are no zone; a zone's words are its name, "top left"."""

assert set(STATE_WORDS) < set(EVIDENCE_STATES)


def moments(prob_BKM: torch.Tensor, offsets_BM2: torch.Tensor) -> torch.Tensor:
    """Mass, peak, centre, distance, spread and scatter of the evidence, (B, kinds, MOMENTS), each about one in size.

    Args:
        prob_BKM: evidence of M cells.
        offsets_BM2: x and y of the cells from the image's centre, in units of its shorter side.
    """
    with full_precision(prob_BKM):  # a spread is a small difference of large numbers
        return _moments(prob_BKM.float(), offsets_BM2.float())


def _moments(prob_BKM: torch.Tensor, offsets_BM2: torch.Tensor) -> torch.Tensor:
    # Squared odds, alike from 0.8 on: sure cells count the same, and a faint background over many cells does not
    # pull the centre to the middle of the picture.
    odds_BKM = prob_BKM / (1 - prob_BKM).clamp(min=1 - SURE)
    weight_BKM = (odds_BKM / (SURE / (1 - SURE))).clamp(max=1) ** 2
    mass_BK1 = weight_BKM.sum(dim=2, keepdim=True)
    share_BKM = weight_BKM / (mass_BK1 + 1e-3)
    mean_BK2 = share_BKM @ offsets_BM2
    distance_BK1 = mean_BK2.norm(dim=2, keepdim=True)
    x_BK, y_BK = mean_BK2.unbind(dim=2)
    x_BM, y_BM = offsets_BM2.unbind(dim=2)
    second_BM3 = torch.stack([x_BM * x_BM, y_BM * y_BM, x_BM * y_BM], dim=2)
    spread_BK3 = share_BKM @ second_BM3 - torch.stack([x_BK * x_BK, y_BK * y_BK, x_BK * y_BK], dim=2)
    peak_BK1 = prob_BKM.amax(dim=2, keepdim=True)
    # One disc of this mass spreads by area / 2 pi; much more than that is two things, or none in particular.
    cell_area_B11 = ((offsets_BM2[:, 1] - offsets_BM2[:, 0]) ** 2).sum(dim=1)[:, None, None]
    disc_BK1 = mass_BK1 * cell_area_B11 / (2 * torch.pi)
    scatter_BK1 = ((spread_BK3[..., :2].sum(dim=2, keepdim=True) + 1e-4) / (disc_BK1 + 1e-4)).log()
    # Scaled to about one, so that no moment starts out louder than another.
    parts = [mass_BK1.log1p(), peak_BK1, mean_BK2 * 4, distance_BK1 * 5, spread_BK3 * 10, scatter_BK1]
    return torch.cat(parts, dim=2)
