"""Low-rank adapters on a language model's attention (Hu et al. 2021), by peft."""

from __future__ import annotations

from collections.abc import Sequence

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn


def add_lora(
    model: nn.Module,
    *,
    rank: int = 16,
    alpha: int = 16,
    dropout: float = 0.05,
    targets: Sequence[str] = ("q_proj", "k_proj", "v_proj", "o_proj"),
) -> None:
    """Put adapters beside the named linear layers of `model`, in place; what was there is frozen.

    Hand over the language model alone: a vision tower has layers of the same names, and must not be adapted.
    """
    inject_adapter_in_model(
        LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(targets)), model
    )


def merge_lora(model: nn.Module) -> None:
    """Add every adapter into its layer and take it away, in place: same outputs, no extra work. For inference.

    Adapters beside quantised layers stay: rounded to so few steps, most of what they learned would be lost.
    """
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    for name, layer in layers:
        weight = layer.get_base_layer().weight
        assert isinstance(weight, Tensor)
        if not weight.is_floating_point():
            continue
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
