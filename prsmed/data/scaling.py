"""The intensity steps: from what a file holds to grey values in [0, 1].

A step that has to know the whole volume has a method `measured(slabs)`: it returns the same step with its numbers fixed
for that volume, which then is applied slice by slice. On a picture every step measures the picture.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from monai.transforms import MapTransform, ScaleIntensityRanged

from prsmed.data.slabs import Slabs, mean_and_deviation, otsu_threshold, percentiles
from prsmed.errors import RequestError

CT_WINDOWS_HU = {
    "brain": (40, 80),
    "subdural": (75, 200),
    "temporal bone": (600, 2800),
    "lung": (-600, 1500),
    "mediastinum": (50, 350),
    "soft tissue": (50, 400),
    "liver": (30, 150),
    "spine": (50, 250),
    "bone": (400, 1800),
}
"""Level and width of usual display windows in HU: "Windowing (CT)", radiopaedia.org/articles/windowing-ct (typical
values; "soft tissue" is that of the abdomen, "subdural" the middle of the ranges given there)."""

_MOST_FOR_TORCH = 1_000_000
BODIES = ("otsu", "positive")


class CTWindowd(ScaleIntensityRanged):
    """A CT window: level - width / 2 becomes 0, level + width / 2 becomes 1 (DICOM PS3.3 C.11.2.1.3.2, LINEAR_EXACT).

    Args:
        window: a name in `CT_WINDOWS_HU`; or else `level` and `width` in HU.
    """

    def __init__(self, keys: str, window: str | None = None, level: float | None = None, width: float | None = None):
        if window is not None and level is None and width is None and window in CT_WINDOWS_HU:
            level, width = CT_WINDOWS_HU[window]
        elif window is not None or level is None or width is None or width <= 0:
            raise RequestError(
                f"CTWindowd: got window {window!r}, level {level}, width {width}; give one of"
                f" {', '.join(CT_WINDOWS_HU)} as window, or a level and a width above 0"
            )
        super().__init__(keys, level - width / 2, level + width / 2, 0.0, 1.0, clip=True)


class InvertMonochrome1d(MapTransform):
    """Turn a MONOCHROME1 image round, so that high values are bright as everywhere else; others stay as they are.

    0 and 255 change places in 8 bit. Deeper values only change their sign, since the step that scales them to [0, 1]
    measures where they lie.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item) if item["is_inverted"] else ():
            item[key] = (255 if item["source_dtype"] == "uint8" else 0) - item[key]
        return item


class ScaleByDtyped(MapTransform):
    """Scale to [0, 1] by what the type can hold: 8 bit by 255, else by the image's own minimum and maximum.

    Files of 16 bit or float rarely use their whole range (12 bit in 16 is common), so theirs is measured.
    """

    def measured(self, slabs: Slabs) -> MapTransform:
        """The scaling with the range of the whole volume."""
        return _between(self.keys, *_range_of_dtype(slabs, str(slabs.dtype)))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            values = item[key].float()
            low, high = _range_of_dtype([np.asarray(values)], item["source_dtype"])
            item[key] = (values - low) / max(high - low, 1e-6)
        return item


class ScalePercentilesd(MapTransform):
    """MONAI's `ScaleIntensityRangePercentilesd`, each channel to [0, 1] without exception.

    MONAI leaves a channel unscaled where its two percentiles coincide, as in a picture that is black but for a few
    pixels; here such a channel is cut to [0, 1] like any other. All others get MONAI's values to the last bit, without
    sorting the picture twice.
    """

    def __init__(self, keys: str, lower: float, upper: float):
        super().__init__(keys)
        if not 0 <= lower < upper <= 100:
            raise RequestError(f"ScalePercentilesd: got {lower} and {upper}; give percentiles, 0 to 100, lower first")
        self.shares = (lower, upper)

    def measured(self, slabs: Slabs) -> MapTransform:
        """The scaling between the exact percentiles of the whole volume."""
        return _between(self.keys, *percentiles(slabs, self.shares))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            picture_CHW = item[key].clone()
            for channel_HW in picture_CHW:
                low, high = percentiles_of_picture(np.asarray(channel_HW), self.shares)
                spread = high - low if high > low else torch.tensor(1.0)
                channel_HW[...] = ((channel_HW - low) / spread).clamp(0, 1)
            item[key] = picture_CHW
        return item


