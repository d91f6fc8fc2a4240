"""Plays 3D Slicer against the real label server: as its MONAI Label module, and as our own module.

The one uses the client library that Slicer's module uses, the other the logic in bundle/slicer. Needs the label
environment (`make label-check`).

Each step is asserted: the label map lies on the grid of its image, the answer belongs to the question, a new model
answers only after it was accepted.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from monailabel.client import MONAILabelClient

from prsmed.data.readers import read_volume
from prsmed.data.writers.nifti import write_mask_like
from scripts.label_server import RunningServer, report, running_server

# what the stock module adds to the options of its table
_STOCK = {"result_extension": ".nrrd", "result_dtype": "uint16", "result_compress": False}
_HOSTILE_LOOKING = "Where is the lung nodule #2, $HOME, @x and %y?"


def check_label(label: Path, image: Path, params: dict[str, Any]) -> int:
    """Assert that a label map lies on its image's grid and agrees with what is told; returns its voxels."""
    labels, source = read_volume(label), read_volume(image)
    assert labels.array.shape == source.array.shape, (labels.array.shape, source.array.shape)
    assert labels.affine_ijk_to_ras is not None and source.affine_ijk_to_ras is not None
    np.testing.assert_allclose(labels.affine_ijk_to_ras, source.affine_ijk_to_ras, atol=1e-4)
    assert set(np.unique(labels.array)) <= {0, 1}
    voxels = int(labels.array.sum())
    assert bool(voxels) == params["present"] == bool(params["label_names"])
    return voxels


def play_stock(server: RunningServer, image_id: str, image: Path, modality: str, out: Path) -> None:
    """The stock module: info, upload, infer by session and by id, next sample."""
    client = MONAILabelClient(server.client.url, tmpdir=str(out), client_id="user-xyz")
    config = client.info()["models"]["prsmed"]["config"]
    untouched = {key: value[0] if isinstance(value, list) else value for key, value in config.items()}
    session = client.create_session(str(image))["session_id"]
    for by, place in (("session", {"image_id": "", "session_id": session}), ("id", {"image_id": image_id})):
        started = time.perf_counter()
        options = {**untouched, "modality": modality, "question": _HOSTILE_LOOKING, **_STOCK}
        label, params = client.infer("prsmed", params=options, **place)
        assert params["question"] == _HOSTILE_LOOKING
        voxels = check_label(Path(label), image, params)
        seconds = round(time.perf_counter() - started, 2)
        report(f"stock client, {image_id}", by=by, voxels=voxels, seconds=seconds)
    sample = client.next_sample("random", {})
    assert sample["id"] in {path.name.removesuffix(".nii.gz") for path in server.studies.glob("*.nii.gz")}


def play_own(server: RunningServer, image_id: str, image: Path, modality: str, out: Path) -> None:
    """Our module's logic: a volume, its key slice, and its first slice."""
    client = server.client
    asked = {"question": "Where is the brain tumour?", "modality": modality}
    reply = client.ask(out, asked, image_id=image_id)
    report(f"own module, {image_id}", slice="all", voxels=check_label(reply.label, image, reply.params))
    key = reply.params["key_slice"]["index"]
    session = client.upload(image)
    for index in (key, 0):
        reply = client.ask(out, {**asked, "axis": "axial", "slice": index}, session_id=session)
        voxels = check_label(reply.label, image, reply.params)
        report(f"own module, {image_id}", slice=index, voxels=voxels)
        assert set(np.nonzero(read_volume(reply.label).array)[2]) <= {index}


def play_empty(server: RunningServer, out: Path) -> None:
    """A volume of air, in which nothing is visible: an empty label map on its grid, with its sentence."""
    image = out / "air.nii.gz"
    source = read_volume(next(server.studies.glob("*.nii.gz")))
    write_mask_like(image, np.zeros(source.array.shape, bool), source)
    reply = server.client.ask(
        out, {"question": "Where is the lung nodule?", "modality": "ct"}, session_id=server.client.upload(image)
    )
    voxels = check_label(reply.label, image, reply.params)
    report("empty volume", voxels=voxels, answer=repr(reply.params["answer"]))
    assert voxels == 0


