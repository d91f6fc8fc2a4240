"""Label volumes: one whole number a voxel, in any of the volume formats that are one file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prsmed.data.readers.itk_volume import ITK_SUFFIXES, read_itk_volume
from prsmed.data.readers.nifti import NIFTI_SUFFIXES, read_nifti
from prsmed.errors import DataError
from prsmed.types import SourceImage

VOLUME_SUFFIXES = (*NIFTI_SUFFIXES, *ITK_SUFFIXES)


def read_volume(path: str | Path) -> SourceImage:
    """A NIfTI, NRRD or MetaImage volume, by the suffix of its name; see `read_nifti` and `read_itk_volume`."""
    return read_itk_volume(path) if str(path).lower().endswith(ITK_SUFFIXES) else read_nifti(path)


def read_labels(path: str | Path) -> SourceImage:
    """Read a label volume: as `read_volume`, with int64 labels.

    Raises:
        DataError: as `read_volume`, or voxels that are not whole numbers from 0.
    """
    labels = read_volume(path)
    whole = labels.array.astype(np.int64)
    if (whole != labels.array).any() or (whole < 0).any():
        raise DataError(f"{path}: a mask's labels must be whole numbers from 0; threshold it and save it as uint8")
    labels.array = whole
    return labels


def sole_label(path: str | Path) -> int:
    """The one label above 0 of a mask, 1 where the mask is empty.

    Raises:
        DataError: as `read_labels`, or several labels, so that somebody has to say which is meant.
    """
    present = [int(label) for label in np.unique(read_labels(path).array) if label]
    if len(present) > 1:
        raise DataError(
            f"{path}: holds the labels {present}, not one; say which is meant in a table, with --label-column"
        )
    return present[0] if present else 1
