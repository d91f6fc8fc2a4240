"""Every mapping between frames: source grid, slice picture, canonical image, encoder frame, box, patch grid.

Frames, from the file to the network:

* source grid: the array as stored, (H, W) for a picture or (I, J, K) for a volume;
* slice picture: one 2D picture as displayed. For a volume it is a slice in radiological display: the stored array
  reordered to LPI axes (x to the patient's left, y to the back, z to the feet), so that axial rows run from front to
  back, coronal and sagittal rows from head to feet, and columns from the patient's right to left (from front to back
  for sagittal). For a picture it is the source grid itself;
* canonical image: the slice picture resized (spacing made isotropic, long side limited), in the top left corner of
  the batch's common size; the rest is padding;
* encoder frame: the square a segmentation encoder sees (`Frame`).

Positions are continuous pixel coordinates with pixel centres at half-integers, so a box edge is a whole number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import nibabel.orientations as orientations
import numpy as np
import torch
import torch.nn.functional as F

from prsmed.errors import DataError

Box = tuple[int, int, int, int]

DISPLAY_AXCODES = "LPI"
DISPLAY_LETTERS = "LPF"  # the same in DICOM's letters, where towards the feet is F
DISPLAY_AXIS_OF = {"sagittal": 0, "coronal": 1, "axial": 2}

OPPOSITE = {"L": "R", "R": "L", "A": "P", "P": "A", "H": "F", "F": "H"}
"""The six patient directions as DICOM (0020,0020) names them (PS3.3 C.7.6.1.1.1), each with its opposite."""

_UNIT_RAS = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "H": (0, 0, 1), "F": (0, 0, -1)}
_NOWHERE = (0, 0, 0)


def lps_ras(vectors: np.ndarray) -> np.ndarray:
    """Points or directions (..., 3) between the axes of DICOM and ITK (left, back, head) and ours (right, front, head).

    The two differ by half a turn about the third axis, so the same function goes either way (DICOM PS3.3 C.7.6.2).
    """
    return np.asarray(vectors, dtype=np.float64) * (-1.0, -1.0, 1.0)


def mask_to_box(mask_HW: np.ndarray) -> Box | None:
    """The half-open box (x0, y0, x1, y1) of a bool mask, in its own pixels; None where the mask is empty."""
    rows = np.flatnonzero(mask_HW.any(axis=1))
    if rows.size == 0:
        return None
    columns = np.flatnonzero(mask_HW.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def box_center_px(box_xyxy_px: Sequence[float]) -> tuple[float, float]:
    """The centre (x, y) of a half-open box, in continuous pixel coordinates."""
    x0, y0, x1, y1 = box_xyxy_px
    return (x0 + x1) / 2, (y0 + y1) / 2


def cxcywh_to_xyxy(boxes_cxcywh: torch.Tensor) -> torch.Tensor:
    """Boxes (..., 4) given by centre and sides, as their corners; whatever the unit."""
    center, sides = boxes_cxcywh.split(2, dim=-1)
    return torch.cat([center - sides / 2, center + sides / 2], dim=-1)


def resize_mask(mask_HW: np.ndarray, hw_px: tuple[int, int]) -> np.ndarray:
    """A bool mask on another grid: set where the antialiased bilinear share of the mask is at least one half.

    A mask that reaches a half nowhere keeps its best covered pixel: it never turns into an empty mask.
    """
    if mask_HW.shape == tuple(hw_px) or not mask_HW.any():
        return np.resize(mask_HW.astype(bool), hw_px)
    share = resize_prob(torch.from_numpy(mask_HW.astype(np.float32)), hw_px).numpy()
    return share >= min(0.5, float(share.max()))


def resize_prob(prob_HW: torch.Tensor, hw_px: tuple[int, int]) -> torch.Tensor:
    """A float map (H, W) on another grid, bilinear with antialiasing when it shrinks."""
    if tuple(prob_HW.shape) == tuple(hw_px):
        return prob_HW
    return F.interpolate(prob_HW[None, None], size=tuple(hw_px), mode="bilinear", antialias=True)[0, 0]


@dataclass(frozen=True)
class PatientAxes:
    """How a displayed picture lies in the patient, as far as its file says so.

    Attributes:
        right, down: the patient direction (L R A P H F) towards which columns and rows increase, the nearest one for an
            oblique slice; "" where the file does not say.
        through: the direction towards which the slice index grows; "" for a picture.
        slice_share: where the slice lies along `through`, 0 to 1 over the extent of the volume; None for a picture and
            for a volume of one slice, which has nothing to be compared with.
        oblique_deg: the largest angle between an axis of the slice's volume and its nearest patient axis.
        laterality: "left" or "right" where the file says that it shows one side of a paired body part; else "".
        steps_ras_mm: what one whole picture to the right, one down, and the whole volume along `through` is in the
            patient; None where the letters say it all (a picture).
    """

    right: str = ""
    down: str = ""
    through: str = ""
    slice_share: float | None = None
    oblique_deg: float = 0.0
    laterality: str = ""
    steps_ras_mm: tuple[tuple[float, ...], ...] | None = None

    @property
    def view(self) -> str:
        """The nearest plane of a slice, "frontal", "lateral" or "axial" for a picture; "" where it is not stated."""
        planes = {"LR": "sagittal", "AP": "coronal", "FH": "axial"}
        if self.through:
            return planes[_pair(self.through)]
        shown = {_pair(self.right), _pair(self.down)}
        missing = {"LR", "AP", "FH"} - shown
        return {"AP": "frontal", "LR": "lateral", "FH": "axial"}[missing.pop()] if len(missing) == 1 else ""

    def share_towards(self, letter: str, x_norm: float, y_norm: float) -> float | None:
        """How far towards a patient direction a point of the picture lies, from 0 to 1; one half is the middle.

        The middle is that of the whole scan (of the picture where there is no volume), not of the patient. In an
        oblique volume the point's own position in the patient counts, in units of the extent of the array axis that is
        nearest to the direction; it may then lie a little outside 0 to 1.

        Args:
            x_norm, y_norm: the point, as a share of the picture.

        Returns:
            None where the file does not say how the picture lies along this direction.
        """
        letters = (self.right, self.down, self.through)
        nearest = [axis for axis, own in enumerate(letters) if own in (letter, OPPOSITE[letter])]
        if not nearest or (letters[nearest[0]] == self.through and self.slice_share is None):
            return None
        steps = np.array(self.steps_ras_mm or [_UNIT_RAS.get(own, _NOWHERE) for own in letters], dtype=float)
        middle = 0.5
        along = (x_norm, y_norm, middle if self.slice_share is None else self.slice_share)
        offset_ras = (np.array(along) - middle) @ steps
        return middle + float(offset_ras @ _UNIT_RAS[letter] / np.linalg.norm(steps[nearest[0]]))


def _pair(letter: str) -> str:
    """The patient axis of a direction, as its two letters in order: "R" is on "LR"."""
    return "".join(sorted((letter, OPPOSITE[letter]))) if letter in OPPOSITE else ""


@lru_cache(maxsize=16)
def _orientation_to_display(affine_ijk_to_ras: tuple[tuple[float, ...], ...]) -> np.ndarray:
    """How nibabel's orientation turns a stored array to LPI; every slice of a volume asks for it several times."""
    stored = orientations.io_orientation(np.asarray(affine_ijk_to_ras))
    orientation = orientations.ornt_transform(stored, orientations.axcodes2ornt(DISPLAY_AXCODES))
    orientation.flags.writeable = False
    return orientation