class ScaleInBodyd(MapTransform):
    """Base of the steps whose limits are measured in the body only, each channel of a picture by itself.

    Args:
        body: "otsu", above Otsu's threshold, or "positive", above 0 (for images whose background was set to 0).
    """

    def __init__(self, keys: str, body: str):
        super().__init__(keys)
        if body not in BODIES:
            raise RequestError(f"{type(self).__name__}: got body {body!r}; use one of {', '.join(BODIES)}")
        self.body = body

    def limits(self, slabs: Iterable[np.ndarray], above: float) -> tuple[float, float]:
        """The values that become 0 and 1, from those above a threshold."""
        raise NotImplementedError

    def measured(self, slabs: Slabs | list[np.ndarray]) -> MapTransform:
        """The scaling between the limits of the whole volume."""
        above = otsu_threshold(slabs) if self.body == "otsu" else 0.0
        return _between(self.keys, *self.limits(slabs, above))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            picture_CHW = item[key].clone()
            for channel in picture_CHW:
                channel[...] = self.measured([np.asarray(channel)])({key: channel})[key]
            item[key] = picture_CHW
        return item


class ScalePercentilesInBodyd(ScaleInBodyd):
    """Scale to [0, 1] between two percentiles of the body, so that a larger background changes nothing."""

    def __init__(self, keys: str, lower: float, upper: float, body: str = "otsu"):
        super().__init__(keys, body)
        self.shares = (lower, upper)

    def limits(self, slabs: Iterable[np.ndarray], above: float) -> tuple[float, float]:
        """The two percentiles."""
        low, high = percentiles(slabs, self.shares, above=above)
        return low, high


class ZScoreInBodyd(ScaleInBodyd):
    """z-score by mean and standard deviation of the body; -`limit` to `limit` standard deviations become 0 to 1."""

    def __init__(self, keys: str, limit: float = 3.0, body: str = "otsu"):
        super().__init__(keys, body)
        if limit <= 0:
            raise RequestError(f"ZScoreInBodyd: got limit {limit}; give standard deviations above 0, 3 is usual")
        self.limit = limit

    def limits(self, slabs: Iterable[np.ndarray], above: float) -> tuple[float, float]:
        """Mean minus and plus `limit` standard deviations."""
        mean, deviation = mean_and_deviation(slabs, above=above)
        return mean - self.limit * deviation, mean + self.limit * deviation


def percentiles_of_picture(values: np.ndarray, shares: tuple[float, ...]) -> list[torch.Tensor]:
    """Percentiles (0 to 100) of float32 values, rounded as MONAI's `percentile` rounds them.

    MONAI asks NumPy about more than a million values and else `torch.quantile`, which places and interpolates in
    float32. Weights were trained on these numbers, so both ways are kept; nothing is sorted.
    """
    flat = values.ravel()
    if flat.size > _MOST_FOR_TORCH:
        return list(torch.tensor(np.percentile(flat, shares), dtype=torch.float32))
    places = torch.tensor([share / 100 for share in shares], dtype=torch.float32) * (flat.size - 1)
    below, above = places.floor(), places.ceil()
    ranks = torch.stack([below, above]).long().numpy()
    ordered = torch.from_numpy(np.partition(flat, np.unique(ranks))[ranks])
    return list(torch.lerp(ordered[0], ordered[1], places - below))


def _between(keys: Any, low: float, high: float) -> MapTransform:
    """Cut and scale to [0, 1]; where nothing was measured between the limits, what lies above them is cut to 1."""
    return ScaleIntensityRanged(keys, low, high if high > low else low + 1.0, 0.0, 1.0, clip=True)


def _range_of_dtype(values: Iterable[np.ndarray], source_dtype: str) -> tuple[float, float]:
    if source_dtype == "uint8":
        return 0.0, 255.0
    ends = [(float(part.min()), float(part.max())) for part in values]
    return min(low for low, _ in ends), max(high for _, high in ends)
