"""MediSee's heads: from an object's candidate states to a prompt in words of SAM, a coarse mask and a box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from prsmed.geometry import Frame, in_image
from prsmed.models.box_head import BoxHead
from prsmed.models.coarse_mask import CoarseMask, box_around, peaks_of
from prsmed.models.known import Said
from prsmed.models.routers import CandidateRouter


@dataclass
class Pointed:
    """What the heads make of K objects' candidates; names as in `MediSeeOutput`, `text_embeds` (K, 1, width),
    `queries`, `coarse_logits` (K, h, w), `coarse_peaks`, `named`, `agreed` (K,); `coarse_embeds` (K, width, h, w)
    of the coarse mask on the map."""

    seg_states: torch.Tensor
    seg_weights: torch.Tensor
    text_embeds: torch.Tensor
    queries: torch.Tensor | None
    coarse_logits: torch.Tensor | None
    coarse_peaks: torch.Tensor | None
    named: torch.Tensor | None
    agreed: torch.Tensor | None
    coarse_embeds: torch.Tensor | None
    boxes_cxcywh: torch.Tensor | None
    box_weights: torch.Tensor | None


class Heads(nn.Module):
    """From an object's candidate states to a prompt in words of SAM and a box (MediSee, equations 2 and 3).

    Args:
        width, prompt_width: of the states, and of the prompt.
        candidates, gate, router_width, box_width, text_width, box_head, coarse_width: as of `MediSee`.
    """

    def __init__(
        self,
        width: int,
        prompt_width: int,
        *,
        candidates: int,
        gate: str,
        router_width: int,
        box_width: int,
        text_width: int | None,
        box_head: bool,
        coarse_width: int,
    ):
        super().__init__()
        hidden = text_width or width
        self.seg_router = CandidateRouter(width, candidates, hidden=router_width, gate=gate, pick=0)
        self.project = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, prompt_width))
        self.coarse = CoarseMask(prompt_width, width, hidden=coarse_width) if coarse_width else None
        self.box_router = self.box_head = None
        if box_head:
            self.box_router = CandidateRouter(width, candidates, hidden=router_width, gate=gate, pick=candidates - 1)
            self.box_head = BoxHead(width, hidden=box_width)

    def forward(
        self,
        candidates_KND: torch.Tensor,
        cells: torch.Tensor | None,
        obj_image: torch.Tensor,
        frame: Frame,
        canonical_hw_px: Sequence[tuple[int, int]],
        said: Said | None = None,
    ) -> Pointed:
        """Where candidates (K, n, D) point. Where the words `said` are likelier to name something unknown than anything
        known, it is not decided what is meant."""
        seg_states, seg_weights = self.seg_router(candidates_KND)
        queries = coarse_logits = peaks = coarse_embeds = first_cxcywh = boxes_cxcywh = box_weights = None
        named = agreed = None
        if self.coarse is not None and cells is not None:
            queries = self.coarse.query(seg_states)
            centers_KM2 = frame.patch_centers_norm(cells.shape[-1], canonical_hw_px).to(cells)[obj_image]
            inside_KM = in_image(centers_KM2)
            asked = queries
            if said is not None:
                names_NE, is_known_K = self.coarse.named(said.names), said.known_prob >= 0.5
                named, agreed, asked = self.coarse.decide(queries, names_NE, said, cells, obj_image, inside_KM)
                named, agreed = named.masked_fill(~is_known_K, -1), agreed & is_known_K
                asked = torch.where(is_known_K[:, None], asked, queries)
            coarse_logits = self.coarse(asked, cells, obj_image)
            peaks, coarse_embeds = peaks_of(coarse_logits, inside_KM), self.coarse.embed(coarse_logits, inside_KM)
            first_cxcywh = box_around(coarse_logits, centers_KM2, inside_KM)
        if self.box_head is not None and self.box_router is not None:
            box_states, box_weights = self.box_router(candidates_KND)
            boxes_cxcywh = self.box_head(box_states, first_cxcywh)
        text_embeds = self.project(seg_states)[:, None]
        return Pointed(
            seg_states,
            seg_weights,
            text_embeds,
            queries,
            coarse_logits,
            peaks,
            named,
            agreed,
            coarse_embeds,
            boxes_cxcywh,
            box_weights,
        )