@dataclass(frozen=True)
class VolumeFrame:
    """How one displayed slice lies in a stored volume.

    Attributes:
        shape_ijk: shape of the stored array.
        affine_ijk_to_ras: rows of the (4, 4) affine, as nested tuples so that the record stays hashable.
        axis: anatomical axis of the slice.
        index: position along the stored array's axis that is nearest to it.
    """

    shape_ijk: tuple[int, int, int]
    affine_ijk_to_ras: tuple[tuple[float, ...], ...]
    axis: str
    index: int

    def _orientation_to_display(self) -> np.ndarray:
        return _orientation_to_display(self.affine_ijk_to_ras)

    @property
    def array_axis(self) -> int:
        """The axis of the stored array that the slice index counts along."""
        return int(np.flatnonzero(self._orientation_to_display()[:, 0] == DISPLAY_AXIS_OF[self.axis])[0])

    @property
    def display_index(self) -> int:
        """The slice's position along its axis once the array is reordered to LPI."""
        flipped = self._orientation_to_display()[self.array_axis, 1] < 0
        return self.shape_ijk[self.array_axis] - 1 - self.index if flipped else self.index

    def take(self, array_ijk: np.ndarray) -> np.ndarray:
        """The displayed slice (H, W) of an array on the stored grid."""
        # a view: np.take would copy a whole volume that is stored in Fortran order, as NIfTI is
        place: list[slice] = [slice(None)] * 3
        place[self.array_axis] = slice(self.index, self.index + 1)
        display = orientations.apply_orientation(array_ijk[tuple(place)], self._orientation_to_display())
        return np.take(display, 0, axis=DISPLAY_AXIS_OF[self.axis]).T

    def put(self, slice_HW: np.ndarray, into_ijk: np.ndarray) -> None:
        """Write a displayed slice (H, W) to its voxels of `into_ijk`, in place: the inverse of `take`."""
        display = np.expand_dims(slice_HW.T, DISPLAY_AXIS_OF[self.axis])
        back = orientations.ornt_transform(
            orientations.axcodes2ornt(DISPLAY_AXCODES),
            orientations.io_orientation(np.asarray(self.affine_ijk_to_ras)),
        )
        slab = orientations.apply_orientation(display, back)
        position: list[slice] = [slice(None)] * 3
        position[self.array_axis] = slice(self.index, self.index + 1)
        into_ijk[tuple(position)] = slab

    def patient_axes(self, laterality: str = "") -> PatientAxes:
        """How the displayed slice lies in the patient: the letters of the nearest plane, and the true directions."""
        matrix = np.asarray(self.affine_ijk_to_ras)[:3, :3]
        orientation = self._orientation_to_display()
        steps_of = {
            int(axis): sign * size * column
            for (axis, sign), size, column in zip(orientation, self.shape_ijk, matrix.T, strict=True)
        }
        through = DISPLAY_AXIS_OF[self.axis]
        order = [*(axis for axis in range(3) if axis != through), through]  # columns, rows, slices
        letters, steps = [DISPLAY_LETTERS[axis] for axis in order], [steps_of[axis] for axis in order]
        if orientation[self.array_axis, 1] < 0:  # the stored index grows against the display
            letters[2], steps[2] = OPPOSITE[letters[2]], -steps[2]
        cosines = [step @ _UNIT_RAS[letter] / np.linalg.norm(step) for step, letter in zip(steps, letters, strict=True)]
        slices = self.shape_ijk[self.array_axis]
        return PatientAxes(
            right=letters[0],
            down=letters[1],
            through=letters[2],
            slice_share=(self.index + 0.5) / slices if slices > 1 else None,
            oblique_deg=math.degrees(math.acos(min(1.0, *cosines))),
            laterality=laterality,
            steps_ras_mm=tuple(tuple(step.tolist()) for step in steps),
        )

    @property
    def spacing_hw_mm(self) -> tuple[float, float]:
        """Size of a pixel of the displayed slice, rows then columns."""
        sizes = np.linalg.norm(np.asarray(self.affine_ijk_to_ras)[:3, :3], axis=0)
        order = self._orientation_to_display()[:, 0].astype(int)
        display = [float(sizes[np.flatnonzero(order == axis)[0]]) for axis in range(3)]
        columns, rows = [display[axis] for axis in range(3) if axis != DISPLAY_AXIS_OF[self.axis]]
        return rows, columns


