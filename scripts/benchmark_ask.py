"""Time and memory of one question, beside generate-then-forward-again and plain transformers generation.

    python -m scripts.benchmark_ask [--model tiny] [--rounds 20] [--out ask.json]

Same weights, same image, same number of words. Two tables: time to the mask, and time to the whole sentence. The
released pattern generates the sentence first, then encodes the image again and runs a second full pass for the mask.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer

from prsmed.data.phantoms import make_picture
from prsmed.data.writers.picture import write_picture
from prsmed.predictor import Predictor
from prsmed.text.encode import pad_batch
from scripts.benchmarking import alternate, peak_memory_mib, report

QUESTION = "Where is the lung nodule in this CT image?"


def make_variants(model: str, goal: str) -> dict[str, Callable[[], Any]]:
    """Ways to reach the mask, or the whole sentence, each from an image that is read and scaled but not encoded."""
    predictor = Predictor.load(model)
    network, text = predictor.network, predictor.text
    with TemporaryDirectory() as folder:
        path = Path(folder) / "phantom.png"
        write_picture(path, make_picture("ct", 0, 3)[0])
        session = predictor.open(path, modality="ct")
    image, hw_px = session.canonical[None], [session.geometry.canonical_hw_px]
    ids = pad_batch([text.encode(QUESTION)], text.pad_id)
    prompt = (ids["input_ids"], ids["attention_mask"], ids["prompt_mask"])
    words = len(text.tokenizer(session.ask(QUESTION).model_text)["input_ids"]) + 1

    @torch.no_grad()
    def forward(*, keep_cache: bool = True, encoded: Any = None, prefix: Any = None) -> Any:
        return network(image, hw_px, *prompt, keep_cache=keep_cache, encoded=encoded, prefix=prefix)

    @torch.no_grad()
    def ours(**known: Any) -> None:
        network.continue_text(forward(**known), ids["attention_mask"], max_new_tokens=words, end_id=text.end_id)

    @torch.no_grad()
    def generate() -> None:
        image_embeds = network.encode_image(image, hw_px).image_embeds
        embeds = network.language.merge(ids["input_ids"], image_embeds)
        network.language.model.generate(
            inputs_embeds=embeds,
            attention_mask=ids["attention_mask"],
            max_new_tokens=words,
            min_new_tokens=words,
            do_sample=False,
            pad_token_id=text.pad_id,
        )

    def released() -> None:
        generate()
        forward(keep_cache=False)

    with torch.no_grad():
        encoded = network.encode_image(image, hw_px)
    known = {"encoded": encoded, "prefix": network.language.read_prefix(text.prefix_ids[None], encoded.image_embeds)}
    first, second = (forward, partial(forward, **known)) if goal == "mask" else (ours, partial(ours, **known))
    variants = {"ours": first, "ours, second question": second, "generate, then forward again": released}
    return variants if goal == "mask" else {**variants, "plain transformers generate": generate}


def main(
    model: str = "tiny",
    rounds: int = 20,
    out: Annotated[Path | None, typer.Option(help="Write the figures as JSON, one file per goal.")] = None,
) -> None:
    """Print ratios of one question."""
    for goal in ("mask", "sentence"):
        make = partial(make_variants, model, goal)
        variants = make()
        seconds = alternate(variants, rounds=rounds)
        memory = {name: peak_memory_mib(make, name) for name in variants}
        target = out.with_stem(f"{out.stem}_{goal}") if out else None
        report(f"one question, time to the {goal}, {model}", seconds, memory, ours="ours", out=target)


if __name__ == "__main__":
    typer.run(main)
