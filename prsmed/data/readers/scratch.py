"""Volumes that arrive in pieces: one file a slice, or one compressed stream.

What is small stays in memory. More goes to a temporary file as it arrives, which then is mapped: memory holds what is
being looked at, and the system may drop it at any time. The file has no name, so nobody else can open it, and it is
gone with the last array over it, however the process ends. `TMPDIR` says on which disk it lies.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np

from prsmed.errors import DataError

IN_MEMORY_BYTES = 1 << 26


class Scratch:
    """A place for bytes that are written once, one after the other.

    Args:
        nbytes: about how many will come.
        path: of the image they belong to, for messages.

    Attributes:
        stream: what was written so far.
    """

    def __init__(self, nbytes: int, path: Path):
        self.path = path
        self.stream: io.BytesIO | io.BufferedRandom = io.BytesIO()
        if nbytes > IN_MEMORY_BYTES:
            self.stream = tempfile.TemporaryFile()  # noqa: SIM115 - arrays go on using it

    def write(self, content: bytes | memoryview) -> None:
        """Raises DataError where the disk is full."""
        try:
            self.stream.write(content)
            self.stream.flush()
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot be unpacked into {tempfile.gettempdir()} ({error.strerror}); free space there, or"
                " name another folder in the environment variable TMPDIR"
            ) from error

    def array(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """All that was written, in C order; writing to it changes memory and not the file."""
        if isinstance(self.stream, io.BytesIO):
            return np.ndarray(shape, dtype, buffer=self.stream.getbuffer())
        return np.asarray(np.memmap(self.stream, dtype, mode="c", shape=shape))


class Stack:
    """Slices of one volume, put one on the other; the volume takes the widest type that one of them needs.

    Args:
        slices: how many will come, at least one.
        types: what a volume may be, narrowest first.
        path: for messages.
    """

    def __init__(self, slices: int, types: tuple[np.dtype, ...], path: Path):
        self._slices, self._types, self._path = slices, types, path
        self._written: list[tuple[int, ...]] = []
        self._dtype = types[0]
        self._scratch: Scratch | None = None

    def add(self, slice_HW: np.ndarray) -> None:
        """The next slice; all have one shape. Its columns are I of the volume, its rows J.

        Raises:
            DataError: the disk is full.
        """
        widest = max(self._dtype, slice_HW.dtype, key=self._types.index)
        if self._scratch is None or widest != self._dtype:
            before = self._voxels_KHW() if self._scratch else ()
            self._dtype = widest
            self._scratch = Scratch(self._slices * slice_HW.size * widest.itemsize, self._path)
            for earlier_HW in before:
                self._scratch.write(earlier_HW.astype(widest).data)
        self._scratch.write(np.ascontiguousarray(slice_HW, dtype=widest).data)
        self._written.append(slice_HW.shape)

    def volume(self) -> np.ndarray:
        """All slices as (I, J, K), K from slice to slice."""
        return self._voxels_KHW().transpose(2, 1, 0)

    def _voxels_KHW(self) -> np.ndarray:
        assert self._scratch is not None, "at least one slice"
        return self._scratch.array((len(self._written), *self._written[0]), self._dtype)


def in_final_type(array_ijk: np.ndarray, path: Path) -> np.ndarray:
    """Integers in the machine's byte order, floats as float32; converted slice by slice, and no copy where they are.

    Args:
        array_ijk: (I, J, K); anything else is given back as it is.
        path: for messages.

    Raises:
        DataError: the disk is full.
    """
    native = array_ijk.dtype.newbyteorder("=")
    final = np.dtype(np.float32) if native.kind == "f" else native
    if array_ijk.dtype == final or array_ijk.ndim != 3 or 0 in array_ijk.shape or native.kind not in "iuf":
        return array_ijk
    stack = Stack(array_ijk.shape[2], (final,), path)
    for index in range(array_ijk.shape[2]):
        stack.add(array_ijk[:, :, index].T.astype(final))
    return stack.volume()
