"""A folder with DICOM series and the SEG and RTSTRUCT files that name them, in whatever order they lie."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from pathlib import Path

from prsmed.data.manifest import Refusal
from prsmed.data.readers.dicom_files import is_dicom
from prsmed.data.readers.dicom_header import DicomHeader, read_dicom_header
from prsmed.data.sources import Defaults, Found, Listing
from prsmed.errors import DataError
from prsmed.types import Case, MaskRef, Target

_NO_IMAGES = ("", "SR", "PR", "KO", "REG", "RTPLAN", "RTDOSE", "RTRECORD", "DOC", "ANN")
"""DICOM modalities without pixels of a patient to ask about; they are passed over, as are files that are not DICOM."""


def is_dicom_tree(folder: Path) -> bool:
    """Whether any file below a folder is DICOM."""
    return any(is_dicom(path) for path in folder.rglob("*") if path.is_file())


def list_dicom_tree(folder: Path, defaults: Defaults) -> Listing:
    """One case for each image series that a SEG or an RTSTRUCT names; a target for each segment or region.

    A target is called as its segment or region, in lower case, unless the source names one target and the series has
    one region only. Its group is the patient's pseudonym. A series that nothing was drawn on is refused, because only
    an empty mask says that there is nothing to see.
    """
    listing = Listing()
    series: dict[str, list[tuple[Path, DicomHeader]]] = defaultdict(list)
    masks: dict[str, list[tuple[Path, DicomHeader]]] = defaultdict(list)
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        try:
            header = read_dicom_header(path)
        except DataError as error:
            listing.refusals.append(Refusal.from_error(error, path.relative_to(folder).as_posix()))
            continue
        if header is None or header.modality in _NO_IMAGES:
            continue
        if header.mask_kind is None:
            series[header.series_uid].append((path, header))
        for uid in header.source_series if header.mask_kind else ():
            masks[uid].append((path, header))
    for uid, files in series.items():
        _list_series(folder, uid, files, masks.pop(uid, []), defaults, listing)
    for path, header in (item for items in masks.values() for item in items):
        where = path.relative_to(folder).as_posix()
        reason = f"{where}: the series it was drawn on ({header.source_series[0]}) is not here; add it or drop the file"
        listing.refusals.append(Refusal.from_error(reason, where))
    return listing


def _list_series(
    folder: Path,
    uid: str,
    files: list[tuple[Path, DicomHeader]],
    masks: list[tuple[Path, DicomHeader]],
    defaults: Defaults,
    listing: Listing,
) -> None:
    first, header = files[0]
    common = first if len(files) == 1 else Path(os.path.commonpath([path.parent for path, _ in files]))
    image = common.relative_to(folder).as_posix()
    case_id = f"{defaults.name}/series-{hashlib.sha256(uid.encode()).hexdigest()[:12]}"
    regions = [(path, mask, *region) for path, mask in masks for region in mask.regions]
    reason = None
    if not regions:
        reason = f"{image}: no SEG or RTSTRUCT names this series; add one (an empty segment says that nothing is there)"
    elif defaults.target and len(regions) > 1:
        names = ", ".join(name for *_, name in regions)
        reason = f"{image}: has the regions {names}, not one; leave out --target, or choose in a table"
    if reason:
        listing.refusals.append(Refusal.from_error(reason, image, case_id=case_id))
        return
    masks_of: dict[str, list[MaskRef]] = defaultdict(list)  # segments of one name are one target
    for path, mask, selector, name in regions:
        target = defaults.target or name.strip().lower() or f"region {selector}"
        masks_of[target].append(MaskRef(mask.mask_kind or "", path.relative_to(folder).as_posix(), selector))
    targets = tuple(
        Target(f"t{number}", name, defaults.kind, masks=tuple(refs))
        for number, (name, refs) in enumerate(masks_of.items(), start=1)
    )
    case = Case(
        id=case_id,
        image=image,
        modality=defaults.modality,
        group=f"{defaults.name}/{header.patient or case_id}",
        root=defaults.root,
        dataset=defaults.name,
        series_uid=uid,
        targets=targets,
    )
    listing.found.append(Found(case, rows=(None,) * len(targets)))
