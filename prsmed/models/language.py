"""Language backbones: one interface over a causal language model and the way images enter its sequence.

Image embeddings are merged into the sequence here, at the positions that hold `IMAGE_ID`; transformers' own
multimodal wrappers are not used (they cannot run on the meta device and mis-index an id outside the vocabulary).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Cache, DynamicCache, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from prsmed.models.fusion import sincos_positions
from prsmed.models.lora import add_lora
from prsmed.text.encode import IMAGE_ID


@dataclass
class Generated:
    """Greedy continuations.

    Attributes:
        ids: (K, L) token ids after the prompt; rows that ended early are filled with the end id.
        hidden: (K, L, D) the last hidden states that predicted them.
    """

    ids: torch.Tensor
    hidden: torch.Tensor


@dataclass
class ReadPrefix:
    """What the language model made of the tokens before the question: the same for every question about an image.

    Attributes:
        hidden_BPD: their last hidden states.
        cache: their keys and values.
    """

    hidden_BPD: torch.Tensor
    cache: Cache

    def cache_of(self, obj_image: torch.Tensor) -> Cache:
        """A cache of its own for K questions, each about the image `obj_image` (K,) names."""
        cache = copy(self.cache)
        cache.layers = [copy(layer) for layer in self.cache.layers]
        cache.batch_select_indices(obj_image)  # gives each layer new tensors
        return cache


class LanguageBackbone(nn.Module):
    """Interface of design.md, section 4. `hidden_width` is D, `image_tokens` is N.

    `published` names the modules whose weights come from the base of a preset that has one.
    """

    published: tuple[str, ...] = ("model",)

    hidden_width: int
    image_tokens: int

    def embed_image(self, features: torch.Tensor) -> torch.Tensor:
        """Image features (B, C, h, w), or pixels where the model has its own tower -> (B, N, D)."""
        raise NotImplementedError

    def look(self, image_BCHW: torch.Tensor, canonical_hw_px: Sequence[tuple[int, int]]) -> torch.Tensor | None:
        """Image tokens (B, N, D) of canonical images by a tower of its own; None: it has none, and needs features."""
        return None

    def forward(
        self,
        input_ids: torch.Tensor,
        image_embeds: torch.Tensor | None,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
    ) -> tuple[torch.Tensor, Cache | None]:
        """Hidden states (K, T, D) of the last layer after its norm, without logits, and the cache that was filled.

        `attention_mask` is (K, T), or bool (K, 1, T, T) where not every earlier token is seen.
        """
        raise NotImplementedError

    @torch.no_grad()
    def read_prefix(self, prefix_ids: torch.Tensor, image_embeds: torch.Tensor) -> ReadPrefix:
        """Read the tokens (B, P) before every question of images, their embeddings (B, N, D) among them."""
        hidden_BPD, cache = self(prefix_ids, image_embeds, torch.ones_like(prefix_ids), cache=new_cache())
        return ReadPrefix(hidden_BPD, cache)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Next-token logits (..., vocabulary) of chosen hidden states (..., D)."""
        raise NotImplementedError

    def generate(
        self,
        cache: Cache,
        last_hidden_KD: torch.Tensor,
        attention_mask: torch.Tensor,
        *,
        max_new_tokens: int,
        end_id: int,
    ) -> Generated:
        """Greedy continuation of a prefilled prompt."""
        raise NotImplementedError

    def likelihoods(
        self, cache: Cache, attention_mask: torch.Tensor, last_ids_K1: torch.Tensor, ids_NL: torch.Tensor
    ) -> torch.Tensor:
        """Log-probabilities (K, N, L) of N texts' tokens as what comes next in each of K rows, 0 behind the shorter
        ones; the cache is left as it was.

        Args:
            attention_mask: (K, T) which places of the cache hold something.
            last_ids_K1: each row's last token, which is not in the cache yet.
            ids_NL: the texts' tokens, negative behind the shorter ones.
        """
        raise NotImplementedError

    def embed_words(self, ids_KW: torch.Tensor) -> torch.Tensor:
        """The mean input embedding (K, D) of each row's tokens, float32; a negative id is none."""
        raise NotImplementedError

    def extend_vocab(self, count: int) -> list[int]:
        """Add trainable rows at the end of the vocabulary, and say their ids; the rows before stay as they are."""
        raise NotImplementedError


