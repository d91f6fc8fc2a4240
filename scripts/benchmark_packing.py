"""Time and memory of one MediSee training step: questions of a picture in one sequence, beside one sequence each.

    python -m scripts.benchmark_packing [--preset small] [--pictures 2] [--questions 3] [--rounds 5]

Same weights, same questions, one process; maps of the frozen encoder are at hand, as from the feature cache.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from bundle.engines import build_trainable
from prsmed.losses import MediSeeLoss
from prsmed.models.encoders import EncodedImage
from prsmed.models.medisee import MediSee
from prsmed.models.presets import build_text
from prsmed.text.packing import pack_batch
from scripts.benchmarking import alternate, peak_memory_mib, report

QUESTION = "In this CT image, which organ stores bile between meals? A hint: it is also a pear-shaped sac."
ANSWER = "This is the gallbladder: it stores bile between meals; and it is a pear-shaped sac."
WEIGHTS = {"ce": 1.0, "bce": 2.0, "dice": 0.5, "l1": 1.0, "giou": 1.0}


def make_variants(preset: str, pictures: int, questions: int) -> dict[str, Callable[[], Any]]:
    """One training step (forward, loss, backward) of both ways on the same network."""
    text = build_text("medisee", preset)
    network = build_trainable("medisee", preset, text=text, device="cpu", seed=0).train()
    assert isinstance(network, MediSee)
    for name, parameter in network.named_parameters():
        if name.startswith("prompting.decoder."):
            parameter.requires_grad_(True)
    frame = network.encoder.frame
    side, cells = frame.size_px, frame.size_px // network.encoder.stride
    features = torch.randn(pictures, network.encoder.channels, cells, cells)
    turn = text.encode(QUESTION, ANSWER, points=True)
    objects = pictures * questions
    batches = {
        "packed": pack_batch([[turn] * questions] * pictures, text),
        "separate": pack_batch([[turn]] * objects, text),
    }
    hw_px = (side, side)
    offsets = frame.patch_offsets(cells, [hw_px])
    loss_function = MediSeeLoss(WEIGHTS)

    def step(name: str) -> None:
        network.zero_grad(set_to_none=True)
        batch = batches[name]
        rows = torch.arange(pictures).repeat_interleave(len(batch["input_ids"]) // pictures)
        maps = EncodedImage(features[rows], (), network.encoder.stride)
        tower = torch.cat([maps.features, offsets.expand(len(rows), -1, -1, -1)], dim=1)
        output = network(
            torch.zeros(len(rows), 3, side, side),
            [hw_px] * len(rows),
            batch["input_ids"],
            batch["attention_mask"],
            candidate_at=batch["candidate_at"],
            obj_image=batch["turn_image"],
            position_ids=batch["position_ids"],
            target_ids=batch["target_ids"],
            encoded=(maps, network.language.embed_image(tower)),
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
    out: Annotated[Path | None, typer.Option(help="Write the figures as JSON.")] = None,
) -> None:
    """Print ratios of one training step."""
    make = partial(make_variants, preset, pictures, questions)
    seconds = alternate(make(), rounds=rounds)
    memory = {name: peak_memory_mib(make, name) for name in seconds}
    title = f"MediSee training step, {preset}, {pictures} pictures with {questions} questions"
    report(title, seconds, memory, ours="packed", out=out)


if __name__ == "__main__":
    typer.run(main)
