"""PRS-Med: one pass of the language model over [image, question, answer]; the question's states condition the mask.

Source: Trinh et al. 2025, section 4. The language model is causal, so the states of the question cannot see the
answer: the mask never learns from words it will not have at inference (docs/decisions/leak_free_conditioning.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Cache
from transformers.utils import ModelOutput

from prsmed.models.encoders import EncodedImage, SegmentationEncoder
from prsmed.models.fusion import CrossAttentionFusion
from prsmed.models.language import Generated, LanguageBackbone, new_cache
from prsmed.models.mask_decoder import MaskDecoder
from prsmed.types import TARGET_KINDS


@dataclass
class PRSMedOutput(ModelOutput):
    """One record in training and inference.

    Attributes:
        mask_logits: (K, 1, H, W) on the batch's canonical grid.
        presence_logit: (K,).
        evidence_logits: (B, kinds, H, W) the coarse, question-independent map on the canonical grid, or None.
        prompt_states: (K, T, D) hidden states; only those under `prompt_mask` conditioned the mask.
        text_logits: (M, vocabulary) at the M positions that predict an answer token, row by row; None without targets.
        cache: the language model's cache after the sequence; None in training.
    """

    mask_logits: torch.Tensor | None = None
    presence_logit: torch.Tensor | None = None
    evidence_logits: torch.Tensor | None = None
    prompt_states: torch.Tensor | None = None
    text_logits: torch.Tensor | None = None
    cache: Cache | None = None


class EvidenceHead(nn.Module):
    """A coarse map of lesion and organ evidence from the encoder's features alone (no question, no answer).

    Shape:
        features (B, C, h, w) -> logits (B, kinds, cells, cells) and the cells of each token (B, kinds * s * s, h, w).
    """

    def __init__(self, channels: int, *, cells_per_step: int):
        super().__init__()
        self.cells_per_step = cells_per_step
        self.head = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(channels, len(TARGET_KINDS) * cells_per_step**2, 1),
        )

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cells = self.head(features)
        return F.pixel_shuffle(cells, self.cells_per_step), cells.sigmoid()


class PRSMed(nn.Module):
    """The network.

    Args:
        encoder: image -> maps.
        language: sequence -> hidden states and words.
        fusion_width, fusion_map_px: see `CrossAttentionFusion`.
        out_stride: frame pixels per step of the decoded mask.
        evidence_cells: evidence cells per step of the feature map and side; 0 switches evidence tokens off.
    """

    def __init__(
        self,
        encoder: SegmentationEncoder,
        language: LanguageBackbone,
        *,
        fusion_width: int = 256,
        fusion_map_px: int = 16,
        out_stride: int = 1,
        evidence_cells: int = 0,
    ):
        super().__init__()
        self.encoder = encoder
        self.language = language
        self.evidence = EvidenceHead(encoder.channels, cells_per_step=evidence_cells) if evidence_cells else None
        self.fusion = CrossAttentionFusion(
            channels=encoder.channels,
            prompt_width=language.hidden_width,
            width=fusion_width,
            map_px=fusion_map_px,
        )
        self.decoder = MaskDecoder(
            channels=encoder.channels,
            stride=encoder.stride,
            out_stride=out_stride,
            skip_channels=encoder.skip_channels,
            skip_strides=encoder.skip_strides,
        )
        self.presence = nn.Sequential(
            nn.Linear(2 * encoder.channels + language.hidden_width, fusion_width), nn.GELU(), nn.Linear(fusion_width, 1)
        )

    def encode_image(
        self, image_BCHW: torch.Tensor, canonical_hw_px: Sequence[tuple[int, int]]
    ) -> tuple[EncodedImage, torch.Tensor, torch.Tensor | None]:
        """Everything that depends on the image alone: maps, image embeddings (B, N, D), evidence logits."""
        encoded = self.encoder(self.encoder.preprocess(image_BCHW, canonical_hw_px))
        grid_px = encoded.features.shape[-1]
        centers = self.encoder.frame.patch_centers_norm(grid_px, canonical_hw_px).to(image_BCHW.device)
        tower = [encoded.features, centers.transpose(1, 2).unflatten(2, (grid_px, grid_px)).to(encoded.features.dtype)]
        evidence_logits = None
        if self.evidence is not None:
            coarse_logits, cells = self.evidence(encoded.features)
            evidence_logits = self.encoder.frame.leave(coarse_logits, canonical_hw_px, tuple(image_BCHW.shape[-2:]))
            tower.append(cells)
        return encoded, self.language.embed_image(torch.cat(tower, dim=1)), evidence_logits

    def forward(
        self,
        image_BCHW: torch.Tensor,
        canonical_hw_px: Sequence[tuple[int, int]],
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        prompt_mask: torch.Tensor,
        *,
        obj_image: torch.Tensor | None = None,
        target_ids: torch.Tensor | None = None,
        encoded: tuple[EncodedImage, torch.Tensor, torch.Tensor | None] | None = None,
        keep_cache: bool = False,
    ) -> PRSMedOutput:
        """One pass.

        Args:
            image_BCHW: canonical float32 images in [0, 1], padded at the bottom and right to a common size.
            canonical_hw_px: rows and columns of each image without padding.
            input_ids, attention_mask, prompt_mask: (K, T), see `prsmed.text.encode`.
            obj_image: (K,) which image each row asks about; None: row k asks about image k.
            target_ids: (K, T), answer ids where they stand in `input_ids`, IGNORE_ID elsewhere.
            encoded: what `encode_image` gave for these images, to ask again without encoding again.
            keep_cache: fill a cache, to continue with `continue_text`.
        """
        encoded = encoded or self.encode_image(image_BCHW, canonical_hw_px)
        maps, image_embeds, evidence_logits = encoded
        if obj_image is None:
            obj_image = torch.arange(len(input_ids), device=input_ids.device)
        hw_px = [canonical_hw_px[index] for index in obj_image.tolist()]
        cache = new_cache() if keep_cache else None
        hidden_KTD, cache = self.language(input_ids, image_embeds[obj_image], attention_mask, cache=cache)
        maps = maps.select(obj_image)
        fused = self.fusion(maps.features, hidden_KTD, prompt_mask)
        mask_logits = self.encoder.frame.leave(self.decoder(fused, maps.skips), hw_px, tuple(image_BCHW.shape[-2:]))
        last_prompt = last_states(hidden_KTD, prompt_mask)
        pooled = torch.cat([fused.mean(dim=(2, 3)), fused.amax(dim=(2, 3)), last_prompt], dim=1)
        text_logits = None
        if target_ids is not None:
            predicts = F.pad(target_ids[:, 1:] >= 0, (0, 1))
            text_logits = self.language.logits(hidden_KTD[predicts])
        return PRSMedOutput(
            mask_logits=mask_logits,
            presence_logit=self.presence(pooled)[:, 0],
            evidence_logits=evidence_logits,
            prompt_states=hidden_KTD,
            text_logits=text_logits,
            cache=cache,
        )

    @torch.no_grad()
    def continue_text(
        self, output: PRSMedOutput, attention_mask: torch.Tensor, *, max_new_tokens: int, end_id: int
    ) -> Generated:
        """Greedy answers that continue the cache of a pass over questions alone (`keep_cache=True`)."""
        assert output.cache is not None and output.prompt_states is not None, "call forward with keep_cache=True first"
        last_KD = last_states(output.prompt_states, attention_mask.bool())
        return self.language.generate(
            output.cache, last_KD, attention_mask, max_new_tokens=max_new_tokens, end_id=end_id
        )


def last_states(hidden_KTD: torch.Tensor, mask_KT: torch.Tensor) -> torch.Tensor:
    """The state at the last True of each row, (K, D)."""
    last_K = mask_KT.shape[1] - 1 - mask_KT.flip(1).int().argmax(dim=1)
    return hidden_KTD[torch.arange(len(hidden_KTD), device=hidden_KTD.device), last_K]