class SharedTowerProjector(nn.Module):
    """Turns the segmentation encoder's map into image tokens: pool, project, add evidence and position codes.

    The last `map_channels` channels are maps with a meaning of their own (patch centres, evidence). They enter beside
    the normalised features, not through their norm, where a few channels would drown among many; and a token keeps
    all their cells, where features are averaged.

    Args:
        channels, map_channels: of the input, features first.
        width: hidden width of the language model.
        features_px, grid_px: cells per side of the input, and tokens per side; the second divides the first.
    """

    def __init__(self, channels: int, map_channels: int, width: int, *, features_px: int, grid_px: int):
        super().__init__()
        assert features_px % grid_px == 0, f"{features_px} cells per side cannot be shared by {grid_px} tokens"
        self.cells_per_token = features_px // grid_px
        self.channels = channels
        self.norm = nn.LayerNorm(channels)
        self.project = nn.Sequential(nn.Linear(channels, width), nn.GELU(), nn.Linear(width, width))
        self.maps = nn.Linear(map_channels * self.cells_per_token**2, width)
        nn.init.normal_(self.maps.weight, std=0.5)
        self.positions = nn.Parameter(sincos_positions(grid_px, width))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        looks, maps = features.split([self.channels, features.shape[1] - self.channels], dim=1)
        looks_BND = self.project(self.norm(_tokens(F.avg_pool2d(looks, self.cells_per_token))))
        return looks_BND + self.maps(_tokens(F.pixel_unshuffle(maps, self.cells_per_token))) + self.positions


def _tokens(map_BCHW: torch.Tensor) -> torch.Tensor:
    return map_BCHW.flatten(2).transpose(1, 2)


