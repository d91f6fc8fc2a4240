"""A preset's network at full size on the meta device: shapes without memory, and without any weights to fetch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from transformers import LlamaConfig, LlamaForCausalLM

from prsmed.models.encoders import SegmentationEncoder
from prsmed.models.language import CausalBackbone, LanguageBackbone
from prsmed.models.llava_presets import build_llava, is_llava
from prsmed.models.lora import add_lora
from prsmed.models.medisee_presets import build_medisee
from prsmed.models.presets import (
    bare_encoder,
    build_encoder,
    build_language,
    declare_base,
    image_tokens,
    shared_projector,
    sizes,
)
from prsmed.models.prs_med import PRSMed
from prsmed.types import EVIDENCE_STATES, TARGET_KINDS

VOCAB_SIZES = {"tiny": 934, "smollm2_135m": 49152}
"""Pieces of the tokenizers that come with the project or its bases; LLaVA's is part of its sizes."""

_SMOLLM2_135M = LlamaConfig(
    vocab_size=VOCAB_SIZES["smollm2_135m"],
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    max_position_embeddings=8192,
    tie_word_embeddings=True,
)


def network_on_meta(task: str, preset: str) -> nn.Module:
    """The network that `build_network` makes, its published parts frozen, with no value in any tensor."""
    row = sizes(task, preset)
    with torch.device("meta"):
        based = "base" in row["encoder"]
        encoder = bare_encoder(row) if based else build_encoder(row)
        language = _language(row, encoder, image_tokens(task, preset))
        if task == "medisee":
            sam = {name: value for name, value in row["prompting"].items() if name != "base"}
            network: nn.Module = build_medisee({**row, "prompting": sam}, encoder, language)
        else:
            network = PRSMed(encoder, language, **_fusion(row["fusion"], language.hidden_width))
    declare_base(network, row, [])
    return network


def _fusion(arguments: Mapping[str, Any], width: int) -> dict[str, Any]:
    fusion = dict(arguments)
    if fusion.pop("summary_words", False):
        fusion["summary_words"] = tuple(torch.empty(len(words), width) for words in (EVIDENCE_STATES, TARGET_KINDS))
    return fusion


def _language(row: Mapping[str, Any], encoder: SegmentationEncoder, tokens: int) -> LanguageBackbone:
    if is_llava(row):
        return build_llava(row, weights=False)
    if "base" not in row["language"]:
        return build_language(row, encoder, image_tokens=tokens, vocab_size=VOCAB_SIZES[row["tokenizer"]])
    model = LlamaForCausalLM(_SMOLLM2_135M).requires_grad_(False)
    add_lora(model, **row["language"]["lora"])
    projector = shared_projector(row, encoder, _SMOLLM2_135M.hidden_size)
    return CausalBackbone(model, projector, image_tokens=tokens)


class ValuesBesideShapes(TorchDispatchMode):
    """Lets tensors with values (CPU: ids, masks) work with tensors without (meta: weights, pictures).

    What needs values, such as finding the answer's positions, is computed; what meets a meta tensor becomes one. A
    number asked of a meta tensor is zero, so that checks of values, such as MONAI's of boxes, find nothing wrong.
    """

    def __torch_dispatch__(
        self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found: list[bool] = []
        tree_map_only(torch.Tensor, lambda tensor: found.append(tensor.is_meta), (args, kwargs or {}))
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return False if args[0].dtype == torch.bool else 0
        if len(set(found)) < 2:
            return func(*args, **(kwargs or {}))
        if func is torch.ops.aten.index.Tensor:
            args = (args[0], _places(args[1]))
        args, kwargs = tree_map_only(torch.Tensor, lambda tensor: tensor.to("meta"), (args, kwargs or {}))
        return func(*args, **kwargs)


def _places(indices: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """Masks as the positions they name: how many there are must be known without their values."""
    places: list[torch.Tensor | None] = []
    for index in indices:
        is_mask = index is not None and index.dtype == torch.bool
        places.extend(index.nonzero(as_tuple=True) if is_mask and index is not None else [index])
    return places
