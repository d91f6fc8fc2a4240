"""From a source image to the canonical image, by a list of named steps that is plain data.

The same list stands in the training config, in the checkpoint and in the predictor, so training and inference cannot
differ. A step is `{"transform": NAME, "form": "volume" | "picture", "modalities": [...], ...arguments}`; `form` and
`modalities` limit it to some cases. Only the transforms named in `TRANSFORMS` can be asked for.

Of a volume only the slab of the wanted slice is ever converted and changed. What a step before `SliceByAxisd` must know
of the whole volume (percentiles, a bias field) is measured once, in `Preprocessing.prepare`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform, Orientationd, ScaleIntensityRanged

from prsmed.data.bias_field import N4BiasFieldCorrectiond
from prsmed.data.scaling import (
    CTWindowd,
    InvertMonochrome1d,
    ScaleByDtyped,
    ScalePercentilesd,
    ScalePercentilesInBodyd,
    ZScoreInBodyd,
)
from prsmed.data.slabs import Slabs, slab_affine, take_slab
from prsmed.data.slicing import SliceByAxisd, volume_frame
from prsmed.data.spacing import Spacingd
from prsmed.errors import DataError, RequestError
from prsmed.geometry import Geometry, VolumeFrame
from prsmed.types import SliceRef, SourceImage

IMAGE = "image"


class ToCanonicald(MapTransform):
    """Exactly three channels of float32 in [0, 1], resized so that the long side is `long_side_px`.

    Raises:
        DataError: the values are outside [0, 1], that is, no intensity step was meant for this modality.
    """

    def __init__(self, keys: str, long_side_px: int):
        super().__init__(keys)
        self.long_side_px = long_side_px

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            picture = torch.as_tensor(np.asarray(item[key]), dtype=torch.float32)
            if float(picture.min()) < -1e-3 or float(picture.max()) > 1 + 1e-3:
                raise DataError(
                    f"{item['path']}: values from {float(picture.min()):.3g} to {float(picture.max()):.3g} after the"
                    f" intensity steps, expected 0 to 1; add a step for modality {item['modality']!r} to the steps"
                )
            scale = self.long_side_px / max(picture.shape[1:])
            size = [max(1, round(side * scale)) for side in picture.shape[1:]]
            resized = torch.nn.functional.interpolate(picture[None], size=size, mode="bilinear", antialias=True)[0]
            item[key] = resized.expand(3, -1, -1).clamp(0, 1).contiguous()
        return item


TRANSFORMS: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        CTWindowd,
        InvertMonochrome1d,
        N4BiasFieldCorrectiond,
        Orientationd,
        ScaleByDtyped,
        ScaleIntensityRanged,
        ScalePercentilesd,
        ScalePercentilesInBodyd,
        SliceByAxisd,
        Spacingd,
        ToCanonicald,
        ZScoreInBodyd,
    )
}


class Step:
    """One dictionary transform and the cases it is for."""

    def __init__(self, step: Mapping[str, Any]):
        arguments = dict(step)
        name = arguments.pop("transform", None)
        if name not in TRANSFORMS:
            raise RequestError(f"preprocessing step {name!r}: unknown; there is {', '.join(sorted(TRANSFORMS))}")
        self.form = arguments.pop("form", None)
        self.modalities = arguments.pop("modalities", None)
        self.transform = TRANSFORMS[name](keys=IMAGE, **arguments)

    def is_for(self, image: SourceImage, modality: str) -> bool:
        """Whether images of this form and modality take this step."""
        form = "volume" if image.is_volume else "picture"
        return self.form in (None, form) and (self.modalities is None or modality in self.modalities)


class Preprocessing:
    """All steps, in order.

    Args:
        steps: plain data, see the module's text.

    Attributes:
        key: the same for equal steps.

    Raises:
        RequestError: an unknown step, arguments that make no sense, or volumes resampled before they are sliced.
    """

    def __init__(self, steps: Sequence[Mapping[str, Any]]):
        self.key = json.dumps([dict(step) for step in steps], sort_keys=True)
        self.steps = [Step(step) for step in steps]
        kinds = [type(step.transform) for step in self.steps]
        if SliceByAxisd in kinds and Spacingd in kinds[: kinds.index(SliceByAxisd)]:
            raise RequestError(
                "preprocessing steps: Spacingd stands before SliceByAxisd, but slices are taken from the stored grid,"
                " so that masks go back to their voxels; move Spacingd behind SliceByAxisd"
            )

    def prepare(self, image: SourceImage, *, modality: str) -> Prepared:
        """Measure what the steps must know of the whole image; after that each slice costs the same.

        A volume is neither copied nor converted here. Its percentiles are exact, see `prsmed.data.slabs`.
        """
        prepared = Prepared(image, modality)
        is_sliced = False
        for transform in [step.transform for step in self.steps if step.is_for(image, modality)]:
            is_sliced = is_sliced or isinstance(transform, SliceByAxisd)
            if image.is_volume and not is_sliced and hasattr(transform, "measured"):
                transform = transform.measured(prepared.slabs())
            prepared.transforms.append(transform)
        return prepared

    def __call__(
        self, image: SourceImage, *, modality: str, position: SliceRef | None = None
    ) -> tuple[torch.Tensor, Geometry]:
        """`prepare` and one `Prepared.slice`: for a picture, or a single slice.

        Raises:
            RequestError: a volume without the slice to look at.
            DataError: the volume has no such slice, or no intensity step is meant for this modality.
        """
        return self.prepare(image, modality=modality).slice(position)


class Prepared:
    """One image and the transforms that give its canonical images, with everything measured that they need.

    Attributes:
        image: the source, unchanged and not copied.
        modality: the model's word.
        transforms: in order; of a volume they run on one slab at a time.
    """

    def __init__(self, image: SourceImage, modality: str):
        self.image = image
        self.modality = modality
        self.transforms: list[Callable[[dict[str, Any]], dict[str, Any]]] = []

    def slice(self, position: SliceRef | None = None) -> tuple[torch.Tensor, Geometry]:
        """The canonical image, float32 (3, h, w) without padding, and the way back to the file's grid.

        Args:
            position: which slice of a volume; a picture needs none.

        Raises:
            RequestError: a volume without the slice to look at.
            DataError: the volume has no such slice, or no intensity step is meant for this modality.
        """
        image = self.image
        frame: VolumeFrame | None = None
        if image.is_volume:
            if position is None:
                raise RequestError(f"{image.path}: is a volume; say which slice to look at (axis and index)")
            frame = volume_frame(image, position)
            slab = take_slab(image.array, frame.array_axis, frame.index)
            item = self._slab_item(slab, frame.array_axis, frame.index, frame)
            slice_hw_px = _hw_px(frame.take(np.broadcast_to(np.False_, image.array.shape)))
            spacing_hw_mm: tuple[float, float] | None = frame.spacing_hw_mm
        else:
            item = self._item(torch.from_numpy(np.moveaxis(image.array, -1, 0).astype(np.float32)), None)
            slice_hw_px = _hw_px(image.array)
            spacing_hw_mm = (image.spacing_mm[0], image.spacing_mm[1]) if image.spacing_mm else None
        for transform in self.transforms:
            item = transform(item)
        canonical: torch.Tensor = item[IMAGE]
        geometry = Geometry(
            slice_hw_px,
            _hw_px(canonical[0]),
            spacing_hw_mm,
            frame,
            picture_axes=image.patient_axes,
            laterality=image.laterality,
        )
        return canonical, geometry

    def slabs(self) -> Slabs:
        """The volume as the transforms so far leave it, slab by slab, in stored order."""
        # reorientation moves values and changes none
        so_far = [transform for transform in self.transforms if not isinstance(transform, Orientationd)]

        def change(slab_ijk: np.ndarray, axis: int, index: int) -> np.ndarray:
            item = self._slab_item(slab_ijk, axis, index, None)
            for transform in so_far:
                item = transform(item)
            return np.asarray(item[IMAGE])[0]

        assert self.image.affine_ijk_to_ras is not None
        return Slabs(self.image.array, self.image.affine_ijk_to_ras, change if so_far else None)

    def _slab_item(self, slab_ijk: np.ndarray, axis: int, index: int, frame: VolumeFrame | None) -> dict[str, Any]:
        assert self.image.affine_ijk_to_ras is not None
        affine = torch.from_numpy(slab_affine(self.image.affine_ijk_to_ras, axis, index))
        return self._item(MetaTensor(torch.from_numpy(slab_ijk[None].astype(np.float32)), affine=affine), frame)

    def _item(self, image_C: torch.Tensor, frame: VolumeFrame | None) -> dict[str, Any]:
        return {
            IMAGE: image_C,
            "modality": self.modality,
            "volume_frame": frame,
            "source_dtype": str(self.image.array.dtype),
            "is_inverted": self.image.is_inverted,
            "path": self.image.path,
        }


def _hw_px(picture: np.ndarray | torch.Tensor) -> tuple[int, int]:
    return picture.shape[0], picture.shape[1]
