"""LLaVA, LLaVA-Med and LLaVA-NeXT behind `LanguageBackbone`: a CLIP tower of their own, a projector, a language model.

Sources: Li et al. 2023 (LLaVA-Med), Liu et al. 2023 and 2024 (LLaVA-1.5, LLaVA-1.6). The parts are transformers' own;
its multimodal wrapper is only used to read a folder. `scripts/convert_llava.py` makes such a folder from the original
layout.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    Cache,
    CLIPVisionModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
)
from transformers.utils import is_bitsandbytes_available

from prsmed.errors import CheckpointError, RequestError
from prsmed.geometry import Frame
from prsmed.models.language import CausalBackbone

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_NEXT_TILES = 2
_BITSANDBYTES = "0.47.0"  # 0.46.1 rounds 8-bit weights a second time when a network is sent to the CPU

CHATS: dict[str, dict[str, str]] = {
    "mistral": {"before_image": "[INST] ", "user_header": "\n", "assistant_header": "[/INST]"},
    "vicuna": {
        "before_image": (
            "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful,"
            " detailed, and polite answers to the user's questions. USER: "
        ),
        "user_header": "\n",
        "assistant_header": "ASSISTANT:",
    },
}
"""Pieces of `TextEncoder` for each chat format: the models' own, as data. A sentencepiece tokenizer puts a space before
every piece, so none begins with one."""


class ClipTower(nn.Module):
    """A CLIP vision tower on a padded square frame.

    Args:
        net: transformers' tower.
        layer: whose states are the image's, counted as transformers does (-2: the last but one).
        tiles: per side; with more than one the frame is looked at whole and tile by tile.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, net: CLIPVisionModel, *, layer: int = -2, tiles: int = 1):
        super().__init__()
        self.net = net
        self.layer = layer
        self.tiles = tiles
        self.view_px = cast(int, net.config.image_size)
        self.grid_px = self.view_px // cast(int, net.config.patch_size)
        self.frame = Frame(self.view_px * tiles, "pad")
        self.register_buffer("mean", torch.tensor(CLIP_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(CLIP_STD).view(1, 3, 1, 1), persistent=False)

    def preprocess(self, image_BCHW: torch.Tensor, canonical_hw_px: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Canonical images in [0, 1] -> (B, 3, S, S), padded with the mean colour (zero after the normalisation)."""
        return self.frame.enter((image_BCHW - self.mean) / self.std, canonical_hw_px)

    def forward(self, views_BCHW: torch.Tensor) -> torch.Tensor:
        """States of the patches (B, grid * grid, width), the class token left out."""
        states = self.net(views_BCHW.to(self.net.dtype), output_hidden_states=True).hidden_states
        return states[self.layer][:, 1:]


class LlavaBackbone(CausalBackbone):
    """A LLaVA-type model. Its parts may be in bf16 or quantised; hidden states leave it as float32.

    Args:
        whole: transformers' model, whose parts are taken. LLaVA-NeXT looks at the frame whole and in four tiles, and
            has a token at the end of each row of the tiles' patches.
    """

    published = ("model", "tower", "projector", "newline")

    def __init__(self, whole: LlavaForConditionalGeneration | LlavaNextForConditionalGeneration):
        is_next = isinstance(whole, LlavaNextForConditionalGeneration)
        tower = ClipTower(
            whole.model.vision_tower,
            layer=cast(int, whole.config.vision_feature_layer),
            tiles=_NEXT_TILES if is_next else 1,
        )
        side_px = tower.grid_px * _NEXT_TILES
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(whole.config.text_config)
        model.model, model.lm_head = whole.model.language_model, whole.lm_head
        super().__init__(
            model,
            whole.model.multi_modal_projector,
            image_tokens=tower.grid_px**2 + (side_px * (side_px + 1) if is_next else 0),
        )
        self.tower = tower
        self.newline = whole.model.image_newline if is_next else None

    def look(self, image_BCHW: torch.Tensor, canonical_hw_px: Sequence[tuple[int, int]]) -> torch.Tensor:
        return self.embed_image(self.tower.preprocess(image_BCHW, canonical_hw_px))

    def embed_image(self, features: torch.Tensor) -> torch.Tensor:
        """Preprocessed pixels (B, 3, S, S) -> image tokens (B, N, D)."""
        if self.newline is None:
            return self.projector(self.tower(features))
        whole = F.interpolate(features, size=self.tower.view_px, mode="bilinear", antialias=True)
        return torch.cat([self.projector(self.tower(whole)), self._embed_tiles(features)], dim=1)

    def _embed_tiles(self, frame_BCHW: torch.Tensor) -> torch.Tensor:
        """The grid of all tiles' patches, row by row, the newline token after each row."""
        assert self.newline is not None
        tiles, grid_px, batch = self.tower.tiles, self.tower.grid_px, len(frame_BCHW)
        views = frame_BCHW.unflatten(3, (tiles, -1)).unflatten(2, (tiles, -1)).permute(0, 2, 4, 1, 3, 5)
        tokens = self.projector(self.tower(views.flatten(0, 2)))
        grid = tokens.view(batch, tiles, tiles, grid_px, grid_px, -1).permute(0, 1, 3, 2, 4, 5)
        rows_BHWD = grid.reshape(batch, tiles * grid_px, tiles * grid_px, -1)
        ends = self.newline.to(tokens.dtype).expand(batch, tiles * grid_px, 1, -1)
        return torch.cat([rows_BHWD, ends], dim=2).flatten(1, 2)

    def forward(
        self,
        input_ids: torch.Tensor,
        image_embeds: torch.Tensor | None,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
    ) -> tuple[torch.Tensor, Cache | None]:
        hidden_KTD, cache = super().forward(input_ids, image_embeds, attention_mask, position_ids, cache)
        return hidden_KTD.float(), cache

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return super().logits(hidden.to(self.model.dtype)).float()


def load_llava(folder: Path, *, dtype: torch.dtype = torch.bfloat16, bits: int | None = None) -> LlavaBackbone:
    """A LLaVA-type model from a Hugging Face folder (safetensors only), shard by shard.

    Args:
        folder: with config.json; `scripts/convert_llava.py` makes one from an original checkpoint.
        dtype: of all weights that are not quantised.
        bits: 8 or 4 loads the language model's linear layers quantised, by bitsandbytes; onto the GPU where there is
            one.

    Raises:
        CheckpointError: the folder is no LLaVA, or a tensor is missing, extra or of another shape.
        RequestError: `bits` is neither, or bitsandbytes is missing or too old.
    """
    config = read_config(folder)
    reader: Any = (
        LlavaNextForConditionalGeneration if isinstance(config, LlavaNextConfig) else LlavaForConditionalGeneration
    )
    quantised = {} if bits is None else {"quantization_config": _quantisation(bits, dtype)}
    try:
        whole, found = reader.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **quantised,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: cannot be read as a LLaVA checkpoint ({error}); convert it again") from error
    wrong = {name: sorted(map(str, found[f"{name}_keys"]))[:3] for name in ("missing", "unexpected", "mismatched")}
    if any(wrong.values()):
        raise CheckpointError(
            f"{folder} does not fit its config.json: missing {wrong['missing']}, extra {wrong['unexpected']},"
            f" other shape {wrong['mismatched']}; convert it again"
        )
    backbone = LlavaBackbone(whole)
    if bits is not None:
        _keep_as_packed(backbone)
    return backbone


def read_config(folder: Path) -> LlavaConfig | LlavaNextConfig:
    """`config.json` of a Hugging Face LLaVA folder; CheckpointError where it is not one."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder}: has no readable config.json ({error}); run scripts/convert_llava.py on the original checkpoint"
        ) from error
    if not isinstance(config, LlavaConfig | LlavaNextConfig):
        raise CheckpointError(
            f"{folder}: is a {config.model_type}, expected llava or llava_next; run scripts/convert_llava.py on it"
        )
    return config


def _quantisation(bits: int, dtype: torch.dtype) -> BitsAndBytesConfig:
    if not is_bitsandbytes_available(_BITSANDBYTES):
        raise RequestError(
            f"loading in {bits} bits needs bitsandbytes {_BITSANDBYTES} or newer; pip install 'prsmed[quantised]', or"
            " take a preset that is not quantised"
        )
    choices: dict[int, dict[str, Any]] = {
        8: {"load_in_8bit": True},
        4: {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype},
    }
    if bits not in choices:
        raise RequestError(f"bits is {bits}; expected 4, 8 or null")
    # Names count from the start: without "model." tower and projector would be quantised too.
    kept = ["lm_head", "model.vision_tower", "model.multi_modal_projector"]
    # In 8 bits every layer would say at every pass that it computes in float16.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    return BitsAndBytesConfig(**choices[bits], llm_int8_skip_modules=kept)


def _keep_as_packed(backbone: LlavaBackbone) -> None:
    """Forbid bitsandbytes to pack 4-bit weights anew, as it does on CPUs with AVX512-BF16 at a pass without gradients.

    From then on no gradient passes such a layer, and reading its state spoils its scales (seen in 0.50.2).
    """
    for module in backbone.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
