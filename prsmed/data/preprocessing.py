"""From a source image to the canonical image, by a list of named steps that is plain data.

The same list stands in the training config, in the checkpoint and in the predictor, so training and inference cannot
differ. A step is `{"transform": NAME, "form": "volume" | "picture", "modalities": [...], ...arguments}`; `form` and
`modalities` limit it to some cases. Only the transforms named in `TRANSFORMS` can be asked for.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import (
    MapTransform,
    Orientationd,
    ScaleIntensityRanged,
    ScaleIntensityRangePercentilesd,
    Spacingd,
    Transform,
)

from prsmed.data.slicing import SliceByAxisd, volume_frame
from prsmed.errors import DataError, RequestError
from prsmed.geometry import Geometry, VolumeFrame
from prsmed.types import SliceRef, SourceImage

IMAGE = "image"


class ScaleByDtyped(MapTransform):
    """Scale a picture to [0, 1] by what its type can hold: 8 bit by 255, else by its own minimum and maximum.

    Files of 16 bit or float rarely use their whole range (12 bit in 16 is common), so theirs is measured.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            values = item[key].float()
            low, high = (0.0, 255.0) if item["source_dtype"] == "uint8" else (float(values.min()), float(values.max()))
            item[key] = (values - low) / max(high - low, 1e-6)
        return item


class ScalePercentilesd(ScaleIntensityRangePercentilesd):
    """MONAI's `ScaleIntensityRangePercentilesd`, each channel to [0, 1] without exception.

    MONAI leaves a channel unscaled where its two percentiles coincide, as in a picture that is black but for a few
    pixels; here such a channel is cut to [0, 1] like any other.
    """

    def __init__(self, keys: str, lower: float, upper: float):
        super().__init__(keys, lower, upper, b_min=0.0, b_max=1.0, clip=True, channel_wise=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = super().__call__(data)
        for key in self.key_iterator(item):
            item[key] = torch.as_tensor(item[key]).clamp(0, 1)
        return item


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
        Orientationd,
        ScaleIntensityRanged,
        ScalePercentilesd,
        ScaleByDtyped,
        SliceByAxisd,
        Spacingd,
        ToCanonicald,
    )
}


class Step(Transform):
    """One dictionary transform and the cases it is for."""

    def __init__(self, step: Mapping[str, Any]):
        arguments = dict(step)
        name = arguments.pop("transform", None)
        if name not in TRANSFORMS:
            raise RequestError(f"preprocessing step {name!r}: unknown; there is {', '.join(sorted(TRANSFORMS))}")
        self.form = arguments.pop("form", None)
        self.modalities = arguments.pop("modalities", None)
        self.transform = TRANSFORMS[name](keys=IMAGE, **arguments)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        form = "volume" if item["volume_frame"] is not None else "picture"
        if self.form not in (None, form) or (self.modalities is not None and item["modality"] not in self.modalities):
            return item
        return self.transform(item)


class Preprocessing:
    """All steps, in order.

    Args:
        steps: plain data, see the module's text.
    """

    def __init__(self, steps: Sequence[Mapping[str, Any]]):
        self.steps = [Step(step) for step in steps]

    def __call__(
        self, image: SourceImage, *, modality: str, position: SliceRef | None = None
    ) -> tuple[torch.Tensor, Geometry]:
        """The canonical image, float32 (3, h, w) without padding, and the way back to the file's grid.

        Raises:
            RequestError: a volume without the slice to look at.
            DataError: the volume has no such slice, or no intensity step is meant for this modality.
        """
        frame: VolumeFrame | None = None
        array: torch.Tensor
        if image.is_volume:
            if position is None:
                raise RequestError(f"{image.path}: is a volume; say which slice to look at (axis and index)")
            frame = volume_frame(image, position)
            voxels_CIJK = torch.from_numpy(image.array[None].astype(np.float32))
            array = MetaTensor(voxels_CIJK, affine=torch.from_numpy(np.asarray(image.affine_ijk_to_ras)))
            slice_hw_px = _hw_px(frame.take(image.array))
            spacing_hw_mm: tuple[float, float] | None = frame.spacing_hw_mm
        else:
            array = torch.from_numpy(np.moveaxis(image.array, -1, 0).astype(np.float32))
            slice_hw_px = _hw_px(image.array)
            spacing_hw_mm = (image.spacing_mm[0], image.spacing_mm[1]) if image.spacing_mm else None
        item: dict[str, Any] = {
            IMAGE: array,
            "modality": modality,
            "volume_frame": frame,
            "source_dtype": str(image.array.dtype),
            "path": image.path,
        }
        for step in self.steps:
            item = step(item)
        canonical: torch.Tensor = item[IMAGE]
        return canonical, Geometry(slice_hw_px, _hw_px(canonical[0]), spacing_hw_mm, frame)


def _hw_px(picture: np.ndarray | torch.Tensor) -> tuple[int, int]:
    return picture.shape[0], picture.shape[1]
