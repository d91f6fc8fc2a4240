"""The one table of sizes. A preset names a network; an overlay config sets `preset` and training numbers only."""

from __future__ import annotations

from typing import Any

from torch import nn

from prsmed.errors import RequestError
from prsmed.models.encoders import TinyViTEncoder
from prsmed.models.language import SharedTowerProjector, tiny_llama
from prsmed.models.prs_med import PRSMed
from prsmed.types import TARGET_KINDS

PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    ("prs_med", "tiny"): {
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
}


def sizes(task: str, preset: str) -> dict[str, Any]:
    """The row of the table; RequestError names the rows that exist."""
    try:
        return PRESETS[task, preset]
    except KeyError:
        known = ", ".join(f"{name} for {work}" for work, name in PRESETS)
        raise RequestError(f"no preset {preset!r} for task {task!r}; there is: {known}") from None


def image_tokens(task: str, preset: str) -> int:
    """How many image tokens stand before every question."""
    row = sizes(task, preset)
    summaries = len(TARGET_KINDS) if row["fusion"]["evidence_cells"] else 0
    return row["token_grid_px"] ** 2 + summaries


def build_network(task: str, preset: str, *, vocab_size: int) -> nn.Module:
    """The untrained network of a preset, for a tokenizer of `vocab_size` pieces."""
    row = sizes(task, preset)
    encoder = TinyViTEncoder(size_px=row["image_px"], **row["encoder"])
    map_channels = 2 + len(TARGET_KINDS) * row["fusion"]["evidence_cells"] ** 2
    language = tiny_llama(
        vocab_size=vocab_size,
        projector=SharedTowerProjector(
            encoder.channels,
            map_channels,
            row["language"]["width"],
            features_px=row["image_px"] // encoder.stride,
            grid_px=row["token_grid_px"],
        ),
        image_tokens=image_tokens(task, preset),
        **row["language"],
    )
    return PRSMed(encoder, language, **row["fusion"])
