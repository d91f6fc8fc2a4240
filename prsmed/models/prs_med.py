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

from prsmed.errors import RequestError
from prsmed.geometry import from_center, in_image
from prsmed.models.encoders import Looked, SegmentationEncoder
from prsmed.models.evidence import Evidence, EvidenceHead, EvidenceSummary, WordedSummary
from prsmed.models.fusion import CrossAttentionFusion
from prsmed.models.language import Generated, LanguageBackbone, ReadPrefix, new_cache
from prsmed.models.mask_decoder import MaskDecoder
from prsmed.types import TARGET_KINDS


@dataclass
class PRSMedOutput(ModelOutput):
    """One record in training and inference.

    Attributes:
        mask_logits: (K, 1, H, W) on the batch's canonical grid.
        presence_logit: (K,).
        evidence_logits: (B, kinds, H, W) the coarse, question-independent map on the canonical grid, or None.
        state_logits: (B, kinds, states) what that map says in words, of `EVIDENCE_STATES`, or None.
        prompt_states: (K, T, D) hidden states; only those under `prompt_mask` conditioned the mask.
        text_logits: (M, vocabulary) at the M positions that predict an answer token, row by row; None without targets.
        cache: the language model's cache after the sequence; None in training.
    """

    mask_logits: torch.Tensor | None = None
    presence_logit: torch.Tensor | None = None
    evidence_logits: torch.Tensor | None = None
    state_logits: torch.Tensor | None = None
    prompt_states: torch.Tensor | None = None
    text_logits: torch.Tensor | None = None
    cache: Cache | None = None


