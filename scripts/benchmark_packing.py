"""Time and memory of one MediSee training step: questions of a picture in one sequence, beside one sequence each.

    python -m scripts.benchmark_packing [--preset small] [--config configs/preset_small.json] [--pictures 2]

Same weights, same questions, one process; maps of the frozen encoder are at hand, as from the feature cache. With an
overlay the language model is held as in training. What the ratio would be if only tokens cost anything is printed, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from bundle.engines import build_trainable, mixed_precision
from prsmed.losses import MediSeeLoss
from prsmed.models.encoders import EncodedImage
from prsmed.models.medisee import Looked, MediSee
from prsmed.models.presets import build_text
from prsmed.text.encode import TextEncoder
from prsmed.text.packing import pack_batch
from scripts.benchmarking import alternate, peak_memory_mib, report

QUESTION = "In this CT image, which organ stores bile between meals? A hint: it is also a pear-shaped sac."
ANSWER = "This is the gallbladder: it stores bile between meals; and it is a pear-shaped sac."
WEIGHTS = {"ce": 1.0, "bce": 2.0, "dice": 0.5, "l1": 1.0, "giou": 1.0}


def make_batches(text: TextEncoder, pictures: int, questions: int) -> dict[str, dict[str, torch.Tensor]]:
    """The same questions in one sequence a picture, and in one each."""
    turn = text.encode(QUESTION, ANSWER, points=True)
    return {
        "packed": pack_batch([[turn] * questions] * pictures, text),
        "separate": pack_batch([[turn]] * (pictures * questions), text),
    }


def make_variants(
    preset: str, pictures: int, questions: int, language_dtype: str | None
) -> dict[str, Callable[[], Any]]:
    """One training step (forward, loss, backward) of both ways on the same network."""
    text = build_text("medisee", preset)
    network = build_trainable("medisee", preset, text=text, device="cpu", seed=0, language_dtype=language_dtype).train()
    assert isinstance(network, MediSee)
    for name, parameter in network.named_parameters():
        if name.startswith("prompting.decoder."):
            parameter.requires_grad_(True)
    frame = network.encoder.frame
    side, cells = frame.size_px, frame.size_px // network.encoder.stride
    features = torch.randn(pictures, network.encoder.channels, cells, cells)
    objects, batches = pictures * questions, make_batches(text, pictures, questions)
    hw_px = (side, side)
    offsets = frame.patch_offsets(cells, [hw_px])
    loss_function = MediSeeLoss(WEIGHTS)

    def step(name: str) -> None:
        network.zero_grad(set_to_none=True)
        batch = batches[name]
        rows = torch.arange(pictures).repeat_interleave(len(batch["input_ids"]) // pictures)
        maps = EncodedImage(features[rows], (), network.encoder.stride)
        tower = torch.cat([maps.features, offsets.expand(len(rows), -1, -1, -1)], dim=1)
        image = torch.zeros(len(rows), 3, side, side)
        with mixed_precision(network, image):
            output = network(
                image,
                [hw_px] * len(rows),
                batch["input_ids"],
                batch["attention_mask"],
                candidate_at=batch["candidate_at"],
                obj_image=batch["turn_image"],
                position_ids=batch["position_ids"],
                target_ids=batch["target_ids"],
                encoded=Looked(maps, network.language.embed_image(tower), None),
            )
        label = torch.zeros(objects, 1, side, side)
        truth = {
            "label": label,
            "valid": torch.ones_like(label),
            "boxes_xyxy_norm": torch.full((objects, 4), 0.5),
            "obj_image": batch["turn_image"],
            "target_ids": batch["target_ids"],
        }
        loss_function(output, truth).backward()

    return {name: partial(step, name) for name in batches}


def main(
    preset: str = "small",
    pictures: int = 2,
    questions: int = 3,
    rounds: int = 5,
    config: Annotated[Path | None, typer.Option(help="The preset's overlay.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the figures as JSON.")] = None,
) -> None:
    """Print ratios of one training step."""
    overlay = json.loads(config.read_text(encoding="utf-8")) if config else {}
    tokens = {
        name: batch["input_ids"].numel()
        for name, batch in make_batches(build_text("medisee", preset), pictures, questions).items()
    }
    typer.echo(f"tokens, packed / separate: {tokens['packed'] / tokens['separate']:.2f}")
    make = partial(make_variants, preset, pictures, questions, overlay.get("language_dtype"))
    seconds = alternate(make(), rounds=rounds)
    memory = {name: peak_memory_mib(make, name) for name in seconds}
    title = f"MediSee training step, {preset}, {pictures} pictures with {questions} questions"
    report(title, seconds, memory, ours="packed", out=out)


if __name__ == "__main__":
    typer.run(main)
