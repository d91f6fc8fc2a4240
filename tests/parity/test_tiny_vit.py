"""TinyViT against numbers from the original TinySAM and LiteMedSAM, with weights and image made by a written rule.

Tolerance 1e-4: float32 rounding reaches 2e-5 with these weights, a wrong epsilon or split moves the output by far more.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from prsmed.models.tiny_vit import TinyViT

PARITY = Path(__file__).resolve().parents[3] / "shared" / "parity"
SIDE_PX = 256


def _weights(rows: list[list]) -> dict[str, torch.Tensor]:
    weights = {}
    for row, (name, shape, kind, _) in enumerate(rows):
        if kind == "integer":
            continue
        place = np.arange(math.prod(shape), dtype=np.float64)
        wave = np.sin(0.37 * place + 1.3 * row + 0.001 * (place % 1009) ** 2)
        scale = 1 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.05
        values = {
            "plain": (0.5 if name.endswith("attention_biases") else scale) * wave,
            "norm_weight": 1 + 0.05 * wave,
            "running_mean": 0.01 * wave,
            "running_var": 1 + 0.1 * wave**2,
        }[kind]
        weights[name] = torch.from_numpy(values.reshape(shape)).float()
    return weights


def _image() -> torch.Tensor:
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX]
    channels = [0.5 + 0.5 * np.sin(0.11 * x + 0.07 * y + 0.9 * c) for c in range(3)]
    return torch.from_numpy(np.stack(channels)[None]).float()


@pytest.mark.parametrize(
    ("name", "array", "options"),
    [
        ("tinysam_encoder", "px256.output", {}),
        ("lite_medsam", "rule.output", {"patch_kernel": 1, "patch_stride": 1}),
    ],
    ids=["TinySAM", "LiteMedSAM"],
)
def test_the_encoder_computes_what_the_original_does(name, array, options):
    numbers = PARITY / f"{name}.npz"
    if not numbers.is_file():
        pytest.skip(f"the original networks' numbers are not on this machine: {numbers} is absent")
    names_file = PARITY / f"{name.removesuffix('_encoder')}_encoder_names.json"
    rows = json.loads(names_file.read_text(encoding="utf-8"))["tensors"]
    network = TinyViT(**options)
    # The classification head of the original stays in its checkpoints but never runs.
    weights = {key: value for key, value in _weights(rows).items() if not key.startswith(("head.", "norm_head."))}
    found = network.load_state_dict(weights, strict=False)
    assert not found.unexpected_keys
    assert all(key.endswith("num_batches_tracked") for key in found.missing_keys)
    with torch.no_grad():
        features = network.eval()(_image())[0].flatten().numpy()
    expected = np.load(numbers)
    assert np.abs(features[expected[f"{array}.index"]] - expected[f"{array}.value"]).max() < 1e-4
