"""Findings in three dimensions: the connected components of a volume mask, found one slice at a time.

A label array for a whole volume would take four bytes a voxel, and more than the volume itself. Here two neighbouring
slices are labelled at once and their regions joined, so that memory does not grow with the number of slices.
Components are 26-connected, as regions of a picture are 8-connected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from prsmed.data.slabs import take_slab
from prsmed.errors import RequestError
from prsmed.geometry import VolumeFrame
from prsmed.types import SLICE_AXES, Answer, Finding

MIN_VOLUME_MM3 = 14.0
"""A sphere 3 mm across, some voxels of an ordinary scan: a choice of ours, from no guideline."""

_AROUND = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True)
class VolumeOptions:
    """How a volume is asked, and what of its mask stays.

    Attributes:
        axis: anatomical axis of the slices that the network sees.
        batch_size: slices in memory at a time.
        min_volume_mm3: components smaller than this are removed.
        keep_largest: at most so many components stay; None for all.

    Raises:
        RequestError: a value that makes no sense.
    """

    axis: str = "axial"
    batch_size: int = 8
    min_volume_mm3: float = MIN_VOLUME_MM3
    keep_largest: int | None = None

    def __post_init__(self) -> None:
        if self.axis not in SLICE_AXES:
            raise RequestError(f"axis {self.axis!r}: unknown; choose one of {', '.join(SLICE_AXES)}")
        if self.batch_size < 1 or (self.keep_largest is not None and self.keep_largest < 1):
            raise RequestError(
                f"batch size {self.batch_size}, keep largest {self.keep_largest}: expected at least 1; choose a"
                " larger number"
            )
        if not self.min_volume_mm3 >= 0:
            raise RequestError(f"min volume {self.min_volume_mm3} mm3: expected 0 or more; 0 keeps every voxel")


@dataclass(frozen=True)
class Component:
    """A connected component of a volume mask, or several taken as one.

    Attributes:
        numbers: of the components in `Components`.
        area_px: voxels by slice index.
        start_ijk, stop_ijk: half-open box on the stored grid.
        centroid_ijk: mean voxel index.
    """

    numbers: tuple[int, ...]
    area_px: Mapping[int, int]
    start_ijk: tuple[int, int, int]
    stop_ijk: tuple[int, int, int]
    centroid_ijk: tuple[float, float, float]

    @property
    def voxels(self) -> int:
        """Of all slices."""
        return sum(self.area_px.values())

    @property
    def key_slice(self) -> int:
        """Index of the slice with most of it, the first one of equals."""
        return max(self.area_px, key=lambda index: (self.area_px[index], -index))


class Components:
    """The components of a bool volume mask, largest first.

    Args:
        mask_ijk: on the stored grid; `keep` writes to it.
        array_axis: the axis that slices are counted along.
    """

    def __init__(self, mask_ijk: np.ndarray, array_axis: int):
        self.array_axis = array_axis
        self._shape_ijk = mask_ijk.shape
        self._window = _window(mask_ijk, array_axis)
        self._mask_ijk = mask_ijk[self._window]  # a view: outside there is nothing to label
        # A region of one slice is known by its number: regions of slice s are _start[s] + label - 1.
        self._start: list[int] = []
        self._component_of = self._find()
        self.found = self._measure()

    def merged(self, components: Sequence[Component]) -> Component:
        """Several components as one, as organs are told (two lungs are one answer)."""
        area_px: dict[int, int] = {}
        for part in components:
            for index, area in part.area_px.items():
                area_px[index] = area_px.get(index, 0) + area
        voxels = [part.voxels for part in components]
        return Component(
            numbers=tuple(number for part in components for number in part.numbers),
            area_px=area_px,
            start_ijk=_triple(np.min([part.start_ijk for part in components], axis=0)),
            stop_ijk=_triple(np.max([part.stop_ijk for part in components], axis=0)),
            centroid_ijk=_triple(np.average([part.centroid_ijk for part in components], axis=0, weights=voxels)),
        )

    def slab(self, component: Component, index: int) -> np.ndarray:
        """One slice of one component: bool, (I, J, K) with one voxel along the axis. Not after `keep`."""
        whole = np.zeros([1 if axis == self.array_axis else side for axis, side in enumerate(self._shape_ijk)], bool)
        whole[self._window] = self._slab_of(component.numbers, index)
        return whole

    def keep(self, components: Sequence[Component]) -> None:
        """Erase every other component from the mask, in place."""
        numbers = [number for part in components for number in part.numbers]
        for index in {index for part in self.found for index in part.area_px}:
            take_slab(self._mask_ijk, self.array_axis, index)[...] = self._slab_of(numbers, index)

    def _slab_of(self, numbers: Sequence[int], index: int) -> np.ndarray:
        labels, count = self._labels(index)
        component_of = self._component_of[self._start[index] : self._start[index] + count]
        return np.concatenate([[False], np.isin(component_of, numbers)])[labels]

    def _labels(self, index: int) -> tuple[np.ndarray, int]:
        """The 8-connected regions of one slice as a slab, and their number."""
        slab = take_slab(self._mask_ijk, self.array_axis, index)
        return ndimage.label(slab, structure=_AROUND) if slab.any() else (np.zeros(slab.shape, dtype=np.int32), 0)

    def _find(self) -> np.ndarray:
        """The component of every region. Two slices are labelled together; each of their joint regions becomes a node
        of a graph beside the regions it is made of."""
        joins: list[tuple[np.ndarray, np.ndarray]] = []
        regions = joints = 0
        before, before_count = np.zeros(0), 0
        for index in range(self._shape_ijk[self.array_axis]):
            now, count = self._labels(index)
            self._start.append(regions)
            if before_count and count:
                pair = np.concatenate([before, now], axis=self.array_axis) > 0
                joint, joint_count = ndimage.label(pair, structure=_AROUND)
                for half, labels, total in ((0, before, before_count), (1, now, count)):
                    joint_of = np.zeros(total + 1, dtype=int)
                    joint_of[labels] = take_slab(joint, self.array_axis, half)
                    first = regions - before_count if half == 0 else regions
                    joins.append((first + np.arange(total), joints + joint_of[1:] - 1))
                joints += joint_count
            regions += count
            before, before_count = now, count
        if not joins:
            return np.arange(regions)
        nodes, others = (np.concatenate(ends) for ends in zip(*joins, strict=True))
        size = regions + joints
        graph = coo_array((np.ones(len(nodes), dtype=bool), (nodes, regions + others)), shape=(size, size))
        return connected_components(graph, directed=False)[1][:regions]

    def _measure(self) -> list[Component]:
        """Area, box and centroid of every component, from those of its regions."""
        parts: dict[int, list[Component]] = {}
        for index, start in enumerate(self._start):
            labels, count = self._labels(index)
            offset = [index if axis == self.array_axis else side.start for axis, side in enumerate(self._window)]
            areas_px = np.bincount(labels.ravel())
            boxes = ndimage.find_objects(labels)
            centers = ndimage.center_of_mass(labels > 0, labels, range(1, count + 1))
            for at in range(count):
                number = int(self._component_of[start + at])
                region = Component(
                    numbers=(number,),
                    area_px={index: int(areas_px[at + 1])},
                    start_ijk=_triple([side.start + move for side, move in zip(boxes[at], offset, strict=True)]),
                    stop_ijk=_triple([side.stop + move for side, move in zip(boxes[at], offset, strict=True)]),
                    centroid_ijk=_triple([center + move for center, move in zip(centers[at], offset, strict=True)]),
                )
                parts.setdefault(number, []).append(region)
        whole = [replace(self.merged(regions), numbers=(number,)) for number, regions in parts.items()]
        return sorted(whole, key=lambda part: (-part.voxels, part.start_ijk))


@dataclass(frozen=True)
class VolumeFinding:
    """One finding of a volume. Its words (`finding`) are those of its own key slice.

    Attributes:
        number: from 1, the largest first.
        extent_mm: of its box along the array axes nearest to left-right, front-back and head-feet.
        centroid_ras_mm: in the patient.
        key_slice: index of the slice with most of it.
        slice_range: first and last slice that show it.
    """

    number: int
    voxels: int
    volume_ml: float
    extent_mm: dict[str, float]
    centroid_ras_mm: tuple[float, float, float]
    key_slice: int
    slice_range: tuple[int, int]
    finding: Finding

    def to_json(self) -> dict[str, Any]:
        """Plain data; of the words of the key slice only those that say where."""
        words = ("zone", "picture_side", "picture_level", "patient_side", "ap", "si", "frame")
        own = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "finding"}
        return {**own, **{name: getattr(self.finding, name) for name in words}}


def meant_in(decided: Mapping[int, tuple[str | None, bool]]) -> tuple[str | None, dict[int, str | None]]:
    """What a volume's answer is about, None where no slice is sure, and what other slices are about.

    It is the thing of the most slices that are sure of it, of equals of the most slices.

    Args:
        decided: what each marked slice is about, and whether it is sure.
    """
    slices = Counter(name for name, _ in decided.values())
    sure = Counter(name for name, is_sure in decided.values() if is_sure)
    meant = max(slices, key=lambda name: (sure[name], slices[name]), default=None)
    return meant if sure[meant] else None, {index: name for index, (name, _) in decided.items() if name != meant}


def voxel_mm3(affine_ijk_to_ras: np.ndarray | Sequence[Sequence[float]]) -> float:
    """The volume of one voxel, that of the affine's parallelepiped: right for sheared grids (gantry tilt), too."""
    return float(abs(np.linalg.det(np.asarray(affine_ijk_to_ras)[:3, :3])))


