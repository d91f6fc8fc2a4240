"""`prsmed data`: index own images, generate phantoms, write questions and count them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from prsmed.cli.options import DATASET_HELP, advance

app = typer.Typer(
    no_args_is_help=True, help="Make data folders: index your own images, generate phantoms, write questions."
)


@app.command("build")
def data_build(
    sources: Annotated[
        list[str],
        typer.Argument(help="[NAME=]PATH: a folder with images/ and masks/, of DICOM, of SA-Med2D-20M, or a CSV."),
    ],
    out: Annotated[Path, typer.Option(help="Where manifest.jsonl goes. Images stay where they are.")],
    modality: Annotated[str | None, typer.Option(help="For rows that do not say it.")] = None,
    target: Annotated[str | None, typer.Option(help='For rows that do not say it, for example "polyp".')] = None,
    kind: Annotated[str, typer.Option(help="lesion or organ.")] = "lesion",
    seed: Annotated[int, typer.Option(help="Of the split, where none is given.")] = 0,
    image_column: Annotated[str, typer.Option()] = "image",
    mask_column: Annotated[str, typer.Option()] = "mask",
    id_column: Annotated[str, typer.Option()] = "id",
    modality_column: Annotated[str, typer.Option()] = "modality",
    target_column: Annotated[str, typer.Option()] = "target",
    kind_column: Annotated[str, typer.Option()] = "kind",
    laterality_column: Annotated[str, typer.Option()] = "laterality",
    label_column: Annotated[
        str | None, typer.Option(help="Label of a volume, segment of a SEG, region of an RTSTRUCT.")
    ] = None,
    dataset_column: Annotated[str, typer.Option()] = "dataset",
    group_column: Annotated[str, typer.Option(help="Patient or video: stays on one side of the split.")] = "group",
    split_column: Annotated[str, typer.Option()] = "split",
    licence_column: Annotated[str, typer.Option()] = "licence",
) -> None:
    """Index images and masks where they lie: manifest.jsonl, roots.json and a refusal report.

    prsmed data build polyps=/data/polyps --out data/polyps --modality endoscopy --target polyp

    A bad row never stops the build: it is refused with file, reason and remedy.
    """
    from prsmed.data.build import build
    from prsmed.data.sources.table import Columns

    columns = Columns(
        image=image_column,
        mask=mask_column,
        id=id_column,
        modality=modality_column,
        target=target_column,
        kind=kind_column,
        laterality=laterality_column,
        label=label_column,
        dataset=dataset_column,
        group=group_column,
        split=split_column,
        licence=licence_column,
    )
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("reading images and masks", total=None)
        report = build(
            sources,
            out,
            modality=modality,
            target=target,
            kind=kind,
            columns=columns,
            seed=seed,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    table = Table(
        "data set", "modality", "split", "kind", "targets", "of them negative", title=f"{report.images} images"
    )
    for count in report.counts:
        cells = (count.dataset, count.modality or "unknown", count.split, count.kind, count.targets, count.negatives)
        table.add_row(*map(str, cells))
    console = Console()
    console.print(table)
    console.print(
        f"{len(report.refusals)} rows refused, {report.merged_groups} groups merged; manifest in {report.path}"
    )
    for refusal in report.refusals[:10]:
        console.print(f"refused: {refusal.case_id or refusal.file}: {refusal.reason}; {refusal.remedy}")


@app.command("phantoms")
def data_phantoms(
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    pictures: Annotated[int, typer.Option(help="Pictures over the six modalities.")] = 1600,
    volumes: Annotated[int, typer.Option(help="CT and MRI volumes.")] = 24,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Generate phantom images of the six modalities with lesions and masks, as an ordinary data folder."""
    from prsmed.data.phantoms import write_phantoms

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("making phantoms", total=None)
        folder = write_phantoms(
            out,
            pictures=pictures,
            volumes=volumes,
            seed=seed,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    typer.echo(f"written: {folder}/manifest.jsonl")


@app.command("queries")
def data_queries(
    dataset_dir: Annotated[Path, typer.Argument(help=DATASET_HELP)],
    seed: Annotated[int, typer.Option(help="Another seed draws other facts, places and phrasings.")] = 0,
    naming: Annotated[int, typer.Option(help="Questions by name, for each target and length.")] = 1,
    attribute: Annotated[int, typer.Option(help="Questions by what it is or does, alike.")] = 2,
    location: Annotated[int, typer.Option(help="Questions by where it lies, alike.")] = 2,
    absent: Annotated[int, typer.Option(help="Things asked for that a picture does not show.")] = 2,
    split: Annotated[
        str | None, typer.Option(help="Only of this split; the others keep theirs.", show_default="all")
    ] = None,
) -> None:
    """Write questions and answers into a manifest, by rule: from the class table and from the masks.

    prsmed data queries data/samed

    prsmed data queries data/samed --split train --attribute 4 --location 6 --absent 6

    Replaces the questions that it wrote before; those from elsewhere stay.
    """
    from prsmed.scenes import write_queries
    from prsmed.text.queries import QueryCounts

    with Progress(console=Console(stderr=True)) as bar:
        counts = QueryCounts(naming, attribute, location, absent)
        report = write_queries(
            dataset_dir, seed=seed, counts=counts, split=split, progress=advance(bar, "reading masks")
        )
    asked = [case for case in report.cases if split in (None, case.split)]
    number = sum(len(case.queries) for case in asked)
    typer.echo(f"{number} questions on {len(asked)} images; see `prsmed data stats {dataset_dir}`")
    if report.unknown:
        typer.echo(f"only asked for by name, no facts are known: {', '.join(report.unknown)}")
    if report.skipped:
        typer.echo(f"without questions: {len(report.skipped)} cases, the first {report.skipped[0]}")


@app.command("stats")
def data_stats(
    dataset_dir: Annotated[Path, typer.Argument(help=DATASET_HELP)],
    out: Annotated[Path | None, typer.Option(help="Where statistics.json and .png go.", show_default="there")] = None,
) -> None:
    """Count the questions of a manifest by kind, class and word: statistics.json and a figure."""
    from prsmed.data.manifest import read_manifest
    from prsmed.report.query_statistics import write_statistics

    folder = out or dataset_dir
    statistics = write_statistics(read_manifest(dataset_dir).cases, folder)
    table = Table("split", "kind", "short", "long", title=f"{statistics['queries']} questions")
    for split, kinds in statistics["splits"].items():
        for kind, lengths in kinds.items():
            table.add_row(split, kind, *(str(number) for number in lengths.values()))
    Console().print(table)
    typer.echo(f"written: {folder}/statistics.json and statistics.png")
