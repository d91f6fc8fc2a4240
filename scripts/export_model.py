"""Make a trained model folder a shipped one: half precision, plain file names, its licence beside it.

python -m scripts.export_model runs/NAME/best models/tiny --name tiny
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from prsmed.data.writers.atomic import write_atomically
from prsmed.models.checkpoints import INFO_FILE, save_model, sha256_of, verified_file
from prsmed.predictor import Predictor

PLAIN_NAMES = {"weights": "model.safetensors", "tokenizer": "tokenizer.json"}


def main(
    source: Annotated[Path, typer.Argument(help="A model folder that training wrote.")],
    out: Annotated[Path, typer.Argument(help="The folder to ship.")],
    name: Annotated[str, typer.Option(help="What the model is called in answers.")],
) -> None:
    """Write SOURCE to OUT as float16, under file names that do not change from version to version."""
    predictor = Predictor.load(source)
    info = {key: value for key, value in predictor.info.items() if key not in (*PLAIN_NAMES, "training_state")}
    save_model(
        out, predictor.network, {**info, "name": name}, tokenizer_file=verified_file(source, "tokenizer"), half=True
    )
    content = json.loads((out / INFO_FILE).read_text(encoding="utf-8"))
    for key, plain in PLAIN_NAMES.items():
        (out / content[key]["file"]).replace(out / plain)
        content[key] = {"file": plain, "sha256": sha256_of(out / plain)}
    write_atomically(out / INFO_FILE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    size_mb = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    typer.echo(f"{out}: {size_mb:.1f} MB, weights sha256 {content['weights']['sha256']}")


if __name__ == "__main__":
    typer.run(main)