def large_enough(components: Sequence[Component], options: VolumeOptions, voxel_mm3: float) -> list[Component]:
    """The components that stay by their volume."""
    return [part for part in components if part.voxels * voxel_mm3 >= options.min_volume_mm3]


def volume_finding(component: Component, finding: Finding, *, number: int, frame: VolumeFrame) -> VolumeFinding:
    """The record of one component.

    Args:
        finding: what its key slice shows of it.
        frame: of any slice of the volume.
    """
    affine = np.asarray(frame.affine_ijk_to_ras)
    sizes_mm = np.linalg.norm(affine[:3, :3], axis=0)
    extent_mm = {}
    for name, axis in (("left_right", "sagittal"), ("front_back", "coronal"), ("head_feet", "axial")):
        along = replace(frame, axis=axis).array_axis
        extent_mm[name] = round(float((component.stop_ijk[along] - component.start_ijk[along]) * sizes_mm[along]), 2)
    return VolumeFinding(
        number=number,
        voxels=component.voxels,
        volume_ml=round(component.voxels * voxel_mm3(affine) / 1000, 4),
        extent_mm=extent_mm,
        centroid_ras_mm=_triple(np.round(affine[:3, :3] @ component.centroid_ijk + affine[:3, 3], 2)),
        key_slice=component.key_slice,
        slice_range=(min(component.area_px), max(component.area_px)),
        finding=finding,
    )


