"""Where cases come from: each source lists what it has, as facts, without opening an image."""

from __future__ import annotations

from dataclasses import dataclass, field

from prsmed.data.manifest import Refusal
from prsmed.data.readers import NIFTI_SUFFIXES, image_suffix
from prsmed.errors import DataError
from prsmed.types import Case, MaskRef


@dataclass(frozen=True)
class Defaults:
    """What holds for a source where its rows say nothing.

    Attributes:
        name: the source's own name: the data set, and the prefix of its ids and groups, so that two sources with
            equal file names stay apart.
        root: the root its paths are relative to.
        modality: the model's word, or None where it is not known.
        target: the name of what is asked for, or None.
        kind: "lesion" or "organ".
    """

    name: str
    root: str
    modality: str | None = None
    target: str | None = None
    kind: str = "lesion"


@dataclass(frozen=True)
class Found:
    """One case as its source states it; `rows` holds the line of each target, None where there are no lines."""

    case: Case
    rows: tuple[int | None, ...]


@dataclass
class Listing:
    """What a source holds, and what it had to leave out."""

    found: list[Found] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)


def mask_ref(path: str, label: int | None = None) -> MaskRef:
    """The reference to a mask file, by its format; `label` None means the one label the volume holds.

    Raises:
        DataError: a format that holds no mask, or a label for a picture.
    """
    suffix = image_suffix(path)
    if suffix is None:
        raise DataError(f"{path}: masks of this format are not read; convert the mask to PNG or NIfTI")
    if suffix in NIFTI_SUFFIXES:
        return MaskRef("nifti", path, label)
    if label is not None:
        raise DataError(f"{path}: a picture mask is binary, label {label} cannot be chosen; clear the label")
    return MaskRef("png", path)
