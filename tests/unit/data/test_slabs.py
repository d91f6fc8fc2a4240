"""Statistics of a volume, slab by slab, against NumPy and scikit-image on the whole array."""

import numpy as np
import pytest
from skimage.filters import threshold_otsu

from prsmed.data.slabs import Slabs, mean_and_deviation, otsu_threshold, percentiles, slab_affine, take_slab
from tests.unit.orientations import AFFINES, SHAPE_IJK, world_ras

SHARES = [0, 0.5, 1, 37.3, 50, 99, 100]


def _volume(dtype, order):
    values = np.random.default_rng(0).normal(20, 90, (11, 13, 17))
    if np.issubdtype(dtype, np.integer):
        values = values.clip(np.iinfo(dtype).min, np.iinfo(dtype).max)
    return np.asarray(values.astype(dtype), order=order)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_statistics_are_those_of_the_whole_array(dtype, order):
    volume = _volume(dtype, order)
    slabs = Slabs(volume, np.eye(4))
    assert slabs.axis == (0 if order == "C" else 2)
    # NumPy interpolates between neighbours in float32 where the array is float32
    np.testing.assert_allclose(percentiles(slabs, SHARES), np.percentile(volume, SHARES), rtol=1e-6)
    above = volume[volume > 30]
    np.testing.assert_allclose(percentiles(slabs, SHARES, above=30), np.percentile(above, SHARES), rtol=1e-6)
    np.testing.assert_allclose(
        mean_and_deviation(slabs, above=30), (above.mean(dtype=np.float64), above.std(dtype=np.float64)), rtol=1e-9
    )
    np.testing.assert_allclose(otsu_threshold(slabs), threshold_otsu(volume.astype(np.float32)), rtol=1e-5)


def test_where_nothing_counts():
    slabs = Slabs(np.zeros((3, 4, 5), np.int16), np.eye(4))
    assert percentiles(slabs, [1, 99], above=0) == [0, 0]
    assert mean_and_deviation(slabs, above=0) == (0, 0)
    assert otsu_threshold(slabs) == 0


def test_zero_and_minus_zero_and_the_ends_of_float32():
    ends = np.finfo(np.float32)
    values = np.array([ends.min, -1, -0.0, 0.0, ends.tiny, 1, ends.max], np.float32).reshape(7, 1, 1)
    assert percentiles(Slabs(values, np.eye(4)), [0, 100 / 6, 50, 500 / 6, 100]) == [ends.min, -1, 0, 1, ends.max]


def test_a_slab_is_a_view_that_knows_its_place():
    volume = np.zeros(SHAPE_IJK)
    for affine in AFFINES[::5]:
        for axis in range(3):
            slab = take_slab(volume, axis, 2)
            assert np.shares_memory(slab, volume) and slab.shape[axis] == 1
            np.testing.assert_allclose(
                world_ras(slab_affine(affine, axis, 2), slab.shape),
                np.take(world_ras(affine), [2], axis=1 + axis),
            )