class CausalBackbone(LanguageBackbone):
    """Any Hugging Face causal language model plus a projector for image features.

    Args:
        model: a `...ForCausalLM` with `.model` (hidden states) and `.lm_head`.
        projector: (B, C, h, w) -> (B, N, D).
        image_tokens: N.
    """

    def __init__(self, model: LlamaForCausalLM, projector: nn.Module, *, image_tokens: int):
        super().__init__()
        self.model = model
        self.projector = projector
        self.image_tokens = image_tokens
        self.hidden_width = model.config.hidden_size
        self.added_in: nn.Parameter | None = None
        self.added_out: nn.Parameter | None = None

    def embed_image(self, features: torch.Tensor) -> torch.Tensor:
        return self.projector(features)

    def forward(
        self,
        input_ids: torch.Tensor,
        image_embeds: torch.Tensor | None,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
    ) -> tuple[torch.Tensor, Cache | None]:
        embeds_KTD = self.merge(input_ids, image_embeds)
        output = self.model.model(
            inputs_embeds=embeds_KTD,
            attention_mask=added_mask(attention_mask, embeds_KTD.dtype) if attention_mask.ndim == 4 else attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return output.last_hidden_state, cache

    def merge(self, input_ids: torch.Tensor, image_embeds: torch.Tensor | None) -> torch.Tensor:
        """Input embeddings (K, T, D) with the image embeddings (K, N, D) where `IMAGE_ID` stands."""
        is_image, known = input_ids == IMAGE_ID, self.model.config.vocab_size
        is_added = input_ids >= known
        embeds_KTD = self.model.get_input_embeddings()(input_ids.masked_fill(is_image | is_added, 0))
        if self.added_in is not None:
            added = self.added_in[(input_ids - known).clamp(min=0)]
            embeds_KTD = torch.where(is_added[..., None], added.to(embeds_KTD.dtype), embeds_KTD)
        if image_embeds is None:
            return embeds_KTD
        # Else every row would read its neighbour's image, and nothing would tell.
        assert int(is_image.sum()) == image_embeds[..., 0].numel(), "as many image tokens in the text as embeddings"
        return embeds_KTD.masked_scatter(is_image[..., None], image_embeds.to(embeds_KTD.dtype))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        known = self.model.lm_head(hidden)
        if self.added_in is None:
            return known
        rows = self.added_in if self.added_out is None else self.added_out
        return torch.cat([known, F.linear(hidden, rows.to(hidden.dtype))], dim=-1)

    @torch.no_grad()
    def generate(
        self,
        cache: Cache,
        last_hidden_KD: torch.Tensor,
        attention_mask: torch.Tensor,
        *,
        max_new_tokens: int,
        end_id: int,
    ) -> Generated:
        """Rows may have prompts of different lengths, padded on the right; each continues from its own end."""
        position_K1 = attention_mask.sum(dim=1, keepdim=True)
        ended_K = torch.zeros(len(attention_mask), dtype=torch.bool, device=attention_mask.device)
        ids, states, hidden_KD = [], [last_hidden_KD], last_hidden_KD
        while True:
            token_K = self.logits(hidden_KD).argmax(dim=-1).masked_fill(ended_K, end_id)
            ids.append(token_K)
            ended_K = ended_K | (token_K == end_id)
            if bool(ended_K.all()) or len(ids) == max_new_tokens:
                break
            attention_mask = torch.cat([attention_mask, attention_mask.new_ones(len(token_K), 1)], dim=1)
            hidden_KTD, _ = self(token_K[:, None], None, attention_mask, position_K1, cache)
            hidden_KD = hidden_KTD[:, -1]
            states.append(hidden_KD)
            position_K1 = position_K1 + 1
        return Generated(torch.stack(ids, dim=1), torch.stack(states, dim=1))

    @torch.no_grad()
    def likelihoods(
        self, cache: Cache, attention_mask: torch.Tensor, last_ids_K1: torch.Tensor, ids_NL: torch.Tensor
    ) -> torch.Tensor:
        """All texts are read in one pass: each sees what lies before, the last token, and itself."""
        rows = len(last_ids_K1)
        is_read_NL = F.pad(ids_NL[:, 1:] >= 0, (0, 1))  # a text's last token predicts nothing that is asked for
        text_M, place_M = is_read_NL.nonzero(as_tuple=True)
        own_MM = (text_M[:, None] == text_M) & (place_M[:, None] >= place_M)
        visible_QQ = F.pad(own_MM, (1, 0, 1, 0))
        visible_QQ[:, 0] = True
        before_KQT = attention_mask.bool()[:, None].expand(-1, len(visible_QQ), -1)
        visible_KQT = torch.cat([before_KQT, visible_QQ.expand(rows, -1, -1)], dim=2)
        position_KQ = attention_mask.sum(dim=1, keepdim=True) + F.pad(place_M + 1, (1, 0))
        ids_KQ = torch.cat([last_ids_K1, ids_NL[is_read_NL].expand(rows, -1)], dim=1)
        hidden_KQD, _ = self(ids_KQ, None, visible_KQT[:, None], position_KQ, cache)
        cache.crop(-len(visible_QQ))
        logits_KQV = self.logits(hidden_KQD).float()
        number_NL = is_read_NL.flatten().cumsum(dim=0).view_as(is_read_NL)
        predicted_by_NL = F.pad(number_NL[:, :-1], (1, 0))
        log_prob_KNL = logits_KQV[:, predicted_by_NL, ids_NL.clamp(min=0)]
        log_prob_KNL = log_prob_KNL - logits_KQV.logsumexp(dim=2)[:, predicted_by_NL]
        return log_prob_KNL * (ids_NL >= 0)

    @torch.no_grad()
    def embed_words(self, ids_KW: torch.Tensor) -> torch.Tensor:
        is_word_KW1 = (ids_KW >= 0)[..., None]
        embeds_KWD = self.model.get_input_embeddings()(ids_KW.clamp(min=0)).float() * is_word_KW1
        return embeds_KWD.sum(dim=1) / is_word_KW1.sum(dim=1)

    def extend_vocab(self, count: int) -> list[int]:
        """The new rows are parameters of their own: the tables of the base can stay frozen, and out of a checkpoint."""
        table_VD, head_VD = self.model.get_input_embeddings().weight, self.model.lm_head.weight
        assert isinstance(table_VD, torch.Tensor) and isinstance(head_VD, torch.Tensor)
        self.added_in = nn.Parameter(_like_rows_of(table_VD, count))
        self.added_out = None if head_VD is table_VD else nn.Parameter(_like_rows_of(head_VD, count))
        return list(range(len(table_VD), len(table_VD) + count))


def added_mask(allowed_K1TT: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A 4-D bool mask as numbers to add to attention scores; written-out attention would add True as 1."""
    zeros = torch.zeros_like(allowed_K1TT, dtype=dtype)
    return zeros.masked_fill(~allowed_K1TT, torch.finfo(dtype).min)


def _like_rows_of(table_VD: torch.Tensor, count: int) -> torch.Tensor:
    """Rows with the mean and the deviation of a table's."""
    rows = table_VD.detach().float()
    return rows.mean(dim=0) + rows.std(dim=0) * torch.randn(count, rows.shape[1])


def new_cache() -> Cache:
    """An empty key and value cache."""
    return DynamicCache()


def tiny_llama(
    *, vocab_size: int, width: int, layers: int, heads: int, max_positions: int, projector: nn.Module, image_tokens: int
) -> CausalBackbone:
    """A Llama-type model from random weights: the `tiny` preset's language model."""
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=width * 8 // 3 // 8 * 8,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=max_positions,
        initializer_range=0.05,  # transformers' 0.02 suits wide models; this narrow one learns in half the steps
        tie_word_embeddings=True,
    )
    return CausalBackbone(LlamaForCausalLM(config), projector, image_tokens=image_tokens)


def hidden_width(folder: Path) -> int:
    """D of a model folder in Hugging Face's layout, from its config.json."""
    return int(LlamaConfig.from_pretrained(folder, local_files_only=True).hidden_size)


def pretrained_llama(
    folder: Path, *, lora: Mapping[str, Any] | None, projector: nn.Module, image_tokens: int
) -> CausalBackbone:
    """A Llama-type model from a folder in Hugging Face's layout, frozen, with adapters that can be trained.

    Args:
        folder: config.json and model.safetensors; nothing is fetched, nothing in it is executed.
        lora: arguments of `add_lora`; None: no adapters.
    """
    transformers_logging.disable_progress_bar()  # a fraction of a second, in the middle of our own output
    # Sequences are short; in bf16 on a CPU the backward pass of the fused kernel takes several times as long.
    model = LlamaForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, attn_implementation="eager"
    )
    model.requires_grad_(False)
    if lora is not None:
        add_lora(model, **lora)
    return CausalBackbone(model, projector, image_tokens=image_tokens)