@dataclass(frozen=True)
class Geometry:
    """The path of one image from its source grid to its canonical image, and back.

    Attributes:
        slice_hw_px: rows and columns of the slice picture.
        canonical_hw_px: rows and columns of the canonical image, without padding.
        spacing_hw_mm: pixel size of the slice picture where the file states it.
        volume: how the slice lies in its volume; None for a picture.
        picture_axes: for a picture, the patient directions towards which columns and rows increase, where its file
            states them (`SourceImage.patient_axes`).
        laterality: "left" or "right" where the file says that it shows one side of a paired body part.
    """

    slice_hw_px: tuple[int, int]
    canonical_hw_px: tuple[int, int]
    spacing_hw_mm: tuple[float, float] | None = None
    volume: VolumeFrame | None = None
    picture_axes: tuple[str, str] | None = None
    laterality: str | None = None

    @property
    def patient_axes(self) -> PatientAxes | None:
        """How the slice picture lies in the patient; None where its file says nothing about it."""
        if self.volume is not None:
            return self.volume.patient_axes(self.laterality or "")
        if self.picture_axes is None and self.laterality is None:
            return None
        right, down = self.picture_axes or ("", "")
        if _pair(right) == _pair(down):  # no picture lies so: its file contradicts itself
            right, down = "", ""
        return PatientAxes(right, down, laterality=self.laterality or "")

    @property
    def canonical_spacing_hw_mm(self) -> tuple[float, float] | None:
        """Pixel size of the canonical image."""
        if self.spacing_hw_mm is None:
            return None
        sizes = zip(self.spacing_hw_mm, self.slice_hw_px, self.canonical_hw_px, strict=True)
        row_mm, column_mm = (spacing * stored / canonical for spacing, stored, canonical in sizes)
        return row_mm, column_mm

    def prob_to_slice(self, prob_HW: torch.Tensor) -> torch.Tensor:
        """A float map on the (possibly padded) canonical image, on the slice picture's grid."""
        height, width = self.canonical_hw_px
        return resize_prob(prob_HW[:height, :width], self.slice_hw_px)

    def mask_to_canonical(self, mask_HW: np.ndarray) -> np.ndarray:
        """A bool mask on the slice picture's grid, on the unpadded canonical image."""
        return resize_mask(mask_HW, self.canonical_hw_px)

    def box_to_canonical(self, box_xyxy_px: Sequence[float]) -> tuple[float, float, float, float]:
        """A box of the slice picture in canonical pixels (continuous)."""
        return _scale_box(box_xyxy_px, self.slice_hw_px, self.canonical_hw_px)

    def box_to_slice(self, box_xyxy_px: Sequence[float]) -> tuple[float, float, float, float]:
        """A box of the canonical image in pixels of the slice picture (continuous)."""
        return _scale_box(box_xyxy_px, self.canonical_hw_px, self.slice_hw_px)

    def mask_to_source(self, mask_HW: np.ndarray) -> np.ndarray:
        """A slice mask on the source grid: itself for a picture, else a volume that is empty elsewhere."""
        if mask_HW.shape != self.slice_hw_px:
            raise DataError(
                f"mask is {mask_HW.shape}, the slice picture is {self.slice_hw_px}; use prob_to_slice first"
            )
        if self.volume is None:
            return mask_HW
        volume_ijk = np.zeros(self.volume.shape_ijk, dtype=mask_HW.dtype)
        self.volume.put(mask_HW, volume_ijk)
        return volume_ijk