def statistics_of(
    findings: Sequence[VolumeFinding],
    *,
    options: VolumeOptions,
    removed: int,
    presence_prob_S: np.ndarray,
    presence_threshold: float,
    side: str | None = None,
) -> dict[str, Any]:
    """`Answer.volume_statistics`: the findings, what was removed, what the presence head said of the slices.

    Args:
        removed: how many components the options removed.
        presence_prob_S: float (slices,), the presence head's probability for each slice.
        side: of the patient, where only one was asked about.
    """
    return {
        "axis": options.axis,
        "slices": len(presence_prob_S),
        "volume_ml": round(float(sum(finding.volume_ml for finding in findings)), 4),
        "findings": [finding.to_json() for finding in findings],
        "cleaning": {
            "min_volume_mm3": options.min_volume_mm3,
            "keep_largest": options.keep_largest,
            "components_removed": removed,
        },
        "presence": {
            "rule": "something is there if a component stays; slices are judged one by one, uncalibrated for volumes",
            "slices_above_threshold": int((presence_prob_S >= presence_threshold).sum()),
            "highest": round(float(presence_prob_S.max()), 4),
            "highest_in_slice": int(presence_prob_S.argmax()),
        },
        "summary": _summary(findings, options.axis, len(presence_prob_S), side),
    }


def _window(mask_ijk: np.ndarray, array_axis: int) -> tuple[slice, ...]:
    """The part of every slice that holds anything in any slice."""
    shown = np.zeros([1 if axis == array_axis else side for axis, side in enumerate(mask_ijk.shape)], dtype=bool)
    for index in range(mask_ijk.shape[array_axis]):
        shown |= take_slab(mask_ijk, array_axis, index)
    window = (ndimage.find_objects(shown.astype(np.uint8)) or [(slice(0, 1),) * 3])[0]
    return tuple(slice(None) if axis == array_axis else side for axis, side in enumerate(window))


def _summary(findings: Sequence[VolumeFinding], axis: str, slices: int, side: str | None) -> str:
    where = f"In the volume, on the patient's {side}" if side else "In the volume"
    if not findings:
        return f"{where}: nothing is marked in {slices} {axis} slices."
    largest, total_ml = findings[0], sum(finding.volume_ml for finding in findings)
    size = " x ".join(f"{side:.0f}" for side in largest.extent_mm.values())
    one = len(findings) == 1
    which = f"1 finding of {total_ml:.3g} ml" if one else f"{len(findings)} findings, together {total_ml:.3g} ml"
    about = "it" if one else f"the largest ({largest.volume_ml:.3g} ml)"
    first, last = largest.slice_range
    return (
        f"{where}: {which}; {about} measures {size} mm (left-right x front-back x head-feet) and shows in {axis}"
        f" slices {first} to {last}, most of it in slice {largest.key_slice} (counted from 0)."
    )


def _triple(values: Iterable[Any]) -> tuple[Any, Any, Any]:
    i, j, k = (np.asarray(value).item() for value in values)
    return i, j, k


@dataclass
class VolumeAnswer(Answer):
    """The answer about a whole volume: `objects[0]` is what its key slice shows, `mask_ijk` is all of it.

    Attributes:
        mask_ijk: bool, on the stored grid. It is written beside answer.json, not into it.
    """

    mask_ijk: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0), dtype=bool))

    def to_json(self) -> dict[str, Any]:
        """As `Answer.to_json`; the volume's mask stays out, too."""
        return {name: value for name, value in super().to_json().items() if name != "mask_ijk"}
