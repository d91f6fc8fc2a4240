"""A folder with `images/` and `masks/`: pairs by file name."""

from __future__ import annotations

import csv
import unicodedata
from pathlib import Path

from prsmed.data.manifest import Refusal
from prsmed.data.readers import image_suffix
from prsmed.data.sources import MAYBE_DICOM, Defaults, Found, Listing, dicom_header, mask_ref
from prsmed.errors import DataError
from prsmed.types import Case, Target

IMAGES, MASKS, GROUPS_FILE = "images", "masks", "groups.csv"

_MASK_ENDINGS = ("", "_mask", "_segmentation")


def list_folder(folder: Path, defaults: Defaults) -> Listing:
    """Pair `images/a.png` with `masks/a.png`, `a_mask.png` or `a_segmentation.png` (any readable formats).

    Sub-folders count as part of the name. One that holds DICOM files is itself an image: `images/a/` goes with
    `masks/a.nii.gz` or `masks/a/SEG.dcm`. An image's group is the one of `groups.csv` (columns image, group), else the
    DICOM patient's pseudonym, else its own name. An image without a mask is refused, because only an empty mask says
    that there is nothing to see.

    Raises:
        DataError: no target name, or an unreadable `groups.csv`.
    """
    if not defaults.target:
        raise DataError(f"{folder}: no name for what the masks show; give one with --target")
    listing = Listing()
    images = _by_stem(folder, IMAGES, listing)
    masks = _by_stem(folder, MASKS, listing)
    groups = _read_groups(folder / GROUPS_FILE)
    unused = set(masks)
    for stem, image in images.items():
        candidates = [stem + ending for ending in _MASK_ENDINGS if stem + ending in masks]
        unused.difference_update(candidates)
        if len(candidates) != 1:
            listing.refusals.append(
                _refuse_pairing(image, [masks[key] for key in candidates], f"{defaults.name}/{stem}")
            )
            continue
        try:
            listing.found.append(
                Found(_case(folder, stem, image, masks[candidates[0]], groups, defaults), rows=(None,))
            )
        except DataError as error:
            listing.refusals.append(Refusal.from_error(error, masks[candidates[0]], case_id=f"{defaults.name}/{stem}"))
    for stem in sorted(set(groups) - set(images)):
        reason = f"{GROUPS_FILE}: {stem} is no image in {IMAGES}/; write names as they are below that folder"
        listing.refusals.append(Refusal.from_error(reason, GROUPS_FILE))
    for stem in sorted(unused):
        reason = f"{masks[stem]}: no image of this name in {IMAGES}/; add the image or remove the mask"
        listing.refusals.append(Refusal.from_error(reason, masks[stem]))
    return listing


def _case(folder: Path, stem: str, image: str, mask: str, groups: dict[str, str], defaults: Defaults) -> Case:
    header = dicom_header(folder, image)
    assert defaults.target
    return Case(
        id=f"{defaults.name}/{stem}",
        image=image,
        modality=defaults.modality,
        group=f"{defaults.name}/{groups.get(stem) or (header and header.patient) or stem}",
        root=defaults.root,
        dataset=defaults.name,
        targets=(Target("t1", defaults.target, defaults.kind, masks=(mask_ref(folder, mask),)),),
    )


def _by_stem(folder: Path, part: str, listing: Listing) -> dict[str, str]:
    """Files under `folder/part` as stem to path relative to `folder`; stems are compared in one Unicode form."""
    paths: dict[str, str] = {}
    for path in sorted((folder / part).rglob("*")):
        if path.is_dir() or any(name.startswith(".") for name in path.relative_to(folder / part).parts):
            continue
        suffix = image_suffix(path)
        relative = path.relative_to(folder).as_posix()
        try:
            header = dicom_header(folder, relative)
            if suffix in MAYBE_DICOM and header is None:
                raise DataError(f"{relative}: this format is not read; convert it, or move it out of {part}/")
        except DataError as error:
            listing.refusals.append(Refusal.from_error(error, relative))
            continue
        # in a folder of its own, a series is an image, and a file with regions is the mask of that name
        is_named_by_folder = header and path.parent != folder / part and (header.is_of_slices or header.mask_kind)
        named = path.parent if is_named_by_folder else path
        relative = (path if header and header.mask_kind else named).relative_to(folder).as_posix()
        stem = named.relative_to(folder / part).as_posix()
        has_suffix = suffix and not is_named_by_folder and stem.lower().endswith(suffix)
        stem = _normal(stem[: -len(suffix)] if suffix and has_suffix else stem)
        if paths.setdefault(stem, relative) != relative:
            reason = f"{relative}: has the same name as {paths[stem]}; rename or remove one of the two"
            listing.refusals.append(Refusal.from_error(reason, relative))
    return paths


def _refuse_pairing(image: str, masks: list[str], case_id: str) -> Refusal:
    reason = (
        f"{image}: several masks fit, {', '.join(masks)}; keep one"
        if masks
        else f"{image}: no mask of this name in {MASKS}/; add one (an all-black mask says that nothing is there)"
    )
    return Refusal.from_error(reason, image, case_id=case_id)


def _read_groups(path: Path) -> dict[str, str]:
    """Stem to group of a `groups.csv`, whose image column holds names with or without their suffix."""
    if not path.exists():
        return {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            groups = {row["image"]: row["group"] for row in csv.DictReader(stream)}
    except (OSError, KeyError, ValueError, csv.Error) as error:
        raise DataError(
            f"{path}: cannot be read ({error!r}); write UTF-8 CSV with the columns image and group"
        ) from error
    if not all(group and image for image, group in groups.items()):
        raise DataError(f"{path}: an image or a group is empty; fill it in or remove its line")
    return {_normal(image[: len(image) - len(image_suffix(image) or "")]): group for image, group in groups.items()}


def _normal(name: str) -> str:
    """One Unicode form: systems write the same accent or syllable as one character or as several."""
    return unicodedata.normalize("NFC", name)
