"""Time and memory of one training step, beside the released pattern and plain transformers training.

    python -m scripts.benchmark_step [--batch-size 8] [--rounds 10] [--out step.json]

Same weights, same inputs, one process. `ours`: one pass, logits at the answer only. `released pattern`: two passes of
the language model, one for the states that condition the mask and one for the loss, which covers every position.
`plain transformers`: one pass of the causal model with `labels`, logits at every position.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from bundle.engines import PassInferer, build_trainable
from prsmed.geometry import Geometry
from prsmed.losses import PRSMedLoss
from prsmed.models.presets import build_text
from prsmed.models.prs_med import PRSMed
from prsmed.text.encode import pad_batch
from scripts.benchmarking import alternate, peak_memory_mib, report

QUESTION = "Report the location of the lung opacity on this X-ray image, please."
ANSWER = "The lung opacity lies in the upper left part of the image."
WEIGHTS = {"bce": 1.0, "dice": 1.0, "ce": 0.5, "presence": 0.2, "evidence": 0.5}


def make_variants(preset: str, batch_size: int) -> dict[str, Callable[[], Any]]:
    """One training step (forward, loss, backward) of each pattern on the same network and batch."""
    text = build_text("prs_med", preset)
    network = build_trainable("prs_med", preset, text=text, device="cpu", seed=0)
    assert isinstance(network, PRSMed)
    side = network.encoder.frame.size_px
    generator = torch.Generator().manual_seed(0)
    encoded = [text.encode(QUESTION, ANSWER)] * batch_size
    batch: dict[str, Any] = {
        "image": torch.rand(batch_size, 3, side, side, generator=generator),
        "label": (torch.rand(batch_size, 1, side, side, generator=generator) > 0.9).float(),
        "valid": torch.ones(batch_size, 1, side, side),
        "obj_image": torch.arange(batch_size),
        "kind_index": torch.zeros(batch_size, dtype=torch.long),
        "present": torch.ones(batch_size),
        "geometry": [Geometry((side, side), (side, side))] * batch_size,
        **pad_batch(encoded, text.pad_id),
    }
    loss_function, inferer = PRSMedLoss(WEIGHTS), PassInferer()

    def step(extra: Callable[[], torch.Tensor] | None) -> None:
        network.zero_grad(set_to_none=True)
        if extra is None:
            loss = loss_function(inferer(batch, network), batch)
        else:
            loss = loss_function(inferer({**batch, "target_ids": None}, network), batch) + extra()
        loss.backward()

    def causal_loss() -> torch.Tensor:
        _, image_embeds, _ = network.encode_image(batch["image"], [g.canonical_hw_px for g in batch["geometry"]])
        embeds = network.language.merge(batch["input_ids"], image_embeds)
        labels = batch["input_ids"].masked_fill(batch["input_ids"] < 0, -100)
        model = network.language.model
        return model(inputs_embeds=embeds, attention_mask=batch["attention_mask"], labels=labels).loss

    def plain() -> None:
        network.zero_grad(set_to_none=True)
        causal_loss().backward()

    return {
        "ours": partial(step, None),
        "released pattern": partial(step, causal_loss),
        "plain transformers (text only, no mask)": plain,
    }


def main(
    preset: str = "tiny",
    batch_size: int = 8,
    rounds: int = 10,
    out: Annotated[Path | None, typer.Option(help="Write the figures as JSON.")] = None,
) -> None:
    """Print ratios of one training step."""
    make = partial(make_variants, preset, batch_size)
    variants = make()
    seconds = alternate(variants, rounds=rounds)
    memory = {name: peak_memory_mib(make, name) for name in variants}
    report(f"training step, {preset}, batch {batch_size}", seconds, memory, ours="ours", out=out)


if __name__ == "__main__":
    typer.run(main)
