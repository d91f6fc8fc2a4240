"""The questions of a manifest: what each picture shows, read from its masks, and what is asked about it."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from prsmed.data.manifest import Manifest, read_manifest, read_refusals, write_manifest
from prsmed.data.slicing import volume_frame
from prsmed.data.volumes import open_image, open_target
from prsmed.errors import DataError
from prsmed.geometry import Geometry, PatientAxes
from prsmed.text.classes import load_classes
from prsmed.text.findings import find
from prsmed.text.queries import MADE_BY, QueryCounts, Scene, Seen, facts_split, make_queries
from prsmed.text.query_frames import load_frames
from prsmed.types import Case, Query, SourceImage, Target

DEFAULT_COUNTS = QueryCounts()

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class QueryReport:
    """What `write_queries` made.

    Attributes:
        cases: the rows as written.
        unknown: names without an entry in the class table, sorted: they are only asked for by name.
        skipped: ids of cases that got no questions, because a file cannot be read or the row is a whole volume.
    """

    cases: tuple[Case, ...]
    unknown: tuple[str, ...]
    skipped: tuple[str, ...]


def write_queries(
    dataset_dir: str | Path,
    *,
    seed: int = 0,
    counts: QueryCounts = DEFAULT_COUNTS,
    split: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> QueryReport:
    """Write questions into a manifest, one set a picture; earlier ones made by these rules are replaced.

    A picture's questions depend on its row, its masks, those of its volume, and the seed, not on the other rows.
    Questions from elsewhere stay.

    Args:
        dataset_dir: a folder with `manifest.jsonl`.
        seed: another seed draws other facts, places and phrasings.
        counts: how many questions of each sort.
        split: the only one whose questions are written, "train" for more to learn from; the others keep theirs.
        progress: called with (pictures done, pictures in all).

    Raises:
        DataError: no usable manifest, no case of that split, or a folder that cannot be written.
        RequestError: no such split.
    """
    manifest = read_manifest(dataset_dir)
    if split and not manifest.split(split):
        raise DataError(f"{dataset_dir}: no case of split {split!r}; leave the split away, or build with one")
    absent = absent_targets(manifest.cases)
    cases, skipped = [], []
    for done, case in enumerate(manifest.cases, start=1):
        if split not in (None, case.split):
            cases.append(case)
            continue
        others = tuple(query for query in case.queries if not (query.made_by or "").startswith(MADE_BY))
        made: tuple[Query, ...] = ()
        try:
            scene = scene_of(manifest, case, absent[case.id])
            made = _ask(scene, case, seed, counts)
        except DataError as error:
            log.warning("no questions for case %s: %s", case.id, error)
            skipped.append(case.id)
        cases.append(replace(case, queries=(*others, *_with_free_ids(made, others))))
        if progress:
            progress(done, len(manifest.cases))
    refusals = {*read_refusals(manifest.folder), *manifest.refusals}
    write_manifest(manifest.folder, cases, manifest.roots, sorted(refusals, key=lambda refusal: refusal.file))
    names = {target.name for case in cases for target in case.targets}
    unknown = sorted(name for name in names if load_classes().of(name) is None)
    return QueryReport(tuple(cases), tuple(unknown), tuple(skipped))


def scene_of(manifest: Manifest, case: Case, absent: Sequence[Target] = ()) -> Scene:
    """What a case's picture shows: a finding over all parts of each target; empty targets are absent.

    Args:
        absent: what else is certainly not there.

    Raises:
        DataError: a file that cannot be read, or a row that is a volume and names no slice of it.
    """
    image = open_image(manifest, case)
    axes, take = _view(case, image)
    objects, empty, hw_px = [], [], (0, 0)
    for target in case.targets:
        mask_HW = take(open_target(manifest, case, target, image))
        hw_px = mask_HW.shape
        findings = find(mask_HW, per_component=False, min_area_px=1, patient_axes=axes)
        if findings:
            objects.append(Seen(target, findings[0]))
        else:
            empty.append(target)
    names = {target.name for target in case.targets}
    others = tuple(name for name in case.source.get("listed", ()) if name not in names)
    return Scene(case.modality, hw_px, tuple(objects), others, (*empty, *absent))


def absent_targets(cases: Iterable[Case]) -> dict[str, list[Target]]:
    """By case id, what its volume shows elsewhere but certainly not in this slice; a target without id and masks.

    Collections drop tiny masks, so a slice without a mask is no proof. What the index lists neither for the slice nor
    for its neighbours, but for other slices of the volume, is taken as absent. Cases that do not say which slice of
    which volume they are have nothing here.
    """
    volumes: dict[str, list[Case]] = defaultdict(list)
    absent: dict[str, list[Target]] = {}
    for case in cases:
        absent[case.id] = []
        if case.source.get("volume") and isinstance(case.source.get("index"), int):
            volumes[f"{case.root}|{case.source['volume']}"].append(case)
    for slices in volumes.values():
        slices.sort(key=lambda case: case.source["index"])
        known: Mapping[str, Target] = {target.name: target for case in slices for target in case.targets}
        listed = [set(case.source.get("listed", ())) for case in slices]
        for index, case in enumerate(slices):
            near = set().union(*listed[max(index - 1, 0) : index + 2])
            absent[case.id] = [replace(known[name], id="", masks=()) for name in sorted(known) if name not in near]
    return absent


def _view(case: Case, image: SourceImage) -> tuple[PatientAxes | None, Callable[[np.ndarray], np.ndarray]]:
    """How the picture lies in the patient, and what takes it out of a mask on the stored grid."""
    if not image.is_volume:
        hw_px = (image.array.shape[0], image.array.shape[1])
        geometry = Geometry(hw_px, hw_px, picture_axes=image.patient_axes, laterality=image.laterality)
        return geometry.patient_axes, lambda mask: mask
    if case.slice is None:
        raise DataError(f"case {case.id}: is a whole volume; write rows that name a slice")
    frame = volume_frame(image, case.slice)
    return frame.patient_axes(image.laterality or ""), frame.take


def _ask(scene: Scene, case: Case, seed: int, counts: QueryCounts) -> tuple[Query, ...]:
    digest = hashlib.sha256(f"{seed}|{case.id}".encode("utf-8", "backslashreplace")).digest()
    split = facts_split(case.split or "train")
    return make_queries(
        scene,
        split=split,
        classes=load_classes(),
        frames=load_frames(split),
        rng=np.random.default_rng(int.from_bytes(digest[:8], "little")),
        counts=counts,
    )


def _with_free_ids(made: Sequence[Query], others: Sequence[Query]) -> list[Query]:
    """The questions with ids that the others do not have."""
    taken = {query.id for query in others}
    free = (f"q{number}" for number in range(1, len(made) + len(taken) + 1) if f"q{number}" not in taken)
    return [replace(query, id=query_id) for query, query_id in zip(made, free, strict=False)]
