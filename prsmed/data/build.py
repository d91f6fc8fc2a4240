"""Index data where it lies: list the sources, open every image and mask, split, write the manifest and the refusals."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prsmed.data.manifest import Manifest, Refusal, find_leaks, write_manifest, write_refusals
from prsmed.data.readers import read_image, read_target, sole_label
from prsmed.data.sources import Defaults, Found, Listing
from prsmed.data.sources.dicom_tree import is_dicom_tree, list_dicom_tree
from prsmed.data.sources.folder import IMAGES, list_folder
from prsmed.data.sources.sa_med2d import is_sa_med2d, list_sa_med2d
from prsmed.data.sources.table import TABLE_SUFFIXES, Columns, list_table
from prsmed.data.splits import assign_splits
from prsmed.errors import DataError, RequestError
from prsmed.types import MODALITIES, MODALITY_OF_DICOM, SPLITS, TARGET_KINDS, Case, SourceImage, Target

# an image that is in two given splits stays in the first of these, so that published test sets stay whole
_PROTECTED_FIRST = tuple(reversed(SPLITS))


@dataclass(frozen=True)
class TargetCount:
    """How many targets of one sort a manifest holds, and how many of them are negatives (empty masks)."""

    dataset: str
    modality: str | None
    split: str
    kind: str
    targets: int
    negatives: int


@dataclass(frozen=True)
class BuildReport:
    """What a build made.

    Attributes:
        path: the manifest folder.
        images: number of rows.
        counts: targets per data set, modality, split and kind, sorted.
        merged_groups: groups that were joined to another because they share a byte-identical image.
        refusals: what was left out, as in `refusals.jsonl`.
    """

    path: Path
    images: int
    counts: tuple[TargetCount, ...]
    merged_groups: int
    refusals: tuple[Refusal, ...]


@dataclass(frozen=True)
class _Checked:
    """A case whose files were opened, the line of its first target, and the ids of its empty targets."""

    case: Case
    row: int | None
    negative_ids: frozenset[str]


def build(
    sources: Sequence[str],
    out_dir: str | Path,
    *,
    modality: str | None = None,
    target: str | None = None,
    kind: str = "lesion",
    columns: Columns | None = None,
    seed: int = 0,
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    progress: Callable[[int, int], None] | None = None,
) -> BuildReport:
    """Write a manifest of one or more sources, without copying data.

    Every image and mask is opened and checked; what cannot be used goes into the refusal report and never stops the
    build. Byte-identical images are kept on one side: their groups are merged, and where their splits are given and
    differ, the copy in train (then in val) is refused. Groups that lie in two given splits lose the smaller side.

    Args:
        sources: "[NAME=]PATH": a folder with `images/` and `masks/`, one in SA-Med2D-20M's layout, a folder of DICOM
            series with SEG or RTSTRUCT, or a CSV table. NAME defaults to the folder's.
        out_dir: where the manifest is written; it may be the data's own folder.
        modality: of sources and rows that do not state one.
        target: name of what the masks show, where a row does not state it.
        kind: "lesion" or "organ", where a row does not state it.
        columns: a table's column names; default `Columns()`.
        seed: of the draw that gives cases without a split one.
        fractions: shares of train, val and test in that draw.
        progress: called with (images done, images in all).

    Raises:
        RequestError: an option or a source's name that makes no sense.
        DataError: a source that cannot be read at all, an output folder that cannot be written, or nothing usable.
    """
    _check_words(modality, kind)
    out = Path(out_dir)
    _require_writable(out)
    roots, listing = _list_sources(sources, out, modality, target, kind, columns or Columns())
    manifest = Manifest(out, (), roots)
    refusals = listing.refusals
    checked: list[_Checked] = []
    for done, found in enumerate(listing.found, start=1):
        opened = _open_case(manifest, found, refusals)
        checked += [opened] if opened else []
        if progress:
            progress(done, len(listing.found))
    grouped, merged_groups = _settle_identical(checked, refusals)
    kept = _drop(grouped, find_leaks(item.case for item in grouped), refusals)
    cases = assign_splits([item.case for item in kept], fractions, seed)
    if not cases:
        write_refusals(out, refusals)
        first = f"{refusals[0].reason}; {refusals[0].remedy}" if refusals else "the sources are empty; check the paths"
        raise DataError(f"{out}: nothing usable, {len(refusals)} refused (refusals.jsonl there); the first: {first}")
    write_manifest(out, cases, roots, refusals)
    counts = _count(cases, {item.case.id: item.negative_ids for item in kept})
    return BuildReport(out, len(cases), counts, merged_groups, tuple(refusals))


def _check_words(modality: str | None, kind: str) -> None:
    if modality is not None and modality not in MODALITIES:
        raise RequestError(f"modality is {modality!r}; use one of {', '.join(MODALITIES)}, or none")
    if kind not in TARGET_KINDS:
        raise RequestError(f"kind is {kind!r}; use one of {', '.join(TARGET_KINDS)}")


def _require_writable(folder: Path) -> None:
    """Fail before the long work, not after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror}); choose another output folder") from error