def play_correction(server: RunningServer, images: dict[str, str], out: Path, max_epochs: int) -> None:
    """Save corrected labels, train, and serve the new model: only after it was accepted."""
    client = server.client
    for image_id, modality in images.items():
        question = f"Where is the {'brain tumour' if modality == 'mri' else 'lung nodule'}?"
        reply = client.ask(out, {"question": question, "modality": modality}, image_id=image_id)
        client.save_label(image_id, reply.label, question=question, answer="As drawn.", modality=modality)
        saved = read_volume(server.studies / "labels/final" / f"{image_id}.nii.gz")
        np.testing.assert_array_equal(saved.array, read_volume(reply.label).array)
    before = reply.params["model"]["weights_sha256"]
    client.train(max_epochs)
    started = time.perf_counter()
    while (status := client.training())["status"] in ("SUBMITTED", "RUNNING"):
        time.sleep(1)
    assert status["status"] == "DONE", status
    candidate = client.candidates()[-1]
    assert not candidate["serving"] and candidate["weights_sha256"] != before
    question = {"question": question, "modality": modality}
    assert client.ask(out, question, image_id=image_id).params["model"]["weights_sha256"] == before
    client.accept(candidate["run"])
    after = client.ask(out, question, image_id=image_id).params["model"]["weights_sha256"]
    assert after == candidate["weights_sha256"]
    report("training", seconds=round(time.perf_counter() - started, 1), served=after[:12], score=candidate.get("score"))
    assert (server.home / "mlruns.db").exists()
    client.accept("initial")
    assert client.ask(out, question, image_id=image_id).params["model"]["weights_sha256"] == before


def play_batch(server: RunningServer, images: dict[str, str]) -> None:
    """Ask one question of every image of the studies."""
    client = server.client
    client._json("POST", "/batch/infer/prsmed?images=all", {"question": "Where is the lung nodule?", "modality": "ct"})
    while (status := client._json("GET", "/batch/infer"))["status"] in ("SUBMITTED", "RUNNING"):
        time.sleep(1)
    assert status["status"] == "DONE", status
    written = sorted(path.name for path in (server.studies / "labels/original").glob("*.nrrd"))
    assert len(written) == len(images), written
    until = time.monotonic() + 20  # the server hears of them from the folder
    while client.info()["datastore"]["label_tags"].get("original") != len(images):
        assert time.monotonic() < until
        time.sleep(0.5)
    report("batch", labels=len(written))


def main(
    volumes: Annotated[Path, typer.Argument(help="Folder with brain1_image.nii.gz and nsclc_ct_image.nii.gz.")],
    max_epochs: Annotated[int, typer.Option()] = 1,
) -> None:
    """Play everything against one server on copies of the volumes."""
    images = {"brain1_image": "mri", "nsclc_ct_image": "ct"}
    with tempfile.TemporaryDirectory() as folder:
        studies, out = Path(folder) / "studies", Path(folder) / "out"
        studies.mkdir()
        out.mkdir()
        for image_id in images:
            shutil.copyfile(volumes / f"{image_id}.nii.gz", studies / f"{image_id}.nii.gz")
        with running_server(studies, Path(folder) / "home") as server:
            for image_id, modality in images.items():
                image = studies / f"{image_id}.nii.gz"
                play_stock(server, image_id, image, modality, out)
                play_own(server, image_id, image, modality, out)
            play_empty(server, out)
            play_batch(server, images)
            play_correction(server, images, out, max_epochs)
            written = server.log.read_text() + server.audit()
            leaked = [word for word in (*images, "brain tumour", "$HOME") if word in written]
            assert not leaked, f"{leaked} in the logs"
    report("finished", logs="free of ids and questions")


if __name__ == "__main__":
    typer.run(main)
