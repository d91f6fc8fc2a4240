"""A folder in SA-Med2D-20M's published layout: an index of images and masks, and a table of class names.

`SAMed2D_v1.json` maps `images/<modality>--<data set>--<case>--<direction>_<index>.png` to its masks, the same stem with
`--<class>_<instance>.png`; `SAMed2D_v1_class_mapping_id.json` maps data set and class name to the class number.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from prsmed.data.manifest import Refusal
from prsmed.data.readers.picture import decode_picture
from prsmed.data.sources import Defaults, Found, Listing
from prsmed.errors import DataError
from prsmed.types import LATERALITIES, SPLITS, Case, MaskRef, Target

INDEX_FILE, CLASSES_FILE, SPLITS_FILE = "SAMed2D_v1.json", "SAMed2D_v1_class_mapping_id.json", "splits.json"

_MODALITY_OF_PREFIX = {
    "ct": "ct",
    "mr": "mri",
    "x": "x-ray",  # x_ray
    "ultrasound": "ultrasound",
    "endoscopy": "endoscopy",
    "dermoscopy": "dermoscopy",
    "fundus": None,
    "pet": None,
}
"""Our modality by the first word of a file name; None where the model has no word for it."""

_LESION_WORDS = re.compile(
    "abscess|adenoma|aneurysm|calcification|cancer|carcinoma|consolidation|covid|cyst|edema|effusion|embol|enhancing"
    "|fracture|glioma|haemorrhage|hematoma|hemorrhage|infarct|infection|ischemi|keratosis|lesion|melanoma|metasta"
    "|necro|nevus|nodule|oedema|opacit|pathology|plaque|pneumonia|pneumothorax|polyp|schwannoma|stroke|tumor|tumour"
    "|ulcer"
)
_INVERTED = {"ichallenge_adam_task2": "its masks are inverted, what they leave black is the object"}
_UNION_CLASSES = {("ACDC", 3)}
"""Classes that cover other classes of the image without saying so in their name, as `union_...` does."""

_FOREGROUND = 255


@dataclass(frozen=True)
class _Name:
    """What the name of an image says."""

    stem: str
    modality: str
    dataset: str
    case: str
    volume: str
    index: int | None


def is_sa_med2d(folder: Path) -> bool:
    """Whether a folder has the index of SA-Med2D-20M."""
    return (folder / INDEX_FILE).is_file()


def list_sa_med2d(folder: Path, defaults: Defaults) -> Listing:
    """One case for each image of the index, one target for each class, with the masks of all its instances.

    `kidney_left` is called "left kidney" and has a laterality. The group is the data set's case, so that no patient is
    on two sides; `splits.json` (stem to split), where there is one, gives the split. Union classes, which overlap the
    classes they join, and data sets whose masks are known to be inverted are left out, with one refusal for each.
    `source` keeps what the name says of the volume (`volume`, `index`), and `listed`, every class that the index names
    for the image, usable or not: what is not listed may be absent.

    Raises:
        DataError: an index or a class table that cannot be read.
    """
    index, splits = _read_object(folder / INDEX_FILE), {}
    classes = _read_classes(folder / CLASSES_FILE)
    if (folder / SPLITS_FILE).exists():
        splits = _read_object(folder / SPLITS_FILE)
    listing, left_out = Listing(), Counter[str]()
    for image, masks in sorted(index.items()):
        case_id = None
        try:
            name = _parse_image(image)
            case_id = f"{defaults.name}/{name.stem}"
            if name.dataset in _INVERTED:
                left_out[f"{name.dataset}: {_INVERTED[name.dataset]}; invert copies of them and index those"] += 1
                continue
            case = _case(name, image, _split(splits, name.stem), defaults)
            targets, listed = _targets(name, masks, classes, case_id, listing, left_out)
        except DataError as error:
            listing.refusals.append(Refusal.from_error(error, image, case_id=case_id))
            continue
        if targets:
            case = replace(case, targets=targets, source={**case.source, "listed": listed})
            listing.found.append(Found(case, rows=(None,) * len(targets), check_mask=_check_mask))
    listing.refusals += [Refusal.from_error(reason, f"{number} files") for reason, number in left_out.items()]
    return listing


def readable_class(name: str) -> tuple[str, str | None]:
    """A class name in words, and its side: "kidney_left" is ("left kidney", "left")."""
    words = name.lower().replace("_", " ").split()
    if words and words[-1] in LATERALITIES:
        words = [words[-1], *words[:-1]]
    side = words[0] if len(words) > 1 and words[0] in LATERALITIES else None
    return " ".join(words), side


def _case(name: _Name, image: str, split: str | None, defaults: Defaults) -> Case:
    return Case(
        id=f"{defaults.name}/{name.stem}",
        image=image,
        modality=_MODALITY_OF_PREFIX[name.modality.partition("_")[0]],
        group=f"{defaults.name}/{name.dataset}/{name.case}",
        split=split,
        root=defaults.root,
        dataset=name.dataset,
        source={"volume": name.volume, "index": name.index},
    )


def _parse_image(path: str) -> _Name:
    stem = PurePosixPath(path).stem
    fields = stem.split("--")
    if len(fields) != 4 or not all(fields):
        raise DataError(
            f"{path}: the name has {len(fields)} fields, expected <modality>--<data set>--<case>--<direction>_<index>; "
            "restore the published name"
        )
    modality, dataset, case, position = fields
    if modality.partition("_")[0] not in _MODALITY_OF_PREFIX:
        raise DataError(f"{path}: modality {modality!r} is none of the collection's; restore the published name")
    direction, _, number = position.rpartition("_")
    volume = "--".join((modality, dataset, case, direction))
    return _Name(stem, modality, dataset, case, volume, int(number) if number.isdecimal() else None)


def _targets(
    name: _Name,
    masks: Any,
    classes: dict[str, dict[int, str]],
    case_id: str,
    listing: Listing,
    left_out: Counter[str],
) -> tuple[tuple[Target, ...], list[str]]:
    """The classes of an image with the masks of their instances, and the names of all that are listed for it."""
    if not isinstance(masks, list) or not masks:
        raise DataError(f"{name.stem}: the index lists no mask; only listed masks are read, drop the entry")
    refs: dict[int, list[MaskRef]] = defaultdict(list)
    listed = set()
    known = classes.get(name.dataset, {})
    for path in masks:
        try:
            number = _class_number(path, name)
            if number not in known:
                raise DataError(
                    f"{path}: class {number} of {name.dataset} is unknown, {CLASSES_FILE} has {sorted(known)}; "
                    "add its name there"
                )
        except DataError as error:
            listing.refusals.append(Refusal.from_error(error, str(path), case_id=case_id))
            continue
        listed.add(readable_class(known[number])[0])
        if known[number].lower().startswith("union") or (name.dataset, number) in _UNION_CLASSES:
            left_out[f"{name.dataset}: class {known[number]} joins other classes of its images; ask for those"] += 1
            continue
        refs[number].append(MaskRef("png", path))
    targets = []
    for position, number in enumerate(sorted(refs), start=1):
        words, side = readable_class(known[number])
        kind = "lesion" if _LESION_WORDS.search(words) else "organ"
        targets.append(Target(f"t{position}", words, kind, side, tuple(refs[number])))
    return tuple(targets), sorted(listed)


def _class_number(path: Any, name: _Name) -> int:
    stem = PurePosixPath(path).stem if isinstance(path, str) else ""
    found = re.fullmatch(re.escape(name.stem) + r"--(\d{4})_(\d{3})", stem)
    if found is None:
        raise DataError(
            f"{path}: expected a mask of {name.stem}, <image>--<class>_<instance>.png; restore the published name"
        )
    return int(found[1])


def _check_mask(path: Path) -> None:
    """A published mask shows its object as 255; one that does not is damaged, or was rewritten."""
    colour_HWC, _ = decode_picture(path)
    if not (colour_HWC == _FOREGROUND).any():
        raise DataError(
            f"{path.name}: no pixel of the mask is {_FOREGROUND}, its largest value is {colour_HWC.max()}; "
            "fetch the published file again"
        )


def _split(splits: dict[str, Any], stem: str) -> str | None:
    split = splits.get(stem)
    if split is not None and split not in SPLITS:
        raise DataError(f"{stem}: {SPLITS_FILE} says {split!r}; write one of {', '.join(SPLITS)}")
    return split


def _read_classes(path: Path) -> dict[str, dict[int, str]]:
    """Data set to class number to class name."""
    classes: dict[str, dict[int, str]] = {}
    for dataset, numbers in _read_object(path).items():
        if not isinstance(numbers, dict) or not all(type(number) is int for number in numbers.values()):
            raise DataError(f"{path}: {dataset!r} does not map class names to numbers; restore the published file")
        if len(set(numbers.values())) < len(numbers):
            raise DataError(f"{path}: {dataset!r} gives one number to two classes; restore the published file")
        classes[dataset] = {number: name for name, number in numbers.items()}
    return classes


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore the collection's file") from error
    except ValueError as error:
        raise DataError(f"{path}: is not UTF-8 JSON ({error}); restore the collection's file") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: is a {type(content).__name__}, expected an object; restore the collection's file")
    return content
