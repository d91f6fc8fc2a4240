"""Slices of volumes: MONAI's Orientationd + SliceByAxisd against `VolumeFrame.take`, and which slices are chosen."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientationd

from prsmed.data.slabs import slab_affine, take_slab
from prsmed.data.slicing import SliceByAxisd, choose_slices, volume_frame
from prsmed.errors import DataError, RequestError
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
        slab = torch.from_numpy(take_slab(source.array, frame.array_axis, frame.index)[None])
        image = MetaTensor(slab, affine=torch.from_numpy(slab_affine(affine, frame.array_axis, frame.index)))
        item = Orientationd("image", axcodes="LPI", labels=None)({"image": image, "volume_frame": frame})
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


def _lesion():
    """A lesion in slices 4 to 8 of 20, largest in slice 7."""
    mask = np.zeros((4, 5, 20), bool)
    mask[1, 1:3, 4:9] = True
    mask[:, :, 7] = True
    return _source((4, 5, 20)), mask


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"choice": "all"}, [4, 5, 6, 7, 8]),
        ({"choice": "all", "without_target": 1}, [4, 5, 6, 7, 8, 12]),  # the middle of the other fifteen
        ({"choice": "largest"}, [7]),
        ({"choice": "largest", "without_target": 2}, [3, 7, 16]),
        ({"choice": "every", "every": 5}, [2, 7, 12, 17]),  # as far from one end as from the other
        ({"choice": "every"}, list(range(20))),
        ({"choice": "spread", "with_target": 1}, [6]),
    ],
)
def test_slices_by_what_they_show(choice, expected):
    image, mask = _lesion()
    assert [position.index for position in choose_slices(image, mask, axis="axial", **choice)] == expected


def test_a_volume_without_the_target_gives_one_empty_slice():
    image, mask = _lesion()
    for choice in ("all", "largest", "spread"):
        assert choose_slices(image, np.zeros_like(mask), axis="axial", choice=choice) == [SliceRef("axial", 10)]


@pytest.mark.parametrize(
    "wrong", [{"axis": "transversal"}, {"choice": "best"}, {"every": 0}, {"with_target": 0}, {"without_target": -1}]
)
def test_a_choice_without_sense(wrong):
    image, mask = _lesion()
    with pytest.raises(RequestError, match="use an axis of axial, coronal, sagittal, a choice of spread, all"):
        choose_slices(image, mask, **{"axis": "axial", **wrong})
