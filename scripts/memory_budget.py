"""What training a preset needs, computed on the meta device: no weights, no GPU, full-size shapes.

One step, forward and loss, runs on shapes alone; every tensor that autograd keeps is counted. Attention is counted as
the written-out formula and the encoder as float32, so a GPU with flash attention and bf16 needs less.

python -m scripts.memory_budget [--json budget.json]
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from prsmed.losses import MediSeeLoss, PRSMedLoss
from prsmed.models.llava_presets import is_llava
from prsmed.models.medisee import MediSee
from prsmed.models.meta import ValuesBesideShapes, network_on_meta
from prsmed.models.presets import PRESETS, image_tokens, sizes
from prsmed.text.encode import IGNORE_ID, IMAGE_ID

QUESTION_TOKENS, ANSWER_TOKENS = 40, 40
CONFIGS = Path(__file__).resolve().parents[1] / "configs"
_ADAM_BYTES = 8  # two float32 moments
_GRADIENT_BYTES = 4
_WEIGHTS = {
    "prs_med": {"bce": 1.0, "dice": 1.0, "ce": 0.5, "presence": 0.5, "evidence": 0.5},
    "medisee": {"ce": 1.0, "bce": 2.0, "dice": 0.5, "l1": 1.0, "giou": 1.0},
}


@dataclass(frozen=True)
class Budget:
    """Memory in bytes, parameters as counts; `activations` are those of one image and question."""

    task: str
    preset: str
    parameters: int
    trainable: int
    trainable_without_encoder: int
    adapters: int
    weights: int
    gradients: int
    optimiser: int
    activations: int

    def total(self, batch: int) -> int:
        """A training step on `batch` images."""
        return self.weights + self.gradients + self.optimiser + batch * self.activations


class Kept:
    """Bytes that autograd keeps for the backward pass, each storage once; weights are not among them."""

    def __init__(self, network: nn.Module):
        # The storages themselves are kept too: a freed one's identity would come back as another's.
        storages = [tensor.untyped_storage() for tensor in network.state_dict(keep_vars=True).values()]
        self.seen = {id(storage): storage for storage in storages}
        self.bytes = 0

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        """The hook of `saved_tensors_hooks`."""
        storage = tensor.untyped_storage()
        if id(storage) not in self.seen:
            self.seen[id(storage)] = storage
            self.bytes += storage.nbytes()
        return tensor


class Recomputed:
    """What layers with gradient checkpointing save: all but their inputs, and what one of them needs at a time."""

    def __init__(self, layers: nn.ModuleList, kept: Kept):
        self.kept, self.inner, self.inputs = kept, [0] * len(layers), 0
        for index, layer in enumerate(layers):
            layer.register_forward_pre_hook(self._enter(index))
            layer.register_forward_hook(self._leave(index))

    def _enter(self, index: int) -> Any:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            self.inputs += inputs[0].nbytes
            self.inner[index] = -self.kept.bytes

        return hook

    def _leave(self, index: int) -> Any:
        def hook(*_: Any) -> None:
            self.inner[index] += self.kept.bytes

        return hook

    @property
    def saved(self) -> int:
        """Bytes that need not be kept."""
        return sum(self.inner) - max(self.inner) - self.inputs


def budget_of(task: str, preset: str) -> Budget:
    """Run one training step of a preset on shapes."""
    network = network_on_meta(task, preset).train()
    _thaw(network, task, preset)
    trainable = {name: p.numel() for name, p in network.named_parameters() if p.requires_grad}
    loss, activations = dry_run(network, task, preset)
    assert loss.is_meta and loss.requires_grad and loss.shape == ()
    return Budget(
        task=task,
        preset=preset,
        parameters=sum(p.numel() for p in network.parameters()),
        trainable=sum(trainable.values()),
        trainable_without_encoder=sum(n for name, n in trainable.items() if not name.startswith("encoder.")),
        adapters=sum(n for name, n in trainable.items() if "lora_" in name),
        weights=_weight_bytes(network, sizes(task, preset)["language"].get("bits")),
        gradients=_GRADIENT_BYTES * sum(trainable.values()),
        optimiser=_ADAM_BYTES * sum(trainable.values()),
        activations=activations,
    )


def dry_run(network: nn.Module, task: str, preset: str) -> tuple[torch.Tensor, int]:
    """Forward and loss of one image and question on shapes: the loss, and the bytes kept for its backward pass."""
    side_px = sizes(task, preset)["image_px"]
    image_BCHW = torch.empty(1, 3, side_px, side_px, device="meta")
    prompt = [1, *[IMAGE_ID] * image_tokens(task, preset), *[5] * QUESTION_TOKENS]
    ids = torch.tensor([prompt + [6] * ANSWER_TOKENS])
    targets = torch.where(torch.arange(ids.shape[1]) < len(prompt), IGNORE_ID, ids)
    objects = torch.zeros(1, dtype=torch.long)
    batch = {
        "label": torch.zeros(1, 1, side_px, side_px),
        "valid": torch.ones(1, 1, side_px, side_px),
        "present": torch.ones(1),
        "kind_index": objects,
        "state_index": objects,
        "obj_image": objects,
        "target_ids": targets,
        "boxes_xyxy_norm": torch.tensor([[0.2, 0.2, 0.6, 0.6]]),
    }
    kept = Kept(network)
    recomputed = _recomputed(network, kept)
    causal_11TT = torch.ones(1, 1, ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    asked = (image_BCHW, [(side_px, side_px)], ids, causal_11TT)
    with ValuesBesideShapes(), saved_tensors_hooks(kept.pack, lambda tensor: tensor):
        if isinstance(network, MediSee):
            at_KN = torch.arange(len(network.candidate_ids))[None] + len(prompt) - 1
            output = network(*asked, candidate_at=at_KN, obj_image=objects, target_ids=targets)
            loss = MediSeeLoss(_WEIGHTS[task])(output, batch)
        else:
            output = network(*asked, targets < 0, obj_image=objects, target_ids=targets)
            loss = PRSMedLoss(_WEIGHTS[task])(output, batch)
    return loss, kept.bytes - (recomputed.saved if recomputed else 0)


def _recomputed(network: nn.Module, kept: Kept) -> Recomputed | None:
    """Checkpointing is switched off to see what its layers would keep, and counted instead."""
    model = network.language.model  # type: ignore[union-attr]
    if not model.model.gradient_checkpointing:
        return None
    model.gradient_checkpointing_disable()
    return Recomputed(model.model.layers, kept)


def _thaw(network: nn.Module, task: str, preset: str) -> None:
    """What learns in the last stage: by the preset's overlay; without one, everything that is not of a base."""
    if isinstance(network, MediSee):
        network.prompting.decoder.requires_grad_(True)
        return
    overlay = CONFIGS / f"preset_{'llava_med_7b' if is_llava(sizes(task, preset)) else preset}.json"
    if not overlay.is_file():
        return
    patterns = json.loads(overlay.read_text(encoding="utf-8"))["stages"][-1]["trainable"]
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(any(fnmatch(name, pattern) for pattern in patterns))


