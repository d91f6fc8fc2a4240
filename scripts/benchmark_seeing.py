"""Time and memory of one MediSee question: free and forced, with the explanation and without, and without a decision.

    python -m scripts.benchmark_seeing IMAGE "QUESTION" [--modality ct] [--model medisee] [--rounds 10] [--out FILE]

From an image that is read, scaled and encoded. Only a question that is answered with a mask takes all of these steps.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from prsmed.answers import answer_batch
from prsmed.models.medisee import MODES
from prsmed.predictor import Predictor
from scripts.benchmarking import alternate, peak_memory_mib, report

OURS = "free, mask and explanation"


def make_variants(image: Path, question: str, modality: str, model: str) -> dict[str, Callable[[], Any]]:
    """What one question is asked for, by name."""
    predictor = Predictor.load(model)
    network, text, targets = predictor.network, predictor.text, predictor.info["targets"]
    session = predictor.open(image, modality=modality)
    picture_BCHW = session.canonical[None]
    batch = {**predictor.questions(question, 1), "image": picture_BCHW, "geometry": [session.geometry]}
    encoded = network.encode_image(picture_BCHW, [session.geometry.canonical_hw_px])
    prefix = network.language.read_prefix(text.prefix_ids[None], encoded.image_embeds)

    def ask(mode: str, **choices: Any) -> None:
        network.mode = mode
        answer_batch(network, batch, text, encoded=encoded, prefix=prefix, **choices)

    variants = {}
    for mode in MODES:
        variants[f"{mode}, mask and explanation"] = partial(ask, mode, names=targets)
        variants[f"{mode}, mask"] = partial(ask, mode, names=targets, words=False)
    variants["free, mask and explanation, nothing decided"] = partial(ask, "free")
    return variants


def main(
    image: Path,
    question: str,
    modality: str = "ct",
    model: str = "medisee",
    rounds: int = 10,
    out: Annotated[Path | None, typer.Option(help="Write the figures as JSON.")] = None,
) -> None:
    """Print ratios of one question."""
    make = partial(make_variants, image, question, modality, model)
    variants = make()
    seconds = alternate(variants, rounds=rounds)
    memory = {name: peak_memory_mib(make, name) for name in variants}
    report(f'"{question}", {model}', seconds, memory, ours=OURS, out=out)


if __name__ == "__main__":
    typer.run(main)
