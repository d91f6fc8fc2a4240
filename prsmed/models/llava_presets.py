"""The rows of the papers' own networks in the table of presets: LLaVA-type language models at full size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    MistralConfig,
)

from prsmed.models.adopted import any_base_folder
from prsmed.models.llava import CHATS, LlavaBackbone, load_llava
from prsmed.models.llava_conversion import CLIP_VIT_L_336
from prsmed.models.lora import add_lora

_SPECIAL = {"bos": "<s>", "eos": "</s>", "pad": "<unk>"}
_PRS_MED: dict[str, Any] = {
    "tokenizer": "llava_med_7b",
    "special_tokens": _SPECIAL,
    "chat": CHATS["mistral"],
    "image_px": 1024,
    "image_tokens": 576,
    "encoder": {"base": "tinysam"},
    "language": {"base": "llava_med_7b", "lora": {"rank": 16, "alpha": 16, "dropout": 0.05}},
    "fusion": {"fusion_width": 256, "fusion_map_px": 32, "out_stride": 1, "evidence_cells": 0},
}
_MEDISEE: dict[str, Any] = {
    **{name: _PRS_MED[name] for name in ("tokenizer", "special_tokens", "chat", "image_px", "image_tokens")},
    "encoder": {"base": "medsam"},
    "language": {
        "base": "llava_med_7b",
        "lora": {"rank": 8, "alpha": 16, "dropout": 0.05, "targets": ["q_proj", "v_proj"]},
    },
    "prompting": {"base": "medsam"},
    "heads": {"router_width": 1024, "box_width": 512},
}
LLAVA_PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    ("prs_med", "llava_med_7b"): _PRS_MED,
    ("prs_med", "llava_med_7b_8bit"): {**_PRS_MED, "language": {**_PRS_MED["language"], "bits": 8}},
    ("prs_med", "llava_med_7b_4bit"): {**_PRS_MED, "language": {**_PRS_MED["language"], "bits": 4}},
    ("prs_med", "llava_med_7b_mobile_sam"): {**_PRS_MED, "encoder": {"base": "mobile_sam"}},
    ("prs_med", "llava_med_7b_medsam"): {**_PRS_MED, "encoder": {"base": "medsam"}},
    ("prs_med", "llava_med_7b_256px"): {
        **_PRS_MED,
        "image_px": 256,
        "fusion": {**_PRS_MED["fusion"], "fusion_map_px": 16},
    },
    ("prs_med", "llava_1_5_7b"): {
        **_PRS_MED,
        "tokenizer": "llava_1_5_7b",
        "chat": CHATS["vicuna"],
        "language": {**_PRS_MED["language"], "base": "llava_1_5_7b"},
    },
    ("prs_med", "llava_1_6_mistral_7b"): {
        **_PRS_MED,
        "tokenizer": "llava_1_6_mistral_7b",
        "image_tokens": 576 + 48 * 49,
        "language": {**_PRS_MED["language"], "base": "llava_1_6_mistral_7b"},
    },
    ("medisee", "llava_med_7b"): _MEDISEE,
}
"""PRS-Med's tables 4 (encoders; which of them learns is a matter of stages) and 5 (language models), and MediSee."""

_MISTRAL_7B: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "sliding_window": None,
}
_VICUNA_7B: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
}


def is_llava(row: Mapping[str, Any]) -> bool:
    """Whether the language model of a row has a vision tower of its own."""
    return row["language"].get("base", "").startswith("llava")


def build_llava(row: Mapping[str, Any], *, weights: bool = True) -> LlavaBackbone:
    """The language model of a row: everything published is frozen, adapters in float32 beside the language model.

    Activations of its layers are computed again in the backward pass, not kept.

    Args:
        weights: False makes the same modules without reading a file, for the meta device.

    Raises:
        CheckpointError: the base was not brought.
        RequestError: a quantised row without bitsandbytes.
    """
    language = row["language"]
    if weights:
        backbone = load_llava(any_base_folder(language["base"]), bits=language.get("bits"))
    else:
        backbone = LlavaBackbone(untrained_llava(language["base"])).to(torch.bfloat16)
    backbone.requires_grad_(False)
    add_lora(backbone.model, **language["lora"])
    for name, parameter in backbone.model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
    backbone.model.gradient_checkpointing_enable({"use_reentrant": False})
    return backbone


def untrained_llava(base: str) -> LlavaForConditionalGeneration | LlavaNextForConditionalGeneration:
    """A base's modules at full size, without its weights: make it under `torch.device("meta")`."""
    vision = CLIPVisionConfig(**CLIP_VIT_L_336)
    if base == "llava_1_6_mistral_7b":
        return LlavaNextForConditionalGeneration(
            LlavaNextConfig(vision_config=vision, text_config=MistralConfig(**_MISTRAL_7B))
        )
    text = LlamaConfig(**_VICUNA_7B) if base == "llava_1_5_7b" else MistralConfig(**_MISTRAL_7B)
    return LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text))
