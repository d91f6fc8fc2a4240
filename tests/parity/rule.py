"""The written rule of the original networks' numbers (../shared/parity/README.md): weights, images, comparison."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

PARITY = Path(__file__).resolve().parents[3] / "shared" / "parity"


def numbers(name: str) -> dict[str, np.ndarray]:
    """The arrays of one file; the test is skipped where they are absent."""
    path = PARITY / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"the original networks' numbers are not on this machine: {path} is absent")
    return dict(np.load(path))


def listed(name: str) -> list[list]:
    """Rows of name, shape, kind and dtype of one state dict."""
    path = PARITY / f"{name}_names.json"
    if not path.is_file():
        pytest.skip(f"the original networks' names are not on this machine: {path} is absent")
    return json.loads(path.read_text(encoding="utf-8"))["tensors"]


def rule_weights(rows: list[list]) -> dict[str, torch.Tensor]:
    """The weights that the rule gives to these rows; integers are left as built."""
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


def rule_image(side_px: int) -> torch.Tensor:
    """The rule's image, (1, 3, side, side)."""
    y, x = np.mgrid[:side_px, :side_px]
    channels = [0.5 + 0.5 * np.sin(0.11 * x + 0.07 * y + 0.9 * c) for c in range(3)]
    return torch.from_numpy(np.stack(channels)[None]).float()


def difference(got: torch.Tensor, expected: dict[str, np.ndarray], array: str) -> float:
    """Largest absolute difference to a full array, or to the sampled places of a large one."""
    values = got.detach().float().numpy()
    if array in expected:
        assert values.shape == expected[array].shape, (values.shape, expected[array].shape)
        return float(np.abs(values - expected[array]).max())
    return float(np.abs(values.flatten()[expected[f"{array}.index"]] - expected[f"{array}.value"]).max())
