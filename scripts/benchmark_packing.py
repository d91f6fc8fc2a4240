"""Time and memory of one MediSee training step: questions of a picture in one sequence, beside one sequence each.

    python -m scripts.benchmark_packing [--preset small] [--config configs/preset_small.json] [--pictures 2]
    python -m scripts.benchmark_packing --preset small_coarse --config configs/preset_small.json \\
        --config configs/medisee_coarse.json --stage words --explained 1

Same weights, same questions, one process; maps of the frozen encoder are at hand, as from the feature cache. With
configs the language model is held as in training, and with one of their stages the same learns. What the ratio would be
if only tokens cost anything is printed, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from bundle.engines import build_trainable, mixed_precision
from prsmed.losses import MediSeeLoss
from prsmed.models.encoders import EncodedImage
from prsmed.models.medisee import MediSee
from prsmed.models.presets import build_text
from prsmed.text.encode import TextEncoder, word_ids
from prsmed.text.packing import pack_batch
from scripts.benchmarking import alternate, peak_memory_mib, report

NAME = "gallbladder"
QUESTION = "In this CT image, which organ stores bile between meals? A hint: it is also a pear-shaped sac."
ANSWER = "This is the gallbladder: it stores bile between meals; and it is a pear-shaped sac."
WEIGHTS = {"ce": 1.0, "bce": 2.0, "dice": 0.5, "coarse": 2.0, "named": 2.0, "recall": 1.0, "l1": 1.0, "giou": 1.0}


def make_batches(text: TextEncoder, pictures: int, questions: int, explained: int) -> dict[str, dict[str, Any]]:
    """The same questions in one sequence a picture, and in one each; the first ones have answers in words."""
    answers = [ANSWER if number < explained else None for number in range(questions)]
    turns = [text.encode(QUESTION, answer, points=True) for answer in answers]
    return {
        "packed": pack_batch([turns] * pictures, text),
        "separate": pack_batch([[turn] for turn in turns] * pictures, text),
    }


def make_variants(
    preset: str,
    batches: dict[str, dict[str, Any]],
    *,
    pictures: int,
    questions: int,
    language_dtype: str | None,
    learning: Sequence[str],
) -> dict[str, Callable[[], Any]]:
    """One training step (forward, loss, backward) of both ways on the same network."""
    text = build_text("medisee", preset)
    network = build_trainable("medisee", preset, text=text, device="cpu", seed=0, language_dtype=language_dtype)
    assert isinstance(network, MediSee)
    for name, parameter in network.named_parameters():
        if learning:
            parameter.requires_grad_(any(fnmatch(name, pattern) for pattern in learning))
        elif name.startswith("prompting.decoder."):
            parameter.requires_grad_(True)
    frame = network.encoder.frame
    side, cells = frame.size_px, frame.size_px // network.encoder.stride
    features = torch.randn(pictures, network.encoder.channels, cells, cells)
    label, hw_px = torch.zeros(pictures * questions, 1, side, side), (side, side)
    loss_function, name_ids = MediSeeLoss(WEIGHTS), word_ids([NAME] * len(label), text.tokenizer)
    network.train()  # what rests is known only now

    def step(name: str) -> None:
        network.zero_grad(set_to_none=True)
        batch = batches[name]
        rows = torch.arange(pictures).repeat_interleave(len(batch["input_ids"]) // pictures)
        image, all_hw_px = torch.zeros(len(rows), 3, side, side), [hw_px] * len(rows)
        with mixed_precision(network, image):
            output = network(
                image,
                all_hw_px,
                batch["input_ids"],
                batch["attention_mask"],
                candidate_at=batch["candidate_at"],
                obj_image=batch["turn_image"],
                position_ids=batch["position_ids"],
                target_ids=batch["target_ids"],
                name_ids=name_ids,
                encoded=network.look(EncodedImage(features[rows], (), network.encoder.stride), image, all_hw_px),
            )
        truth = {
            "label": label,
            "valid": torch.ones_like(label),
            "boxes_xyxy_norm": torch.full((len(label), 4), 0.5),
            "obj_image": batch["turn_image"],
            "target_ids": batch["target_ids"],
        }
        loss_function(output, truth).backward()

    return {name: partial(step, name) for name in batches}


def main(
    preset: str = "small",
    pictures: int = 2,
    questions: int = 3,
    explained: Annotated[int, typer.Option(help="So many of the questions have answers in words.")] = 3,
    rounds: int = 5,
    config: Annotated[list[Path] | None, typer.Option(help="A config of the training; may be repeated.")] = None,
    stage: Annotated[str | None, typer.Option(help="A stage of these configs; default: all but the bases.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the figures as JSON.")] = None,
) -> None:
    """Print ratios of one training step."""
    settings: dict[str, Any] = {}
    for path in config or []:
        settings |= json.loads(path.read_text(encoding="utf-8"))
    stages = {entry["name"]: entry["trainable"] for entry in settings.get("stages", [])}
    if stage and stage not in stages:
        raise typer.BadParameter(f"{stage}: the configs have the stages {', '.join(stages) or 'none'}")
    batches = make_batches(build_text("medisee", preset), pictures, questions, explained)
    tokens = {name: batch["input_ids"].numel() for name, batch in batches.items()}
    typer.echo(f"tokens, packed / separate: {tokens['packed'] / tokens['separate']:.2f}")
    make = partial(
        make_variants,
        preset,
        batches,
        pictures=pictures,
        questions=questions,
        language_dtype=settings.get("language_dtype"),
        learning=stages[stage] if stage else (),
    )
    seconds = alternate(make(), rounds=rounds)
    memory = {name: peak_memory_mib(make, name) for name in seconds}
    title = f"MediSee training step, {preset}, {pictures} pictures with {questions} questions"
    report(title, seconds, memory, ours="packed", out=out)


if __name__ == "__main__":
    typer.run(main)