def _weight_bytes(network: nn.Module, bits: int | None) -> int:
    """Of all tensors; `bits` of a quantised row hold for the frozen linear layers of the language model.

    bitsandbytes keeps a float32 scale beside 64 weights in 4 bits, and beside each row in 8 bits.
    """
    whole = sum(tensor.nbytes for tensor in network.state_dict().values())
    if bits is None:
        return whole
    frozen = [
        parameter
        for name, parameter in network.language.model.model.layers.named_parameters()  # type: ignore[union-attr]
        if "base_layer" in name or ".mlp." in name
    ]
    scales = sum(4 * (parameter.numel() // 64 if bits == 4 else len(parameter)) for parameter in frozen)
    return whole + scales - sum(parameter.nbytes - parameter.numel() * bits // 8 for parameter in frozen)


def main(
    output: Annotated[Path | None, typer.Option("--json", help="Also write the numbers to this file.")] = None,
    batch: Annotated[int, typer.Option(help="Images a step.", min=1)] = 8,
) -> None:
    """Print the memory of a training step, and the counts of parameters, for every preset."""
    table = Table("task", "preset", "M parameters", "M trainable", "without encoder", "adapters", "GB weights",
                  "GB gradients and AdamW", "GB an image", f"GB at batch {batch}")  # fmt: skip
    budgets = [budget_of(task, preset) for task, preset in PRESETS]
    for one in budgets:
        counts = (one.parameters, one.trainable, one.trainable_without_encoder, one.adapters)
        memory = (one.weights, one.gradients + one.optimiser, one.activations, one.total(batch))
        table.add_row(
            one.task, one.preset, *(f"{count / 1e6:.2f}" for count in counts), *(f"{part / 1e9:.2f}" for part in memory)
        )
    Console(width=170).print(table)
    if output is not None:
        output.write_text(json.dumps([asdict(one) for one in budgets], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
