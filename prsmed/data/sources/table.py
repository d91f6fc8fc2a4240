"""A CSV table: one row per image and mask, columns named by options."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

from prsmed.data.manifest import Refusal
from prsmed.data.readers import image_suffix
from prsmed.data.rows import case_from_json, case_to_json
from prsmed.data.sources import Defaults, Found, Listing, dicom_header, mask_ref
from prsmed.errors import DataError
from prsmed.types import Case, Target

TABLE_SUFFIXES = (".csv", ".tsv")

_DELIMITERS = ",;\t"
_IDENTITY = ("modality", "dataset", "group", "split", "source")


@dataclass(frozen=True)
class Columns:
    """The table's column for each fact. A column under its default name may be absent, one you name must be there.

    `image` and `mask` are required and hold paths relative to the table's folder; an image may be a folder of DICOM
    files. `label` chooses one label of a volume, one segment of a SEG by its number, or one region of an RTSTRUCT by
    its name; it has no default name, because tables call many things a label. `licence` goes into the manifest.
    """

    image: str = "image"
    mask: str = "mask"
    id: str = "id"
    modality: str = "modality"
    target: str = "target"
    kind: str = "kind"
    laterality: str = "laterality"
    label: str | None = None
    dataset: str = "dataset"
    group: str = "group"
    split: str = "split"
    licence: str = "licence"


def list_table(path: Path, defaults: Defaults, columns: Columns) -> Listing:
    """Turn the rows of a UTF-8 table (comma, semicolon or tab) into cases.

    Rows of one image become one case: a target per name, kind and laterality, with all its masks. An empty cell falls
    back to the option given for the source; a row that still lacks its image, mask or target name is refused. An image
    without a group belongs to its DICOM patient's pseudonym, or else is a group of its own.

    Raises:
        DataError: an unreadable table, or a column that is required or was named and is not there.
    """
    listing = Listing()
    by_image: dict[str, Found] = {}
    image_of_id: dict[str, str] = {}
    for number, row in _read_rows(path, columns):
        case_id = row.get(columns.id) or None
        try:
            case = _row_to_case(_cells(row, columns, number), path.parent, defaults, number)
            case_id = case.id
            if image_of_id.setdefault(case.id, case.image) != case.image:
                raise DataError(
                    f"row {number}: id is already that of {image_of_id[case.id]}; give each image its own id"
                )
            earlier = by_image.get(case.image)
            by_image[case.image] = _join(earlier, case, number) if earlier else Found(case, (number,))
        except DataError as error:
            listing.refusals.append(Refusal.from_error(error, path.name, number, case_id))
    listing.found = list(by_image.values())
    return listing


def _read_rows(path: Path, columns: Columns) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each row with its line number, after a look at the header."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); correct the path") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 ({error.reason}); save the table as CSV UTF-8") from error
    first_line = text.split("\n", 1)[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(_DELIMITERS, key=first_line.count))
    try:
        _check_header(reader.fieldnames or [], columns, path)
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num} is not CSV ({error}); repair it") from error


def _check_header(header: Sequence[str], columns: Columns, path: Path) -> None:
    for column in fields(Columns):
        wanted = getattr(columns, column.name)
        if wanted and wanted not in header and (column.name in ("image", "mask") or wanted != column.default):
            raise DataError(
                f"{path}: has no column {wanted!r} for the {column.name}, it has {', '.join(header) or 'none'}; "
                f"name the right one with --{column.name}-column"
            )


def _cells(row: dict[str, Any], columns: Columns, number: int) -> dict[str, str]:
    """The row's cells by the names of `Columns`' fields; an absent cell is ""."""
    if None in row:  # where csv puts the cells beyond the header
        raise DataError(f"row {number}: has more cells than the header; quote cells that hold the delimiter")
    return {name: (row.get(column) or "").strip() if column else "" for name, column in asdict(columns).items()}


def _row_to_case(cells: dict[str, str], folder: Path, defaults: Defaults, number: int) -> Case:
    """One row as a case with one target, checked as a manifest row is."""
    image, mask = _posix(cells["image"]), _posix(cells["mask"])
    name = cells["target"] or defaults.target
    if not image or not mask:
        empty = "image" if not image else "mask"
        raise DataError(f"row {number}: {empty} is empty; fill it in (a mask that is all 0 says that nothing is there)")
    if not name:
        raise DataError(f"row {number}: has no target name; fill it in or give one with --target")
    image_name = image.removesuffix(image_suffix(image) or "")
    header = dicom_header(folder, image)
    target = Target(
        id="t1",
        name=name,
        kind=cells["kind"].lower() or defaults.kind,
        laterality=cells["laterality"].lower() or None,
        masks=(mask_ref(folder, mask, cells["label"]),),
    )
    case = Case(
        id=f"{defaults.name}/{cells['id'] or image_name}",
        image=image,
        modality=cells["modality"].lower() or defaults.modality,
        group=f"{defaults.name}/{cells['group'] or (header and header.patient) or image_name}",
        split=cells["split"].lower() or None,
        root=defaults.root,
        dataset=cells["dataset"] or defaults.name,
        targets=(target,),
        source={"licence": cells["licence"]} if cells["licence"] else {},
    )
    _check(case)
    return case


def _check(case: Case) -> None:
    """Raise what reading the row from a manifest would raise; a label that is not settled yet counts as 1."""
    targets = tuple(
        replace(target, masks=tuple(replace(mask, selector=mask.selector or 1) for mask in target.masks))
        for target in case.targets
    )
    case_from_json(case_to_json(replace(case, targets=targets)))


def _join(earlier: Found, case: Case, number: int) -> Found:
    """The earlier rows of an image with one more: a new target, or one more mask of a target it has."""
    for fact in _IDENTITY:
        known, new = getattr(earlier.case, fact), getattr(case, fact)
        if known != new:
            raise DataError(
                f"row {number}: {fact} of {case.image} is {new!r}, an earlier row says {known!r}; make the rows agree"
            )
    targets = list(earlier.case.targets)
    (new_target,) = case.targets
    for index, target in enumerate(targets):
        if (target.name, target.kind, target.laterality) == (new_target.name, new_target.kind, new_target.laterality):
            targets[index] = replace(target, masks=target.masks + new_target.masks)
            return Found(replace(earlier.case, targets=tuple(targets)), earlier.rows)
    targets.append(replace(new_target, id=f"t{len(targets) + 1}"))
    return Found(replace(earlier.case, targets=tuple(targets)), (*earlier.rows, number))


def _posix(path: str) -> str:
    """`./a//b.png` as `a/b.png`, so that two spellings of one image meet; '..' stays, to be refused."""
    return PurePosixPath(path).as_posix() if path else ""
