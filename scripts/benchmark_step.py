"""Time and memory of one training step, beside the released pattern and plain transformers training.

    python -m scripts.benchmark_step [--batch-size 8] [--rounds 10] [--out step.json]
    python -m scripts.benchmark_step --preset small --config configs/preset_small.json
    python -m scripts.benchmark_step --compiled

With an overlay the network learns as in its last stage, and where that keeps features, `ours` reads them from disk.

Same weights, same inputs, one process. `ours`: one pass, logits at the answer only. `released pattern`: two passes of
the language model, one for the states that condition the mask and one for the loss, which covers every position, and
the image is encoded in each.
`plain transformers`: one pass of the causal model with `labels`, logits at every position.
With `--compiled`, `ours` stands beside itself as `torch.compile` runs it; compiling counts in no round.
"""

from __future__ import annotations

import atexit
import copy
import json
import shutil
import time
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Annotated, Any

import torch
import typer

from bundle.compiling import compile_parts
from bundle.engines import PassInferer, build_trainable, mixed_precision
from prsmed.geometry import Geometry
from prsmed.losses import PRSMedLoss
from prsmed.models.feature_cache import keep_maps
from prsmed.models.presets import build_text
from prsmed.models.prs_med import PRSMed
from prsmed.text.encode import pad_batch
from scripts.benchmarking import alternate, peak_memory_mib, report

QUESTION = "Report the location of the lung opacity on this X-ray image, please."
ANSWER = "The lung opacity lies in the upper left part of the image."
WEIGHTS = {"bce": 1.0, "dice": 1.0, "ce": 0.5, "presence": 0.2, "evidence": 0.5, "zone": 0.5}


def make_variants(
    preset: str, batch_size: int, overlay: Mapping[str, Any], compiled: bool
) -> dict[str, Callable[[], Any]]:
    """One training step (forward, loss, backward) of each pattern on the same network and batch."""
    text = build_text("prs_med", preset)
    language_dtype = overlay.get("language_dtype")
    network = build_trainable("prs_med", preset, text=text, device="cpu", seed=0, language_dtype=language_dtype)
    assert isinstance(network, PRSMed)
    if "stages" in overlay:
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(any(fnmatch(name, pattern) for pattern in overlay["stages"][-1]["trainable"]))
    if "feature_cache" in overlay:
        folder = mkdtemp()
        atexit.register(shutil.rmtree, folder)
        keep_maps(network.encoder, folder)
    kept = network.encoder.cache
    side = network.encoder.frame.size_px
    generator = torch.Generator().manual_seed(0)
    encoded = [text.encode(QUESTION, ANSWER)] * batch_size
    batch: dict[str, Any] = {
        "image": torch.rand(batch_size, 3, side, side, generator=generator),
        "label": (torch.rand(batch_size, 1, side, side, generator=generator) > 0.9).float(),
        "valid": torch.ones(batch_size, 1, side, side),
        "obj_image": torch.arange(batch_size),
        "kind_index": torch.zeros(batch_size, dtype=torch.long),
        "state_index": torch.zeros(batch_size, dtype=torch.long),
        "present": torch.ones(batch_size),
        "geometry": [Geometry((side, side), (side, side))] * batch_size,
        **pad_batch(encoded, text.pad_id),
    }
    loss_function, inferer = PRSMedLoss(WEIGHTS), PassInferer()

    def step(network: PRSMed, extra: Callable[[], torch.Tensor] | None) -> float:
        network.zero_grad(set_to_none=True)
        network.encoder.cache = kept if extra is None else None
        if extra is None:
            loss = loss_function(inferer(batch, network), batch)
        else:
            loss = loss_function(inferer({**batch, "target_ids": None}, network), batch) + extra()
        loss.backward()
        return float(loss.detach())

    def causal_loss() -> torch.Tensor:
        hw_px = [geometry.canonical_hw_px for geometry in batch["geometry"]]
        image_embeds = network.encode_image(batch["image"], hw_px).image_embeds
        embeds = network.language.merge(batch["input_ids"], image_embeds)
        labels = batch["input_ids"].masked_fill(batch["input_ids"] < 0, -100)
        model = network.language.model
        with mixed_precision(network, batch["image"]):
            return model(inputs_embeds=embeds, attention_mask=batch["attention_mask"], labels=labels).loss

    def plain() -> None:
        network.zero_grad(set_to_none=True)
        network.encoder.cache = None
        causal_loss().backward()

    if compiled:
        twin = copy.deepcopy(network)
        compile_parts(twin, enabled=True, encoder=kept is None)
        return {"compiled": partial(step, twin, None), "ours": partial(step, network, None)}
    return {
        "ours": partial(step, network, None),
        "released pattern": partial(step, network, causal_loss),
        "plain transformers (text only, no mask)": plain,
    }


def main(
    preset: str = "tiny",
    batch_size: int = 8,
    rounds: int = 10,
    config: Annotated[Path | None, typer.Option(help="The preset's overlay.")] = None,
    compiled: Annotated[bool, typer.Option("--compiled", help="Compare with torch.compile instead.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the figures as JSON.")] = None,
) -> None:
    """Print ratios of one training step."""
    overlay = json.loads(config.read_text(encoding="utf-8")) if config else {}
    make = partial(make_variants, preset, batch_size, overlay, compiled)
    variants = make()
    if compiled:
        started = time.perf_counter()
        loss = variants["compiled"]()
        seconds = time.perf_counter() - started
        typer.echo(f"first compiled step: {seconds:.1f} s; loss {loss:.6f}, not compiled {variants['ours']():.6f}")
    timings = alternate(variants, rounds=rounds)
    memory = {name: peak_memory_mib(make, name) for name in variants}
    report(f"training step, {preset}, batch {batch_size}", timings, memory, ours=next(iter(variants)), out=out)


if __name__ == "__main__":
    typer.run(main)
