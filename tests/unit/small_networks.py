"""PRS-Med in miniature: all its parts, 32 px, four image tokens; large random weights, so that every input matters."""

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from prsmed.data.preprocessing import Preprocessing
from prsmed.geometry import Geometry
from prsmed.models.presets import PRESETS, build_network, image_tokens
from prsmed.models.prs_med import PRSMed
from prsmed.predictor import Predictor
from prsmed.text.encode import IGNORE_ID, IMAGE_ID, TextEncoder, load_tokenizer

TOKENIZER = Path(__file__).resolve().parents[2] / "models" / "tiny" / "tokenizer.json"
ROW = {
    "tokenizer": "tiny",
    "image_px": 32,
    "encoder": {
        "widths": (8, 16, 16, 16),
        "depths": (1, 1, 1, 1),
        "heads": (1, 2, 2, 2),
        "windows": (4, 4, 4, 4),
        "neck_channels": 16,
        "skip_stages": (0, 1),
    },
    "language": {"width": 32, "layers": 2, "heads": 2, "max_positions": 512},
    "token_grid_px": 2,
    "fusion": {"fusion_width": 32, "fusion_map_px": 2, "out_stride": 2, "evidence_cells": 1, "evidence_to_mask": True},
}


def small_text(*, evidence_cells: int = 1) -> TextEncoder:
    with _preset(evidence_cells):
        return TextEncoder(load_tokenizer(TOKENIZER), image_tokens=image_tokens("prs_med", "miniature"))


def small_network(vocab_size: int, *, evidence_cells: int = 1, seed: int = 0) -> PRSMed:
    torch.manual_seed(seed)
    with _preset(evidence_cells):
        network = build_network("prs_med", "miniature", vocab_size=vocab_size)
    assert isinstance(network, PRSMed)
    for part in (network.language.model, network.fusion, network.decoder.head):
        for parameter in part.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.3)
    return network


def small_predictor(repository: Path, **info: object) -> Predictor:
    """The network as a loaded model, with the preprocessing of `configs/train.json`; `info` changes its model.json."""
    config = json.loads((repository / "configs" / "train.json").read_text(encoding="utf-8"))
    record = {
        "preset": "miniature",
        "name": "random",
        "licence": "Apache-2.0",
        "version": "0.0",
        "weights": {"sha256": "0" * 64},
        "zone_rule": "posmed",
        "thresholds": {"mask": 0.5, "presence": 0.5},
        "targets": {"lung nodule": "lesion", "lungs": "organ"},
        **info,
    }
    text = small_text()
    return Predictor(small_network(len(text.tokenizer)), text, Preprocessing(config["preprocessing_steps"]), record)


def random_batch(side_px: int, vocab: int, *, image_tokens: int, tokens: int, prompt_tokens: int) -> dict[str, Any]:
    """A training batch of two random pictures, questions and masks, in the form of the data loader."""
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(3, vocab, (2, tokens), generator=rng)
    ids[:, 1 : 1 + image_tokens] = IMAGE_ID
    prompt = (torch.arange(tokens) < prompt_tokens).expand(2, -1)
    label = (torch.rand(2, 1, side_px, side_px, generator=rng) > 0.7).float()
    return {
        "image": torch.rand(2, 3, side_px, side_px, generator=rng),
        "geometry": [Geometry((side_px, side_px), (side_px, side_px))] * 2,
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids, dtype=torch.bool),
        "prompt_mask": prompt,
        "target_ids": torch.where(prompt, IGNORE_ID, ids),
        "label": label,
        "valid": torch.ones_like(label),
        "present": torch.ones(2),
        "kind_index": torch.tensor([0, 1]),
        "state_index": torch.tensor([0, 1]),
        "obj_image": torch.arange(2),
    }


def _preset(evidence_cells: int) -> AbstractContextManager:
    row = {**ROW, "fusion": {**ROW["fusion"], "evidence_cells": evidence_cells}}
    return patch.dict(PRESETS, {("prs_med", "miniature"): row})
