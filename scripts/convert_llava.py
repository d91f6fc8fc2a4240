"""Convert LLaVA-Med, LLaVA-1.5 or LLaVA-1.6 from the original checkpoint layout, shard by shard.

python -m scripts.convert_llava llava-med-v1.5-mistral-7b llava_med_7b
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from prsmed.errors import PrsmedError
from prsmed.models.bases import cache_folder
from prsmed.models.llava_conversion import convert_llava


def main(
    source: Annotated[Path, typer.Argument(help="Folder of the original checkpoint, as downloaded.")],
    name: Annotated[
        str, typer.Argument(help="What presets call it: llava_med_7b, llava_1_5_7b, llava_1_6_mistral_7b.")
    ],
    clip: Annotated[
        Path | None, typer.Option(help="A CLIP folder, for checkpoints without their vision tower.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where it goes; default: the cache of base models.")] = None,
    shard_mb: Annotated[int, typer.Option(help="Largest piece kept in memory and written as one file.", min=1)] = 1000,
) -> None:
    """Write SOURCE as a Hugging Face folder that the presets find by NAME."""
    console = Console(stderr=True)
    target = out or cache_folder() / "bases" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        convert_llava(source, target, clip=clip, shard_bytes=shard_mb * 10**6, progress=console.print)
    except PrsmedError as error:
        console.print(f"convert_llava: {error}", style="red")
        raise typer.Exit(1) from error
    typer.echo(str(target))


if __name__ == "__main__":
    typer.run(main)