def _list_sources(
    sources: Sequence[str], out: Path, modality: str | None, target: str | None, kind: str, columns: Columns
) -> tuple[dict[str, Path], Listing]:
    """The root of each source, and all they hold together."""
    roots: dict[str, Path] = {}
    names: set[str] = set()
    total = Listing()
    for text in sources:
        name, path = _parse_source(text)
        folder = path.parent if path.is_file() else path
        if name in names:
            raise RequestError(f"source {text}: the name {name!r} is taken; give this source its own as NAME=PATH")
        names.add(name)
        root = "." if folder.resolve() == out.resolve() else name
        roots[root] = folder.resolve()
        listing = _list_source(path, Defaults(name, root, modality, target, kind), columns)
        total.found += listing.found
        total.refusals += listing.refusals
    return roots, total


def _parse_source(text: str) -> tuple[str, Path]:
    name, separator, rest = text.partition("=")
    if not separator or "/" in name or Path(text).exists():
        name, rest = "", text
    path = Path(rest).expanduser()
    return name or (path.parent if path.is_file() else path).resolve().name or "data", path


def _list_source(path: Path, defaults: Defaults, columns: Columns) -> Listing:
    if path.is_file() and path.suffix.lower() in TABLE_SUFFIXES:
        return list_table(path, defaults, columns)
    if is_sa_med2d(path):
        return list_sa_med2d(path, defaults)
    if (path / IMAGES).is_dir():
        return list_folder(path, defaults)
    if path.is_dir() and is_dicom_tree(path):
        return list_dicom_tree(path, defaults)
    raise DataError(
        f"{path}: is neither a folder with {IMAGES}/ and masks/, nor one of DICOM series, nor a table "
        f"({', '.join(TABLE_SUFFIXES)}); correct the path or arrange the data so"
    )


def _open_case(manifest: Manifest, found: Found, refusals: list[Refusal]) -> _Checked | None:
    """The case with the targets whose masks can be used and the hashes of its files; None where nothing can be."""
    case = found.case
    try:
        path = manifest.resolve(case, case.image)
        image = read_image(path, series_uid=case.series_uid if path.is_dir() else None)
        case = _with_facts_of(image, case)
    except DataError as error:
        refusals.append(Refusal.from_error(error, case.image, found.rows[0], case.id))
        return None
    targets: list[Target] = []
    negative_ids = set()
    for target, row in zip(case.targets, found.rows, strict=True):
        try:
            settled, is_negative = _open_target(manifest, case, target, image, found.check_mask)
        except DataError as error:
            refusals.append(Refusal.from_error(error, ", ".join(m.path for m in target.masks), row, case.id))
            continue
        targets.append(settled)
        negative_ids |= {target.id} if is_negative else set()
    if not targets:
        return None
    mask_paths = [manifest.resolve(case, mask.path) for target in targets for mask in target.masks]
    image_paths = [Path(file) for file in image.series.files] if image.series else [Path(image.path)]
    source = {**case.source, "sha256": _sha256(image_paths), "masks_sha256": _sha256(mask_paths)}
    return _Checked(replace(case, targets=tuple(targets), source=source), found.rows[0], frozenset(negative_ids))


