"""Make a trained model folder a shipped one: half precision, plain file names, its licence beside it.

python -m scripts.export_model runs/NAME/best models/tiny --name tiny
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from prsmed.data.writers.atomic import write_atomically
from prsmed.models.checkpoints import INFO_FILE, read_info, save_model, sha256_of, verified_file
from prsmed.models.presets import load_network

PLAIN_NAMES = {"weights": "model.safetensors", "tokenizer": "tokenizer.json"}


def main(
    source: Annotated[Path, typer.Argument(help="A model folder that training wrote.")],
    out: Annotated[Path, typer.Argument(help="The folder to ship.")],
    name: Annotated[str, typer.Option(help="What the model is called in answers.")],
    caution: Annotated[
        list[str] | None, typer.Option(help="MODALITY=TEXT (or any=TEXT): shown with its answers; may be repeated.")
    ] = None,
    threshold: Annotated[list[str] | None, typer.Option(help="NAME=NUMBER: a threshold of the model, changed.")] = None,
) -> None:
    """Write SOURCE to OUT as float16, under file names that do not change from version to version."""
    network, _ = load_network(source)
    network.requires_grad_(False)
    info = {key: value for key, value in read_info(source).items() if key not in (*PLAIN_NAMES, "training_state")}
    cautions: dict[str, list[str]] = {}
    for entry in caution or []:
        modality, _, words = entry.partition("=")
        cautions.setdefault(modality, []).append(words)
    changed = {cut: float(value) for cut, _, value in (entry.partition("=") for entry in threshold or [])}
    info = {**info, "name": name, "cautions": cautions, "thresholds": {**info["thresholds"], **changed}}
    save_model(out, network, info, tokenizer_file=verified_file(source, "tokenizer"), half=True)
    content = json.loads((out / INFO_FILE).read_text(encoding="utf-8"))
    for key, plain in PLAIN_NAMES.items():
        (out / content[key]["file"]).replace(out / plain)
        content[key] = {"file": plain, "sha256": sha256_of(out / plain)}
    write_atomically(out / INFO_FILE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    size_mb = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    typer.echo(f"{out}: {size_mb:.1f} MB, weights sha256 {content['weights']['sha256']}")


if __name__ == "__main__":
    typer.run(main)
