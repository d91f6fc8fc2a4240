"""The `prsmed` command: thin, one function call per sub-command."""

from __future__ import annotations

import logging
import sys

import typer

from prsmed.cli import asking, data, scoring, weights
from prsmed.errors import PrsmedError
from prsmed.types import NOT_A_MEDICAL_DEVICE

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help=f"Ask a medical image where something is. {NOT_A_MEDICAL_DEVICE}",
)
for command in (asking.ask, asking.batch, scoring.evaluate, scoring.questions, scoring.compare):
    app.command()(command)
app.add_typer(data.app, name="data")
app.add_typer(weights.app, name="weights")


def main() -> None:
    """Entry point: errors made for people are printed in one line, without a traceback."""
    logging.getLogger("pydicom").setLevel(
        logging.CRITICAL
    )  # its messages quote paths and tags, which may name patients
    try:
        app()
    except PrsmedError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
