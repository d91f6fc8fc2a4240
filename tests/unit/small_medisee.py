"""MediSee in miniature: all its parts, 32 px, four image tokens; large random weights, so that every input matters."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from prsmed.losses import MediSeeLoss
from prsmed.models.medisee import MediSee
from prsmed.models.presets import PRESETS, build_network, image_tokens
from prsmed.text.encode import Encoded, TextEncoder, load_tokenizer
from prsmed.text.packing import pack_batch

TOKENIZER = Path(__file__).resolve().parents[2] / "models" / "tiny" / "tokenizer.json"
ROW: dict[str, Any] = {
    "tokenizer": "tiny",
    "image_px": 32,
    "encoder": {
        "widths": (8, 16, 16, 16),
        "depths": (1, 1, 1, 1),
        "heads": (1, 2, 2, 2),
        "windows": (4, 4, 4, 4),
        "neck_channels": 16,
        "patch_kernel": 1,
        "patch_stride": 1,
    },
    "language": {"width": 32, "layers": 2, "heads": 2, "max_positions": 512},
    "token_grid_px": 2,
    "prompting": {"width": 16, "layers": 2, "heads": 2, "mlp_width": 32},
    "heads": {"router_width": 16, "box_width": 16},
}


def small_row(**heads: Any) -> dict[str, Any]:
    return {**ROW, "heads": {**ROW["heads"], **heads}}


def small_preset(**heads: Any) -> AbstractContextManager:
    """While it lasts, the table of presets has a row ("medisee", "miniature")."""
    return patch.dict(PRESETS, {("medisee", "miniature"): small_row(**heads)})


def small_text(*, candidates: int = 2) -> TextEncoder:
    with small_preset():
        tokens = image_tokens("medisee", "miniature")
    return TextEncoder(load_tokenizer(TOKENIZER), image_tokens=tokens, candidates=candidates)


def small_medisee(*, seed: int = 0, box_last: bool = True, **heads: Any) -> MediSee:
    """`box_last`: also random numbers in the box head's last layer, which starts at zero."""
    torch.manual_seed(seed)
    with small_preset(**heads):
        network = build_network("medisee", "miniature", vocab_size=len(load_tokenizer(TOKENIZER)))
    assert isinstance(network, MediSee)
    for part in (network.language.model, network.heads.project, network.prompting.decoder):
        for parameter in part.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.3)
    if box_last and network.heads.box_head is not None:
        nn.init.normal_(network.heads.box_head.layers[-1].weight, std=0.5)
    return network.eval()


HW = [(32, 32), (20, 32)]
"""Rows and columns of `two_pictures`."""


def two_pictures() -> torch.Tensor:
    torch.manual_seed(3)
    picture = torch.rand(2, 3, 32, 32)
    picture[1, :, 20:] = 0
    return picture


def turns_of(text: TextEncoder, *questions: str, answer: str = "the liver") -> list[Encoded]:
    return [text.encode(question, answer, points=True) for question in questions]


def passed(
    network: MediSee,
    text: TextEncoder,
    turns: list[list[Encoded]],
    image: torch.Tensor,
    hw_px: list[tuple[int, int]],
    **more: torch.Tensor,
):
    """The network's output for packed turns of several images."""
    batch = pack_batch(turns, text)
    return network(
        image,
        hw_px,
        batch["input_ids"],
        batch["attention_mask"],
        candidate_at=batch["candidate_at"],
        obj_image=batch["turn_image"],
        position_ids=batch["position_ids"],
        target_ids=batch["target_ids"],
        **more,
    )


def loss_batch(turns: list[Encoded], label: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the loss reads, of one object."""
    return {
        "label": label,
        "valid": torch.ones_like(label),
        "boxes_xyxy_norm": torch.tensor([[0.2, 0.2, 0.6, 0.6]]),
        "obj_image": torch.tensor([0]),
        "target_ids": torch.stack([turn.target_ids for turn in turns]),
    }


def gradient(
    network: MediSee, text: TextEncoder, image: torch.Tensor, weights: dict[str, float], part: nn.Module
) -> float:
    """How much a part would learn from a loss of these weights."""
    turns = turns_of(text, "show the liver")
    network.zero_grad()
    output = passed(network, text, [turns], image[:1], HW[:1])
    label = torch.zeros(1, 1, 32, 32)
    label[..., 8:20, 8:20] = 1
    MediSeeLoss(weights)(output, loss_batch(turns, label)).backward()
    return sum(float(parameter.grad.abs().sum()) for parameter in part.parameters() if parameter.grad is not None)
