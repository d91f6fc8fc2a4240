"""Put a SAM that was downloaded by hand into the cache of base models, after checking every tensor.

python -m scripts.adopt_sam tinysam tinysam_42.3.pth
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from prsmed.errors import PrsmedError
from prsmed.models.adopted import adopt_sam


def main(
    name: Annotated[str, typer.Argument(help="tinysam, mobile_sam, medsam or sam_vit_b.")],
    file: Annotated[Path, typer.Argument(help="The published .pth or .pt file.")],
) -> None:
    """Copy FILE to where presets look for NAME."""
    try:
        typer.echo(str(adopt_sam(name, file)))
    except PrsmedError as error:
        Console(stderr=True).print(f"adopt_sam: {error}", style="red")
        raise typer.Exit(1) from error


if __name__ == "__main__":
    typer.run(main)
