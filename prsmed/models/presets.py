"""The one table of sizes. A preset names a network; an overlay config sets `preset` and training numbers only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from prsmed.errors import RequestError
from prsmed.models.adopted import ADOPTED, ENCODERS, any_base_file, any_base_folder, any_base_identity
from prsmed.models.allocation import keep_freed_memory
from prsmed.models.bases import known_bases
from prsmed.models.checkpoints import load_weights, model_folder, read_info, set_base, verified_file
from prsmed.models.encoders import SegmentationEncoder, TinyViTEncoder
from prsmed.models.evidence import STATE_WORDS
from prsmed.models.language import LanguageBackbone, SharedTowerProjector, hidden_width, pretrained_llama, tiny_llama
from prsmed.models.llava_presets import LLAVA_PRESETS, build_llava, is_llava
from prsmed.models.medisee_presets import MEDISEE_PRESETS, build_medisee, candidates
from prsmed.models.pretrained import read_torch_file
from prsmed.models.prs_med import PRSMed
from prsmed.text.encode import TextEncoder, load_tokenizer, word_ids
from prsmed.types import EVIDENCE_STATES, TARGET_KINDS

_PRS_MED: dict[str, dict[str, Any]] = {
    "tiny": {
        "tokenizer": "tiny",
        "image_px": 128,
        "encoder": {
            "widths": (32, 64, 96, 128),
            "depths": (1, 1, 2, 1),
            "heads": (1, 2, 3, 4),
            "windows": (7, 8, 8, 8),
            "neck_channels": 128,
            "skip_stages": (0, 1),
        },
        "language": {"width": 192, "layers": 3, "heads": 4, "max_positions": 2048},
        "token_grid_px": 4,
        "fusion": {"fusion_width": 128, "fusion_map_px": 8, "out_stride": 2, "evidence_cells": 4},
    },
    "small": {
        "tokenizer": "smollm2_135m",
        "special_tokens": {"bos": "<|im_start|>", "eos": "<|im_end|>", "pad": "<|endoftext|>"},
        "chat": {
            "before_image": "user\n",
            "user_header": "\n",
            "assistant_header": "<|im_end|>\n<|im_start|>assistant\n",
        },
        "image_px": 256,
        "encoder": {"base": "lite_medsam"},
        "language": {"base": "smollm2_135m", "lora": {"rank": 16, "alpha": 16, "dropout": 0.0}},
        "token_grid_px": 4,
        "fusion": {
            "fusion_width": 256,
            "fusion_map_px": 16,
            "out_stride": 2,
            "evidence_cells": 1,
            "summary_words": True,
            "evidence_channels": 64,
            "evidence_layers": 2,
            "evidence_to_mask": True,
            "decoder_channels": 64,
        },
    },
}
_VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    "_seg": {"fusion": {"seg_token": True}},
    "_no_evidence": {"fusion": {"evidence_cells": 0, "summary_words": False}},
    "_open": {"encoder": {"open_stages": 1}},
}
"""What PRS-Med is compared with: one state conditions the mask (LISA); no evidence tokens; the encoder's last stage and
neck may learn while the maps before them are kept."""
_SMALL_VARIANTS: dict[str, dict[str, Any]] = {
    "_64_tokens": {"token_grid_px": 8},
    "_map_32": {"fusion": {"fusion_map_px": 32}},
    "_skip": {"encoder": {"skip_stages": (1,)}},
}
"""Choices of `small` that were tried otherwise: image tokens a side, the map on which image and words meet, and the
encoder's second stage, at stride 2, as a skip connection to the decoder."""


