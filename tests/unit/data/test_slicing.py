"""Slices of volumes: MONAI's Orientationd + SliceByAxisd against `VolumeFrame.take`, and which slices are chosen."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientationd

from prsmed.data.slicing import SliceByAxisd, choose_slices, volume_frame
from prsmed.errors import DataError
from prsmed.types import SLICE_AXES, SliceRef, SourceImage
from tests.unit.orientations import AFFINES, SHAPE_IJK

RAS = np.diag([1.0, 2.0, 3.0, 1.0])


def _source(shape_ijk=SHAPE_IJK, affine=RAS):
    array = np.random.default_rng(0).normal(size=shape_ijk).astype(np.float32)
    return SourceImage(array, affine, (1.0, 2.0, 3.0), path="volume.nii.gz")


@pytest.mark.parametrize("axis", SLICE_AXES)
def test_both_ways_to_a_slice_agree(axis):
    for affine in AFFINES:
        source = _source(affine=affine)
        frame = volume_frame(source, SliceRef(axis, 1))
        volume = MetaTensor(torch.from_numpy(source.array[None]), affine=torch.from_numpy(affine))
        item = Orientationd("image", axcodes="LPI", labels=None)({"image": volume, "volume_frame": frame})
        picture = SliceByAxisd("image")(item)["image"]
        np.testing.assert_array_equal(picture[0].numpy(), frame.take(source.array))
        assert tuple(picture.pixdim.tolist()) == frame.spacing_hw_mm


def test_a_slice_outside_the_volume_is_refused():
    for index in (-1, 6):
        with pytest.raises(DataError, match=r"volume.nii.gz: has no slice .* it has 0 to 5"):
            volume_frame(_source(), SliceRef("axial", index))
    assert volume_frame(_source(), SliceRef("axial", 5)).index == 5


def test_slices_with_and_without_the_target():
    mask = np.zeros((4, 5, 20), bool)
    mask[1, 2, 6:14] = True
    chosen = choose_slices(_source((4, 5, 20)), mask, axis="axial", with_target=3, without_target=2)
    indices = [position.index for position in chosen]
    assert {position.axis for position in chosen} == {"axial"} and indices == sorted(indices)
    # the middles of three thirds of 6 to 13, and of two halves of the other twelve
    assert indices == [3, 7, 10, 12, 17]


def test_at_most_as_many_slices_as_there_are():
    mask = np.zeros((4, 5, 6), bool)
    mask[0, 0, 2] = True
    chosen = choose_slices(_source(), mask, axis="axial", with_target=9, without_target=9)
    assert [position.index for position in chosen] == [0, 1, 2, 3, 4, 5]
    assert choose_slices(_source(), mask, axis="axial", with_target=9, without_target=0) == [SliceRef("axial", 2)]


def test_a_volume_without_the_target_gives_empty_slices():
    mask = np.zeros((4, 5, 6), bool)
    chosen = choose_slices(_source(), mask, axis="coronal", with_target=2, without_target=1)
    assert [(position.axis, position.index) for position in chosen] == [("coronal", 1), ("coronal", 3)]


def test_the_index_counts_along_the_stored_axis():
    for affine in AFFINES:
        source = _source(affine=affine)
        mask = np.zeros(SHAPE_IJK, bool)
        axis_of_head = int(np.abs(affine[2, :3]).argmax())
        place = [1, 1, 1]
        place[axis_of_head] = 3
        mask[tuple(place)] = True
        (position,) = choose_slices(source, mask, axis="axial", with_target=1, without_target=0)
        assert position == SliceRef("axial", 3)
        assert volume_frame(source, position).take(mask).sum() == 1
