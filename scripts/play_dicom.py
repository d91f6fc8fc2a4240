"""Plays a client that asks about DICOM series: a folder among the studies, or the series of a DICOMweb service.

Needs the label environment; Orthanc with its DICOMweb plugin is such a service. It gains a SEG for every series asked.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from prsmed.data.readers import read_volume
from scripts.label_server import RunningServer, report, running_server
from scripts.play_slicer import check_label


def play_series(server: RunningServer, image_id: str, out: Path) -> None:
    """Ask without naming a modality, download the series as the client sees it, save a label on its grid."""
    client = server.client
    question = "Where is the lung nodule?"
    started = time.perf_counter()
    reply = client.ask(out, {"question": question}, image_id=image_id)
    seconds = round(time.perf_counter() - started, 2)
    assert reply.params["modality_source"].startswith("stated by the file")
    image = client.download_image(image_id, out)
    if not image.name.endswith(".nii.gz"):
        report("picture", seconds=seconds, modality=reply.params["modality"], answer=repr(reply.params["answer"][:60]))
        return
    voxels = check_label(reply.label, image, reply.params)
    report("series", shape=read_volume(image).array.shape, voxels=voxels, seconds=seconds)
    client.save_label(image_id, reply.label, question=question, answer="As drawn.")
    saved = next(server.home.parent.rglob(f"labels/final/{image_id}.nii.gz"))
    np.testing.assert_array_equal(read_volume(saved).array, read_volume(reply.label).array)


def main(
    series: Annotated[Path | None, typer.Option(help="Folder of one DICOM series.")] = None,
    service: Annotated[str, typer.Option(help="Address of a DICOMweb service.")] = "",
    count: Annotated[int, typer.Option(help="How many series of the service are asked about.")] = 3,
) -> None:
    """Play one of the two, or both."""
    for studies in filter(None, (series, service)):
        with tempfile.TemporaryDirectory() as folder:
            root, out = Path(folder) / "studies", Path(folder) / "out"
            out.mkdir()
            if isinstance(studies, Path):
                shutil.copytree(studies, root / "series.of.one")
            with running_server(root if isinstance(studies, Path) else studies, Path(folder) / "home") as server:
                image_ids = list(server.client._json("GET", "/datastore/?output=all")["objects"])[:count]
                assert image_ids, "no series is listed"
                for image_id in image_ids:
                    play_series(server, image_id, out)
                completed = server.client.info()["datastore"]["completed"]
                written = server.log.read_text() + server.audit()
                assert not [image_id for image_id in image_ids if image_id in written], "an id is in the logs"
                report("finished", studies=type(studies).__name__, asked=len(image_ids), labelled=completed)


if __name__ == "__main__":
    typer.run(main)