def _varied(row: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the table with some values changed, those of its parts one by one."""
    parts = {name: {**row[name], **change} for name, change in changes.items() if isinstance(change, Mapping)}
    return {**row, **changes, **parts}


PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    **{
        ("prs_med", name + suffix): _varied(row, changes)
        for suffix, changes in (_VARIANTS | _SMALL_VARIANTS).items()
        for name, row in _PRS_MED.items()
        if name == "small" or suffix in _VARIANTS
    },
    **MEDISEE_PRESETS,
    **LLAVA_PRESETS,
}


def sizes(task: str, preset: str) -> dict[str, Any]:
    """The row of the table; RequestError names the rows that exist."""
    try:
        return PRESETS[task, preset]
    except KeyError:
        known = ", ".join(f"{name} for {work}" for work, name in PRESETS)
        raise RequestError(f"no preset {preset!r} for task {task!r}; there is: {known}") from None


def preset_bases(preset: str) -> list[str]:
    """Names of the pretrained bases that a preset stands on, for whatever task; RequestError names the presets."""
    rows = [row for (_, name), row in PRESETS.items() if name == preset]
    if not rows:
        raise RequestError(f"no preset {preset!r}; there is: {', '.join(dict.fromkeys(name for _, name in PRESETS))}")
    return list(dict.fromkeys(base for row in rows for base in bases_of(row)))


def bases_of(row: Mapping[str, Any]) -> list[str]:
    """Names of the pretrained bases of a row."""
    parts = [part for part in row.values() if isinstance(part, Mapping)]
    return list(dict.fromkeys(part["base"] for part in parts if "base" in part))


def image_tokens(task: str, preset: str) -> int:
    """How many image tokens stand before every question."""
    row = sizes(task, preset)
    summaries = len(TARGET_KINDS) if _evidence_cells(row) else 0
    return (row["image_tokens"] if is_llava(row) else row["token_grid_px"] ** 2) + summaries


def tokenizer_file(task: str, preset: str) -> Path:
    """Where the preset's tokenizer lies: in a shipped model, or in a fetched base."""
    name = sizes(task, preset)["tokenizer"]
    based = name in known_bases() or name in ADOPTED
    return (any_base_folder(name) if based else model_folder(name)) / "tokenizer.json"


def build_text(task: str, preset: str, tokenizer: Path | None = None) -> TextEncoder:
    """The preset's encoder of questions and answers, with the tokenizer of a model folder or the preset's own."""
    row = sizes(task, preset)
    loaded = load_tokenizer(tokenizer or tokenizer_file(task, preset), **row.get("special_tokens", {}))
    return TextEncoder(
        loaded, image_tokens=image_tokens(task, preset), candidates=candidates(row), **row.get("chat", {})
    )


def build_network(task: str, preset: str, *, vocab_size: int) -> nn.Module:
    """The network of a preset before training, on its published base where it has one.

    Args:
        vocab_size: pieces of the tokenizer, for a language model that is made here.

    Raises:
        CheckpointError: the base was not fetched, or is damaged.
    """
    keep_freed_memory()
    row = sizes(task, preset)
    encoder = build_encoder(row)
    language = build_language(row, encoder, image_tokens=image_tokens(task, preset), vocab_size=vocab_size)
    if task == "medisee":
        network: nn.Module = build_medisee(row, encoder, language)
    else:
        network = PRSMed(encoder, language, **fusion_of(row, task, preset, language))
    declare_base(network, row, [any_base_identity(base) for base in bases_of(row)])
    return network


def fusion_of(row: Mapping[str, Any], task: str, preset: str, language: LanguageBackbone) -> dict[str, Any]:
    """Arguments of `PRSMed` in a row; where the summaries speak in words, their first embeddings."""
    fusion = {name: value for name, value in row["fusion"].items() if name != "summary_words"}
    if row["fusion"].get("summary_words"):
        tokenizer = load_tokenizer(tokenizer_file(task, preset), **row.get("special_tokens", {}))
        states = [STATE_WORDS.get(state, state.replace("-", " ")) for state in EVIDENCE_STATES]
        fusion["summary_words"] = tuple(
            language.embed_words(word_ids(words, tokenizer)) for words in (states, TARGET_KINDS)
        )
    return fusion


def build_encoder(row: Mapping[str, Any]) -> SegmentationEncoder:
    """The segmentation encoder of a row."""
    if "base" not in row["encoder"]:
        return TinyViTEncoder(size_px=row["image_px"], **row["encoder"])
    encoder = bare_encoder(row)
    path = any_base_file(row["encoder"]["base"])
    encoder.load_segment_anything(read_torch_file(path), source=str(path))
    return encoder


def bare_encoder(row: Mapping[str, Any]) -> SegmentationEncoder:
    """The encoder of a row on a base, before the base's weights."""
    options = {name: value for name, value in row["encoder"].items() if name != "base"}
    return ENCODERS[row["encoder"]["base"]](size_px=row["image_px"], **options)


def build_language(
    row: Mapping[str, Any], encoder: SegmentationEncoder, *, image_tokens: int, vocab_size: int
) -> LanguageBackbone:
    """The language model of a row: with a tower of its own, or reading the encoder's map through a projector."""
    if is_llava(row):
        return build_llava(row)
    language = row["language"]
    folder = any_base_folder(language["base"]) if "base" in language else None
    projector = shared_projector(row, encoder, language["width"] if folder is None else hidden_width(folder))
    if folder is not None:
        return pretrained_llama(folder, lora=language["lora"], projector=projector, image_tokens=image_tokens)
    return tiny_llama(vocab_size=vocab_size, projector=projector, image_tokens=image_tokens, **language)


def shared_projector(row: Mapping[str, Any], encoder: SegmentationEncoder, width: int) -> SharedTowerProjector:
    """What turns the encoder's map, patch centres and evidence into a language model's tokens."""
    return SharedTowerProjector(
        encoder.channels + row.get("heads", {}).get("coarse_width", 0),
        2 + len(TARGET_KINDS) * _evidence_cells(row) ** 2,
        width,
        features_px=row["image_px"] // encoder.stride,
        grid_px=row["token_grid_px"],
    )


def load_network(folder: Path) -> tuple[nn.Module, TextEncoder]:
    """The trained network of a model folder, and its encoder of questions.

    Raises:
        CheckpointError: missing, damaged or foreign files.
    """
    info = read_info(folder)
    text = build_text(info["task"], info["preset"], verified_file(folder, "tokenizer"))
    network = build_network(info["task"], info["preset"], vocab_size=len(text.tokenizer))
    load_weights(folder, network)
    return network, text


def _evidence_cells(row: Mapping[str, Any]) -> int:
    return row["fusion"]["evidence_cells"] if "fusion" in row else 0


def declare_base(network: nn.Module, row: Mapping[str, Any], identities: Sequence[Mapping[str, Any]]) -> None:
    """Say which tensors of a row's network come from its bases; they are frozen. Adapters are never among them."""
    language = [f"language.{module}" for module in network.language.published]  # type: ignore[union-attr]
    parts = {"encoder": ["encoder.net"], "language": language, "prompting": ["prompting"]}
    prefixes = [f"{prefix}." for part in parts if "base" in row.get(part, {}) for prefix in parts[part]]
    names = [name for name in network.state_dict() if f"{name}.".startswith(tuple(prefixes)) and "lora_" not in name]
    set_base(network, identities, names)
