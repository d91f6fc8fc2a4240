"""Pixels of a plane and voxels of a volume; positions follow from PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1."""

import numpy as np
import pytest

from prsmed.data.planes import Plane, planes_of, voxels_of
from prsmed.errors import DataError
from tests.unit.data.readers.made_dicom import enhanced, slice_of
from tests.unit.orientations import AFFINES, SHAPE_IJK, world_ras


def test_a_plane_in_ras() -> None:
    # rows of 3 mm, columns of 2 mm, first pixel at (-10, 20, 5) in LPS
    (plane,) = planes_of(slice_of(2))
    assert plane.hw_px == (4, 5)
    assert plane.origin_ras.tolist() == [10, -20, 5]
    assert plane.column_step_ras.tolist() == [-2, 0, 0]
    assert plane.row_step_ras.tolist() == [0, -3, 0]


def test_frames_of_an_enhanced_image() -> None:
    positions = [[0.0, 0.0, z] for z in (7.0, 3.0)]
    planes = planes_of(enhanced(np.zeros((2, 4, 5), np.int16), positions, [1, 1]))
    assert [plane.origin_ras[2] for plane in planes] == [7, 3]


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
def test_a_plane_that_is_not_stated_is_refused(keyword: str) -> None:
    with pytest.raises(DataError, match="is missing; export it again"):
        planes_of(slice_of(0, **{keyword: None}))


@pytest.mark.parametrize("affine", AFFINES)
def test_each_pixel_is_the_voxel_at_its_place(affine: np.ndarray) -> None:
    # the sagittal plane of 5 (front) by 6 (head) mm around the volume's middle, rows towards the feet
    extent = world_ras(affine).reshape(3, -1)
    _, front, head = extent.max(axis=1)
    side = np.median(np.unique(extent[0]))
    side = extent[0][np.abs(extent[0] - side).argmin()]
    plane = Plane(np.array([side, front, head]), np.array([0.0, 0, -3]), np.array([0.0, -2, 0]), (3, 2))
    voxels = np.stack(voxels_of(plane, affine))
    assert (voxels >= 0).all()
    assert (voxels < np.array(SHAPE_IJK)[:, None, None]).all()
    ras = np.einsum("wa,arc->wrc", affine[:3, :3], voxels) + affine[:3, 3, None, None]
    np.testing.assert_allclose(ras[0], side)
    np.testing.assert_allclose(ras[1], np.broadcast_to([front, front - 2], (3, 2)))
    np.testing.assert_allclose(ras[2], np.broadcast_to([[head], [head - 3], [head - 6]], (3, 2)))


@pytest.mark.parametrize(
    ("origin", "row_step", "column_step"),
    [
        ((0.11, 0, 0), (0, 1, 0), (1, 0, 0)),
        ((0, 0, 0), (0, 1.02, 0), (1, 0, 0)),  # a tenth is reached after five of the ten rows
        ((0, 0, 0), (0, 2, 0), (2, 0, 0)),
        ((0, 0, 0), (0, 0.6, 0.8), (1, 0, 0)),
    ],
)
def test_pixels_beside_voxels_are_refused(origin: tuple, row_step: tuple, column_step: tuple) -> None:
    plane = Plane(*(np.array(vector, dtype=float) for vector in (origin, row_step, column_step)), hw_px=(10, 10))
    with pytest.raises(DataError, match="beside the image's own voxels; resample it onto the image"):
        voxels_of(plane, np.eye(4))


def test_a_twentieth_of_a_voxel_is_noise() -> None:
    plane = Plane(np.array([0.05, 0, 2]), np.array([0.0, 1, 0]), np.array([1.0, 0, 0]), (3, 4))
    i, j, k = voxels_of(plane, np.eye(4))
    assert (i == np.arange(4)).all() and (j == np.arange(3)[:, None]).all() and (k == 2).all()