@dataclass(frozen=True)
class Frame:
    """The square picture an encoder sees: `pad` keeps the aspect ratio (top left), `squash` fills the square."""

    size_px: int
    mode: str = "pad"

    def content_hw_px(self, canonical_hw_px: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns that a canonical image of this size takes in the frame."""
        if self.mode == "squash":
            return self.size_px, self.size_px
        scale = self.size_px / max(canonical_hw_px)
        return tuple(max(1, round(side * scale)) for side in canonical_hw_px)  # type: ignore[return-value]

    def box_from_canonical(
        self, box_xyxy_px: Sequence[float], canonical_hw_px: tuple[int, int]
    ) -> tuple[float, float, float, float]:
        """A canonical box in pixels of the frame (continuous)."""
        return _scale_box(box_xyxy_px, canonical_hw_px, self.content_hw_px(canonical_hw_px))

    def box_to_canonical(
        self, box_xyxy_px: Sequence[float], canonical_hw_px: tuple[int, int]
    ) -> tuple[float, float, float, float]:
        """A box of the frame in canonical pixels (continuous)."""
        return _scale_box(box_xyxy_px, self.content_hw_px(canonical_hw_px), canonical_hw_px)

    def enter(self, image_BCHW: torch.Tensor, canonical_hw_px: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Canonical images (padded to a common size) in the frame, (B, C, size, size); padding is zero."""
        framed = image_BCHW.new_zeros(*image_BCHW.shape[:2], self.size_px, self.size_px)
        for index, (height, width) in enumerate(canonical_hw_px):
            rows, columns = self.content_hw_px((height, width))
            framed[index, :, :rows, :columns] = _resize_BCHW(image_BCHW[[index], :, :height, :width], (rows, columns))[
                0
            ]
        return framed

    def leave(
        self, map_BCHW: torch.Tensor, canonical_hw_px: Sequence[tuple[int, int]], common_hw_px: tuple[int, int]
    ) -> torch.Tensor:
        """Maps of the frame (any resolution) on the batch's canonical grid (B, C, H, W); padding is zero."""
        left = map_BCHW.new_zeros(*map_BCHW.shape[:2], *common_hw_px)
        scale = map_BCHW.shape[-1] / self.size_px
        if not canonical_hw_px:
            return left + map_BCHW.sum()  # nothing, but with a gradient of zero, for a loss that has no other term
        for height, width in set(canonical_hw_px):
            alike = [index for index, hw_px in enumerate(canonical_hw_px) if hw_px == (height, width)]
            rows, columns = (max(1, round(side * scale)) for side in self.content_hw_px((height, width)))
            left[alike, :, :height, :width] = _resize_BCHW(map_BCHW[alike, :, :rows, :columns], (height, width))
        return left

    def patch_centers_norm(self, grid_px: int, canonical_hw_px: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Centre (x, y) of every patch of a (grid, grid) map as a share of the image; above 1 lies in the padding.

        Returns:
            float32 (B, grid * grid, 2), row by row.
        """
        steps = (torch.arange(grid_px, dtype=torch.float32) + 0.5) * (self.size_px / grid_px)
        y_px, x_px = torch.meshgrid(steps, steps, indexing="ij")
        centers_px = torch.stack([x_px, y_px], dim=-1).reshape(-1, 2)
        return centers_px[None] / self.content_xyxy_px(canonical_hw_px)[:, None, :2]

    def patch_offsets(self, grid_px: int, canonical_hw_px: Sequence[tuple[int, int]]) -> torch.Tensor:
        """`from_center` of every patch as two maps (x, y), float32 (B, 2, grid, grid)."""
        offsets_BM2 = from_center(self.patch_centers_norm(grid_px, canonical_hw_px), canonical_hw_px)
        return offsets_BM2.transpose(1, 2).unflatten(2, (grid_px, grid_px))

    def content_xyxy_px(self, canonical_hw_px: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Columns, rows, columns, rows that each image takes in the frame, float32 (B, 4).

        A box given as shares of the image, times this, is the box in pixels of the frame.
        """
        sides = [self.content_hw_px(hw_px)[::-1] * 2 for hw_px in canonical_hw_px]
        return torch.tensor(sides, dtype=torch.float32)


def in_image(centers_norm: torch.Tensor) -> torch.Tensor:
    """Which centres (..., 2) of `Frame.patch_centers_norm` lie in the image, not in the padding: bool (...)."""
    return (centers_norm < 1).all(dim=-1)


def from_center(centers_norm_BM2: torch.Tensor, canonical_hw_px: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Positions given as shares of the image, as offsets (x, y) from its centre in units of its shorter side.

    A circle around the centre stays a circle, whatever the aspect ratio: zone rules are stated in these units.
    """
    sides = torch.tensor([(width, height) for height, width in canonical_hw_px], dtype=torch.float32)
    scale_B12 = (sides / sides.amin(dim=1, keepdim=True))[:, None].to(centers_norm_BM2)
    return (centers_norm_BM2 - 0.5) * scale_B12


def _resize_BCHW(image_BCHW: torch.Tensor, hw_px: tuple[int, int]) -> torch.Tensor:
    if tuple(image_BCHW.shape[-2:]) == tuple(hw_px):
        return image_BCHW
    return F.interpolate(image_BCHW, size=hw_px, mode="bilinear", antialias=True)


def _scale_box(
    box_xyxy_px: Sequence[float], from_hw_px: tuple[int, int], to_hw_px: tuple[int, int]
) -> tuple[float, float, float, float]:
    scale_y, scale_x = to_hw_px[0] / from_hw_px[0], to_hw_px[1] / from_hw_px[1]
    x0, y0, x1, y1 = box_xyxy_px
    return x0 * scale_x, y0 * scale_y, x1 * scale_x, y1 * scale_y