def _with_facts_of(image: SourceImage, case: Case) -> Case:
    """The case with what its DICOM file states; a modality that somebody gave has to agree with it."""
    stated = MODALITY_OF_DICOM.get(image.dicom_modality or "")
    if stated and case.modality not in (None, stated):
        raise DataError(
            f"{case.image}: modality is given as {case.modality}, the file says {image.dicom_modality} ({stated});"
            " correct the table or the option"
        )
    return replace(
        case,
        modality=case.modality or stated,
        dicom_modality=image.dicom_modality,
        series_uid=image.series.series_uid if image.series else case.series_uid,
    )


def _open_target(
    manifest: Manifest,
    case: Case,
    target: Target,
    image: SourceImage,
    check_mask: Callable[[Path], None] | None,
) -> tuple[Target, bool]:
    """The target with its labels settled, and whether it is a negative."""
    masks = tuple(
        replace(mask, selector=sole_label(manifest.resolve(case, mask.path)))
        if mask.kind == "nifti" and mask.selector is None
        else mask
        for mask in target.masks
    )
    settled = replace(target, masks=masks)
    is_negative = not read_target(manifest, case, settled, image).any()
    if check_mask:
        for mask in masks:
            check_mask(manifest.resolve(case, mask.path))
    return settled, is_negative


def _sha256(paths: Sequence[Path]) -> str:
    """Of the files' bytes, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _settle_identical(checked: Sequence[_Checked], refusals: list[Refusal]) -> tuple[list[_Checked], int]:
    """Keep byte-identical images on one side: refuse what given splits contradict, merge the groups of the rest."""
    copies: dict[str, list[Case]] = defaultdict(list)
    for item in checked:
        copies[item.case.source["sha256"]].append(item.case)
    contradicted: dict[str, str] = {}
    merged_into: dict[str, str] = {}
    home_of: dict[str, tuple[str, Case]] = {}  # group of a refused copy: where its image stays, and as whose

    def find(group: str) -> str:
        while group in merged_into:
            group = merged_into[group]
        return group

    for cases in copies.values():
        given = {case.split for case in cases if case.split}
        home = next((split for split in _PROTECTED_FIRST if split in given), None)
        stays = [case for case in cases if case.split in (None, home)]
        for case in cases:
            if case not in stays:
                twin = next(other for other in stays if other.split == home)
                contradicted[case.id] = (
                    f"{case.image}: in {case.split}, is byte for byte the image of case {twin.id} in {home}; "
                    f"keep an image in one split only"
                )
                before = home_of.get(case.group)
                if before is None or _PROTECTED_FIRST.index(str(home)) < _PROTECTED_FIRST.index(before[0]):
                    home_of[case.group] = (str(home), twin)
        for case in stays[1:]:
            if find(case.group) != find(stays[0].group):
                merged_into[find(case.group)] = find(stays[0].group)
    for case in (item.case for item in checked if item.case.group in home_of and item.case.id not in contradicted):
        split, twin = home_of[case.group]  # a copy says that both groups are one: none of it may stay elsewhere
        if case.split not in (None, split):
            contradicted[case.id] = (
                f"{case.image}: in {case.split}, an image of its group is byte for byte that of case {twin.id} in"
                f" {split}; keep a group in one split only"
            )
        elif find(case.group) != find(twin.group):
            merged_into[find(case.group)] = find(twin.group)
    kept = _drop(checked, contradicted, refusals)
    return [replace(item, case=replace(item.case, group=find(item.case.group))) for item in kept], len(merged_into)


def _drop(items: Sequence[_Checked], reasons: dict[str, str], refusals: list[Refusal]) -> list[_Checked]:
    """The items whose id has no reason against it; the others become refusals."""
    for item in items:
        if item.case.id in reasons:
            refusals.append(Refusal.from_error(reasons[item.case.id], item.case.image, item.row, item.case.id))
    return [item for item in items if item.case.id not in reasons]


def _count(cases: Sequence[Case], negative_ids: dict[str, frozenset[str]]) -> tuple[TargetCount, ...]:
    targets: Counter[tuple[str, str, str, str]] = Counter()
    negatives: Counter[tuple[str, str, str, str]] = Counter()
    for case in cases:
        for target in case.targets:
            key = (case.dataset, case.modality or "", case.split or "", target.kind)
            targets[key] += 1
            negatives[key] += target.id in negative_ids[case.id]
    return tuple(
        TargetCount(dataset, modality or None, split, kind, targets[key], negatives[key])
        for key in sorted(targets)
        for dataset, modality, split, kind in [key]
    )
