"""Many clients at once against the real label server, and a kill in the middle of an inference.

Needs the label environment (`make label-check`). Every answer is compared with the one that its image and question
got from the server when it had nothing else to do.
"""

from __future__ import annotations

import json
import shutil
import signal
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from prsmed.data.readers import read_volume
from prsmed.data.writers.nifti import write_nifti
from scripts.label_server import LabelServer, RunningServer, ServerError, report, running_server

_QUESTION = {"question": "Where is the lung nodule?", "modality": "ct"}


@dataclass
class Seen:
    """What the clients met."""

    seconds: list[float] = field(default_factory=list)
    info_seconds: list[float] = field(default_factory=list)
    resident_mb: list[float] = field(default_factory=list)
    refused: int = 0
    wrong: list[str] = field(default_factory=list)


def make_studies(volume: Path, studies: Path, count: int) -> dict[str, Path]:
    """Cuts of one volume, each with a grid of its own, so that answers cannot be mistaken for each other."""
    source = read_volume(volume)
    assert source.affine_ijk_to_ras is not None
    images = {}
    for number in range(count):
        affine = source.affine_ijk_to_ras.copy()
        affine[:3, 3] += 10 * number
        array_ijk = source.array[: source.array.shape[0] - number, :, : 8 + number]
        images[f"cut{number}"] = path = studies / f"cut{number}.nii.gz"
        write_nifti(path, np.ascontiguousarray(array_ijk), affine)
    return images


def facts(params: dict[str, Any], label: Path) -> tuple[Any, ...]:
    """What must be the same whenever this image is asked this question."""
    labels = read_volume(label)
    assert labels.affine_ijk_to_ras is not None
    origin = tuple(labels.affine_ijk_to_ras[:3, 3].round(3).tolist())
    return params["answer"], params["model_text"], labels.array.shape, origin, int(labels.array.sum())


def one_client(
    server: RunningServer, image_ids: list[str], expected: dict[str, Any], until: float, out: Path, seen: Seen
) -> None:
    """Ask about one image after the other until the time is over."""
    client = LabelServer(server.client.url, timeout_s=300)
    number = 0
    while time.monotonic() < until:
        image_id = image_ids[number % len(image_ids)]
        number += 1
        started = time.monotonic()
        try:
            reply = client.ask(out, _QUESTION, image_id=image_id)
        except ServerError as error:
            if not error.is_busy:
                seen.wrong.append(str(error))
            seen.refused += 1
            time.sleep(0.5)
            continue
        seen.seconds.append(time.monotonic() - started)
        if facts(reply.params, reply.label) != expected[image_id]:
            seen.wrong.append(image_id)


def watch(server: RunningServer, until: float, seen: Seen) -> None:
    """Ask for /info and look at the memory, once a second."""
    while time.monotonic() < until:
        started = time.monotonic()
        server.client.info()
        seen.info_seconds.append(time.monotonic() - started)
        seen.resident_mb.append(server.resident_mb())
        time.sleep(1)


def load(server: RunningServer, images: dict[str, Path], out: Path, *, clients: int, seconds: float) -> None:
    """Everybody at once."""
    expected = {}
    for image_id in images:
        reply = server.client.ask(out, _QUESTION, image_id=image_id)
        expected[image_id] = facts(reply.params, reply.label)
    assert len(set(expected.values())) == len(images)
    seen, until = Seen(), time.monotonic() + seconds
    threads = [threading.Thread(target=watch, args=(server, until, seen))]
    for number in range(clients):
        folder = out / str(number)
        folder.mkdir()
        order = list(images)[number:] + list(images)[:number]
        threads.append(threading.Thread(target=one_client, args=(server, order, expected, until, folder, seen)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    third = len(seen.resident_mb) // 3
    report(
        f"{clients} clients, {seconds:g} s",
        answers=len(seen.seconds),
        refused=seen.refused,
        wrong=len(seen.wrong),
        answer=spread(seen.seconds),
        info=spread(seen.info_seconds),
        peak_mb=server.peak_mb(),
        mb_first_third=round(max(seen.resident_mb[:third])),
        mb_last_third=round(max(seen.resident_mb[-third:])),
    )
    assert not seen.wrong, seen.wrong[:5]
    assert server.process.poll() is None


def spread(seconds: list[float]) -> str:
    """Median, 95th percentile and the longest."""
    cuts = statistics.quantiles(seconds, n=20, method="inclusive")
    return f"{statistics.median(seconds):.2f} / {cuts[18]:.2f} / {max(seconds):.2f} s"


def burst(server: RunningServer, image_id: str, out: Path, *, clients: int, waiting: int) -> None:
    """More at once than may wait: those that find no place are told so at once and in one sentence."""
    answered, busy = [], []

    def ask(number: int) -> None:
        folder = out / f"burst{number}"
        folder.mkdir()
        started = time.monotonic()
        try:
            server.client.ask(folder, _QUESTION, image_id=image_id)
            answered.append(number)
        except ServerError as error:
            assert error.is_busy, error
            busy.append((time.monotonic() - started, str(error)))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert busy and len(answered) >= 1 + waiting and len(answered) + len(busy) == clients, (answered, busy)
    slowest, said = max(busy)
    report(
        f"{clients} at once", answered=len(answered), busy=len(busy), told_within=f"{slowest:.2f} s", said=repr(said)
    )


def kill(server: RunningServer, image_id: str, out: Path) -> None:
    """End the server while it answers: nothing half written may lie in the studies."""
    failure: list[ServerError] = []

    def ask() -> None:
        try:
            LabelServer(server.client.url, timeout_s=60).ask(out, _QUESTION, image_id=image_id)
        except ServerError as error:
            failure.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.15)
    server.stop(signal.SIGKILL)
    thread.join()
    assert failure, "the answer was faster than the kill"
    left = [path.name for path in server.studies.rglob("*") if path.is_file()]
    assert not [name for name in left if name.endswith(".tmp")], left
    json.loads((server.studies / "datastore_v2.json").read_text())
    report("killed while it answered", client_was_told=str(failure[0])[:60], left=len(left))


def main(
    volume: Annotated[Path, typer.Argument(help="A CT volume, NIfTI.")],
    clients: Annotated[int, typer.Option()] = 8,
    seconds: Annotated[float, typer.Option()] = 120.0,
) -> None:
    """Load, kill, a clean start after it, and more questions than may wait."""
    with tempfile.TemporaryDirectory() as folder:
        studies, home, out = Path(folder) / "studies", Path(folder) / "home", Path(folder) / "out"
        studies.mkdir()
        out.mkdir()
        images = make_studies(volume, studies, clients)
        big = "big"
        shutil.copyfile(volume, studies / f"{big}.nii.gz")
        with running_server(studies, home) as server:
            load(server, images, out, clients=clients, seconds=seconds)
            kill(server, big, out)
        with running_server(studies, home, "--waiting", "4") as server:
            reply = server.client.ask(out, _QUESTION, image_id=big)
            report("started again", answer=repr(reply.params["answer"][:60]))
            burst(server, big, out, clients=2 * clients, waiting=4)


if __name__ == "__main__":
    typer.run(main)