class PRSMed(nn.Module):
    """The network.

    Args:
        encoder: image -> maps.
        language: sequence -> hidden states and words.
        fusion_width, fusion_map_px: see `CrossAttentionFusion`.
        out_stride: frame pixels per step of the decoded mask.
        evidence_cells: evidence cells per step of the feature map and side; 0 switches evidence tokens off. With them,
            one summary token per kind follows the language model's own image tokens.
        evidence_channels, decoder_channels: widths behind a large feature map; None: as wide as the map, and half.
        evidence_layers: see `EvidenceHead`.
        evidence_to_mask: whether the mask decoder is given the evidence beside the fused map; for one cell a step.
        summary_words: what the evidence summaries speak in, see `WordedSummary`; None: in tokens that are learned.
        seg_token: condition the mask on the state that predicts the answer's first token alone, where LISA has its
            [SEG] (Lai et al. 2024); False: on all states of the question, as PRS-Med.
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
        evidence_channels: int | None = None,
        evidence_layers: int = 0,
        evidence_to_mask: bool = False,
        decoder_channels: int | None = None,
        summary_words: tuple[torch.Tensor, torch.Tensor] | None = None,
        seg_token: bool = False,
    ):
        super().__init__()
        self.seg_token = seg_token
        self.encoder = encoder
        self.language = language
        self.evidence = (
            EvidenceHead(
                encoder.channels,
                cells_per_step=evidence_cells,
                hidden=evidence_channels,
                context_layers=evidence_layers,
            )
            if evidence_cells
            else None
        )
        self.summary: EvidenceSummary | WordedSummary | None = None
        if evidence_cells:
            width = language.hidden_width
            self.summary = EvidenceSummary(width) if summary_words is None else WordedSummary(*summary_words)
        self.fusion = CrossAttentionFusion(
            channels=encoder.channels,
            prompt_width=language.hidden_width,
            width=fusion_width,
            map_px=fusion_map_px,
        )
        assert not evidence_to_mask or evidence_cells in (0, 1), "the decoder's map has one cell a step"
        self.evidence_to_mask = evidence_to_mask and evidence_cells > 0
        self.decoder = MaskDecoder(
            channels=encoder.channels + (len(TARGET_KINDS) if self.evidence_to_mask else 0),
            stride=encoder.stride,
            out_stride=out_stride,
            first_channels=decoder_channels,
            skip_channels=encoder.skip_channels,
            skip_strides=encoder.skip_strides,
        )
        self.presence = nn.Sequential(
            nn.Linear(2 * encoder.channels + language.hidden_width, fusion_width), nn.GELU(), nn.Linear(fusion_width, 1)
        )

    def train(self, mode: bool = True) -> PRSMed:
        """As usual, but what is frozen stays in evaluation mode: its batch-norm statistics must not move either."""
        super().train(mode)
        if mode:
            rest_frozen(self)
        return self

    def encode_image(
        self,
        image_BCHW: torch.Tensor,
        canonical_hw_px: Sequence[tuple[int, int]],
        windows_xyxy_norm: torch.Tensor | None = None,
    ) -> Looked:
        """Everything that depends on the image alone: maps, image embeddings (B, N, D), evidence."""
        encoded = self.encoder.encode(image_BCHW, canonical_hw_px, windows_xyxy_norm)
        seen = self.language.look(image_BCHW, canonical_hw_px)
        if seen is not None:
            if windows_xyxy_norm is not None:
                raise RequestError("this language model looks at the whole picture itself; set windows to null")
            return Looked(encoded, seen)
        frame, grid_px = self.encoder.frame, encoded.features.shape[-1]
        offsets = frame.patch_offsets(grid_px, canonical_hw_px).to(encoded.features)
        tower = [encoded.features, offsets]
        if self.evidence is None or self.summary is None:
            return Looked(encoded, self.language.embed_image(torch.cat(tower, dim=1)))
        logits = self.evidence(encoded.features, offsets)
        centers = frame.patch_centers_norm(logits.shape[-1], canonical_hw_px).to(logits)
        inside = in_image(centers).unflatten(1, logits.shape[-2:])[:, None]
        prob = shown = logits.sigmoid() * inside
        if isinstance(self.summary, WordedSummary):
            prob = prob.detach()  # words read the evidence; what it is, masks alone teach
        tower.append(F.pixel_unshuffle(prob, logits.shape[-1] // grid_px))
        summaries, state_logits = self.summary(prob.flatten(2), from_center(centers, canonical_hw_px))
        tokens = [self.language.embed_image(torch.cat(tower, dim=1)), summaries]
        map_logits = frame.leave(logits.float(), canonical_hw_px, _hw_px(image_BCHW))
        return Looked(encoded, torch.cat(tokens, dim=1), Evidence(map_logits, state_logits, shown))

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
        encoded: Looked | None = None,
        windows_xyxy_norm: torch.Tensor | None = None,
        prefix: ReadPrefix | None = None,
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
            windows_xyxy_norm: (B, 4) the part of each image that is looked at, see `prsmed.windows`; None: all of it.
            prefix: what `language.read_prefix` gave for them; `input_ids` must start with the same tokens. It stays as
                it is.
            keep_cache: fill a cache, to continue with `continue_text`.
        """
        looked = encoded or self.encode_image(image_BCHW, canonical_hw_px, windows_xyxy_norm)
        maps, image_embeds, evidence = looked.maps, looked.image_embeds, looked.evidence
        if obj_image is None:
            obj_image = torch.arange(len(input_ids), device=input_ids.device)
        hw_px = [canonical_hw_px[index] for index in obj_image.tolist()]
        if prefix is None:
            cache = new_cache() if keep_cache else None
            hidden_KTD, cache = self.language(input_ids, image_embeds[obj_image], attention_mask, cache=cache)
        else:
            rest = input_ids[:, prefix.hidden_BPD.shape[1] :]
            rest_KTD, cache = self.language(rest, None, attention_mask, cache=prefix.cache_of(obj_image))
            hidden_KTD = torch.cat([prefix.hidden_BPD[obj_image], rest_KTD], dim=1)
        maps = maps.select(obj_image)
        last_prompt = last_states(hidden_KTD, prompt_mask)
        if self.seg_token:
            fused = self.fusion(maps.features, last_prompt[:, None], torch.ones_like(prompt_mask[:, :1]))
        else:
            fused = self.fusion(maps.features, hidden_KTD, prompt_mask)
        seen = fused
        if self.evidence_to_mask and evidence is not None:
            seen = torch.cat([fused, evidence.prob[obj_image].to(fused)], dim=1)
        mask_logits = self.encoder.frame.leave(self.decoder(seen, maps.skips).float(), hw_px, _hw_px(image_BCHW))
        pooled = torch.cat([fused.mean(dim=(2, 3)), fused.amax(dim=(2, 3)), last_prompt], dim=1)
        text_logits = None
        if target_ids is not None:
            predicts = F.pad(target_ids[:, 1:] >= 0, (0, 1))
            text_logits = self.language.logits(hidden_KTD[predicts])
        return PRSMedOutput(
            mask_logits=mask_logits,
            presence_logit=self.presence(pooled)[:, 0],
            evidence_logits=None if evidence is None else evidence.map_logits,
            state_logits=None if evidence is None else evidence.state_logits,
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


def _hw_px(image_BCHW: torch.Tensor) -> tuple[int, int]:
    return image_BCHW.shape[-2], image_BCHW.shape[-1]


def rest_frozen(module: nn.Module) -> None:
    """Put every part that has no parameter to learn into evaluation mode."""
    for child in module.children():
        parameters = list(child.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            child.eval()
        else:
            rest_frozen(child)


def last_states(hidden_KTD: torch.Tensor, mask_KT: torch.Tensor) -> torch.Tensor:
    """The state at the last True of each row, (K, D)."""
    last_K = mask_KT.shape[1] - 1 - mask_KT.flip(1).int().argmax(dim=1)
    return hidden_KTD[torch.arange(len(hidden_KTD), device=hidden_KTD.device), last_K]
