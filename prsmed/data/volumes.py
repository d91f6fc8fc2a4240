"""Cases opened once for all their slices: the volumes, masks and measurements used last stay in memory.

Each process has its own store. A worker that was forked inherits what its parent held (nothing here is written, so it
stays shared), one that was spawned starts empty; both only ever read files.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import numpy as np

from prsmed.data.manifest import Manifest
from prsmed.data.preprocessing import Prepared, Preprocessing
from prsmed.data.readers import read_grid, read_image, read_target
from prsmed.types import Case, SourceImage, Target

KEPT_BYTES = 1 << 30
"""Of one process: about a thorax CT of 600 slices with its masks and 500 MiB to spare."""


class Recent:
    """Values by key: the ones used last, up to a number of bytes in all."""

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Any], nbytes: Callable[[Any], int | None]) -> Any:
        """The value of `key`, made where it is not kept.

        Args:
            nbytes: size of a value; None for one that is not worth keeping. One larger than all is never kept.
        """
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key][0]
        value = make()
        size = nbytes(value)
        if size is not None and size <= self.max_bytes:
            self._kept[key] = value, size
            while sum(size for _, size in self._kept.values()) > self.max_bytes:
                self._kept.popitem(last=False)
        return value


_recent = Recent(KEPT_BYTES)


def open_image(manifest: Manifest, case: Case, *, values: bool = True) -> SourceImage:
    """The image of a case; a volume from memory where it was read lately (its array is read-only).

    Args:
        values: False where only the grid is wanted: of a picture no pixel is decoded (`read_grid`).

    Raises:
        DataError: as `read_image` and `Manifest.resolve`.
    """
    path = manifest.resolve(case, case.image)

    def read() -> SourceImage:
        # of other formats the UID only says what they were converted from
        image = (read_image if values else read_grid)(path, series_uid=case.series_uid if path.is_dir() else None)
        if image.is_volume:
            image.array.flags.writeable = False
        return image

    # of a picture it is the canonical image that others keep
    return _recent.get(_image_key(manifest, case), read, lambda image: image.array.nbytes if image.is_volume else None)


def open_target(manifest: Manifest, case: Case, target: Target, image: SourceImage) -> np.ndarray:
    """The truth of a target on the stored grid, bool; that of a volume is kept like its image.

    Raises:
        DataError: as `read_target`.
    """

    if not image.is_volume:
        return read_target(manifest, case, target, image)

    def read() -> np.ndarray:
        mask_ijk = read_target(manifest, case, target, image)
        mask_ijk.flags.writeable = False
        return mask_ijk

    refs = tuple((_stamp(manifest.resolve(case, ref.path)), ref.selector) for ref in target.masks)
    return _recent.get(("target", _image_key(manifest, case), refs), read, lambda mask_ijk: mask_ijk.nbytes)


def open_prepared(manifest: Manifest, case: Case, image: SourceImage, preprocessing: Preprocessing) -> Prepared:
    """What `preprocessing` makes of the image of a case, which has a modality; that of a volume is kept like it."""
    modality = case.modality
    assert modality is not None
    if not image.is_volume:
        return preprocessing.prepare(image, modality=modality)
    # its array is the image's own, counted again: it lives as long as the longer kept of the two
    return _recent.get(
        ("prepared", _image_key(manifest, case), modality, preprocessing.key),
        lambda: preprocessing.prepare(image, modality=modality),
        lambda prepared: prepared.image.array.nbytes,
    )


def _image_key(manifest: Manifest, case: Case) -> Hashable:
    return _stamp(manifest.resolve(case, case.image)), case.series_uid


def _stamp(path: Path) -> tuple[str, int, int]:
    """A file's name and state: a file that is written anew is read anew."""
    state = path.stat()
    return str(path), state.st_mtime_ns, state.st_size
