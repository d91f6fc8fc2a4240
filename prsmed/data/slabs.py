"""What a whole volume has to tell before one slice of it can be shown, without a copy of the volume.

A volume is read slab by slab (one voxel thick), and its statistics are exact: percentiles are order statistics found by
two rounds of counting on the bits of the values, not estimates from a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from skimage.filters import threshold_otsu

_OTSU_BINS = 256


class Slabs:
    """The slabs of a volume along the axis that is slowest in memory.

    Args:
        array_ijk: the volume on its stored grid.
        change: what the steps before this one do to a slab, given its axis and index; None for nothing.

    Attributes:
        axis: the array axis that the slabs are counted along.
        dtype: of the values as they were stored.
    """

    def __init__(
        self,
        array_ijk: np.ndarray,
        affine_ijk_to_ras: np.ndarray,
        change: Callable[[np.ndarray, int, int], np.ndarray] | None = None,
    ):
        self._array_ijk = array_ijk
        self._change = change
        self.affine_ijk_to_ras = affine_ijk_to_ras
        self.axis = int(np.argmax(array_ijk.strides))
        self.dtype = array_ijk.dtype

    @property
    def shape_ijk(self) -> tuple[int, ...]:
        """Of the whole volume."""
        return self._array_ijk.shape

    def __len__(self) -> int:
        return self._array_ijk.shape[self.axis]

    def __getitem__(self, index: int) -> np.ndarray:
        """One slab, (I, J, K) with one voxel along `axis`."""
        slab = take_slab(self._array_ijk, self.axis, index)
        return self._change(slab, self.axis, index) if self._change else slab

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))


def take_slab(array_ijk: np.ndarray, axis: int, index: int) -> np.ndarray:
    """A view of one slab of an array, with one voxel along `axis`."""
    place: list[slice] = [slice(None)] * 3
    place[axis] = slice(index, index + 1)
    return array_ijk[tuple(place)]


def slab_affine(affine_ijk_to_ras: np.ndarray, axis: int, index: int) -> np.ndarray:
    """The affine of one slab: the volume's, with its origin moved to the slab."""
    affine = np.array(affine_ijk_to_ras, dtype=np.float64)
    affine[:3, 3] += affine[:3, axis] * index
    return affine


def percentiles(slabs: Iterable[np.ndarray], shares: Sequence[float], *, above: float = -np.inf) -> list[float]:
    """Percentiles (0 to 100) of the values above a limit, as NumPy's default method (linear) defines them.

    Args:
        slabs: arrays whose values float32 holds; gone through twice.
        above: only values greater than this count.

    Returns:
        One value for each share; 0 where no value counts.
    """
    coarse = np.zeros(1 << 16, dtype=np.int64)
    for slab in slabs:
        coarse += np.bincount(_ordered_bits(slab, above) >> 16, minlength=1 << 16)
    count = int(coarse.sum())
    if count == 0:
        return [0.0] * len(shares)
    positions = [share / 100 * (count - 1) for share in shares]
    ranks = sorted({min(int(position) + step, count - 1) for position in positions for step in (0, 1)})
    last_rank = np.cumsum(coarse)
    bins = sorted({int(np.searchsorted(last_rank, rank, side="right")) for rank in ranks})
    fine = {number: np.zeros(1 << 16, dtype=np.int64) for number in bins}
    for slab in slabs:
        bits = _ordered_bits(slab, above)
        for number in bins:
            fine[number] += np.bincount(bits[bits >> 16 == number] & 0xFFFF, minlength=1 << 16)

    def value_at(rank: int) -> float:
        number = int(np.searchsorted(last_rank, rank, side="right"))
        within = rank - int(last_rank[number] - coarse[number])
        return _value_of((number << 16) + int(np.searchsorted(np.cumsum(fine[number]), within, side="right")))

    values = {rank: value_at(rank) for rank in ranks}
    return [
        values[int(position)] + (values[min(int(position) + 1, count - 1)] - values[int(position)]) * (position % 1)
        for position in positions
    ]


def mean_and_deviation(slabs: Iterable[np.ndarray], *, above: float = -np.inf) -> tuple[float, float]:
    """Mean and standard deviation of the values above a limit; (0, 0) where there is none."""
    count, total, squares = 0, 0.0, 0.0
    for slab in slabs:
        values = slab[slab > above].astype(np.float64)
        count, total, squares = count + values.size, total + values.sum(), squares + np.square(values).sum()
    if count == 0:
        return 0.0, 0.0
    mean = total / count
    return mean, max(squares / count - mean * mean, 0.0) ** 0.5


def otsu_threshold(slabs: Iterable[np.ndarray]) -> float:
    """The value that parts a volume into background and body best (Otsu 1979), on 256 bins of equal width."""
    low = high = None
    for slab in slabs:
        least, most = float(slab.min()), float(slab.max())
        low, high = (least, most) if low is None or high is None else (min(low, least), max(high, most))
    assert low is not None and high is not None
    if low == high:
        return low
    counts = np.zeros(_OTSU_BINS, dtype=np.int64)
    edges = np.linspace(low, high, _OTSU_BINS + 1)
    for slab in slabs:
        counts += np.histogram(slab, bins=_OTSU_BINS, range=(low, high))[0]
    return float(threshold_otsu(hist=(counts, (edges[:-1] + edges[1:]) / 2)))


def _ordered_bits(values: np.ndarray, above: float) -> np.ndarray:
    """float32 values as uint32 in the same order: the sign bit flipped, and the others too where it was set."""
    flat = values.ravel(order="K").astype(np.float32, copy=False)
    if above > -np.inf:
        flat = flat[flat > above]
    bits = np.ascontiguousarray(flat).view(np.uint32)
    return bits ^ ((np.uint32(0) - (bits >> np.uint32(31))) | np.uint32(1 << 31))


def _value_of(ordered: int) -> float:
    bits = ordered ^ (1 << 31 if ordered >> 31 else 0xFFFFFFFF)
    return float(np.array([bits], dtype=np.uint32).view(np.float32)[0])
