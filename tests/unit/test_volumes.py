"""Findings in three dimensions, on masks made by hand and against SciPy's labelling of the whole volume."""

import numpy as np
import pytest
from scipy import ndimage

from prsmed.errors import RequestError
from prsmed.geometry import VolumeFrame
from prsmed.text.findings import find
from prsmed.volumes import (
    Components,
    VolumeOptions,
    large_enough,
    meant_in,
    statistics_of,
    volume_finding,
    voxel_mm3,
)

AFFINE = ((-2.0, 0.0, 0.0, 100.0), (0.0, 0.5, 0.0, -50.0), (0.0, 0.0, 4.0, 10.0), (0.0, 0.0, 0.0, 1.0))


def two_blocks() -> np.ndarray:
    """A block of 2 x 3 x 4 voxels that is cut by nothing, and one of 3 x 3 x 1."""
    mask_ijk = np.zeros((12, 10, 8), dtype=bool)
    mask_ijk[1:3, 2:5, 1:5] = True
    mask_ijk[7:10, 6:9, 6] = True
    return mask_ijk


@pytest.mark.parametrize("array_axis", [0, 1, 2])
@pytest.mark.parametrize("density", [0.02, 0.1, 0.3])
def test_components_are_those_of_the_whole_volume(array_axis: int, density: float) -> None:
    """SciPy labels the whole array at once, 26-connected; here slices are joined in twos."""
    mask_ijk = np.random.default_rng(0).random((14, 15, 13)) < density
    labels, count = ndimage.label(mask_ijk, np.ones((3, 3, 3)))
    voxels = np.bincount(labels.ravel())[1:]
    centers = ndimage.center_of_mass(mask_ijk, labels, range(1, count + 1))
    components = Components(mask_ijk, array_axis)
    assert [part.voxels for part in components.found] == sorted(voxels.tolist(), reverse=True)
    found = sorted(tuple(np.round(part.centroid_ijk, 6)) for part in components.found)
    np.testing.assert_allclose(found, sorted(tuple(np.round(center, 6)) for center in centers), atol=1e-5)
    components.keep([part for part in components.found if part.voxels >= 3])
    np.testing.assert_array_equal(mask_ijk, np.isin(labels, np.flatnonzero(voxels >= 3) + 1))


def test_a_bridge_over_several_slices_joins_what_a_slice_shows_apart() -> None:
    mask_ijk = np.zeros((9, 9, 3), dtype=bool)
    mask_ijk[1, 1, 0] = mask_ijk[7, 7, 0] = True
    mask_ijk[1:8, 1:8, 1] = np.eye(7, dtype=bool)  # corners touch
    components = Components(mask_ijk, 2)
    assert [(part.voxels, part.area_px) for part in components.found] == [(9, {0: 2, 1: 7})]


@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5, 1)])
def test_an_empty_mask_has_no_component(shape: tuple[int, ...]) -> None:
    components = Components(np.zeros(shape, dtype=bool), 2)
    assert components.found == []
    components.keep([])


def test_area_box_and_key_slice() -> None:
    mask_ijk = two_blocks()
    mask_ijk[1:3, 5, 3] = True
    block, plate = Components(mask_ijk, 2).found
    assert (block.voxels, block.area_px, block.key_slice) == (26, {1: 6, 2: 6, 3: 8, 4: 6}, 3)
    assert (block.start_ijk, block.stop_ijk) == ((1, 2, 1), (3, 6, 5))
    assert (plate.voxels, plate.key_slice, plate.centroid_ijk) == (9, 6, (8.0, 7.0, 6.0))


def test_of_equal_slices_the_first_is_the_key_slice() -> None:
    assert Components(two_blocks(), 2).found[0].key_slice == 1


def test_one_component_of_one_slice() -> None:
    components = Components(two_blocks(), 0)
    block, plate = components.found
    slab = components.slab(block, 2)
    assert slab.shape == (1, 10, 8) and slab.sum() == 12 and slab[0, 2:5, 1:5].all()
    assert not components.slab(plate, 2).any()


def test_several_components_as_one() -> None:
    components = Components(two_blocks(), 2)
    whole = components.merged(components.found)
    assert (whole.voxels, whole.start_ijk, whole.stop_ijk) == (33, (1, 2, 1), (10, 9, 7))
    centroid = (24 * np.array([1.5, 3, 2.5]) + 9 * np.array([8, 7, 6])) / 33
    np.testing.assert_allclose(whole.centroid_ijk, centroid)
    assert components.slab(whole, 6).sum() == 9


@pytest.mark.parametrize(
    ("options", "voxels"),
    [
        (VolumeOptions(min_volume_mm3=0), [24, 9]),
        (VolumeOptions(min_volume_mm3=36), [24, 9]),  # 9 voxels of 4 mm3
        (VolumeOptions(min_volume_mm3=36.1), [24]),
        (VolumeOptions(min_volume_mm3=1000), []),
    ],
)
def test_what_is_too_small_goes(options: VolumeOptions, voxels: list[int]) -> None:
    components = Components(two_blocks(), 2)
    kept = large_enough(components.found, options, voxel_mm3(AFFINE))
    assert [part.voxels for part in kept] == voxels


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"axis": "oblique"}, "axis 'oblique': unknown"),
        ({"batch_size": 0}, "at least 1"),
        ({"keep_largest": 0}, "at least 1"),
        ({"min_volume_mm3": -1.0}, "0 or more"),
        ({"min_volume_mm3": float("nan")}, "0 or more"),
    ],
)
def test_options_that_make_no_sense(settings: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        VolumeOptions(**settings)


def test_a_voxel_of_a_sheared_grid_is_a_parallelepiped() -> None:
    """A gantry tilted by 20 degrees: slices 3 mm apart along the table, but only cos(20) * 3 mm thick."""
    angle = np.deg2rad(20)
    affine = np.eye(4)
    affine[:3, 1] = (0, np.cos(angle), np.sin(angle))
    affine[2, 2] = 3
    assert voxel_mm3(affine) == pytest.approx(3 * np.cos(angle))


def test_a_finding_in_millimetres() -> None:
    """Voxels of 2 x 0.5 x 4 mm; the first axis runs to the patient's left."""
    frame = VolumeFrame((12, 10, 8), AFFINE, "axial", 0)
    words = find(np.eye(10, dtype=bool))[0]
    block = Components(two_blocks(), 2).found[0]
    finding = volume_finding(block, words, number=1, frame=frame)
    assert (finding.voxels, finding.volume_ml) == (24, 0.096)
    assert finding.extent_mm == {"left_right": 4.0, "front_back": 1.5, "head_feet": 16.0}
    assert finding.centroid_ras_mm == (97.0, -48.5, 20.0)  # 100 - 2 * 1.5, -50 + 0.5 * 3, 10 + 4 * 2.5
    assert (finding.key_slice, finding.slice_range) == (1, (1, 4))
    record = statistics_of(
        [finding],
        options=VolumeOptions(),
        removed=2,
        presence_prob_S=np.array([0.1, 0.9, 0.6]),
        presence_threshold=0.5,
    )
    assert record["volume_ml"] == 0.096 and record["cleaning"]["components_removed"] == 2
    assert record["presence"]["slices_above_threshold"] == 2 and record["presence"]["highest_in_slice"] == 1
    assert record["findings"][0]["zone"] == words.zone
    assert record["summary"] == (
        "In the volume: 1 finding of 0.096 ml; it measures 4 x 2 x 16 mm (left-right x front-back x head-feet) and"
        " shows in axial slices 1 to 4, most of it in slice 1 (counted from 0)."
    )


def test_nothing_found_is_said() -> None:
    record = statistics_of([], options=VolumeOptions(), removed=0, presence_prob_S=np.zeros(3), presence_threshold=0.5)
    assert record["volume_ml"] == 0 and record["summary"] == "In the volume: nothing is marked in 3 axial slices."


@pytest.mark.parametrize(
    ("decided", "meant", "others"),
    [
        ({}, None, {}),
        ({0: (None, True), 4: (None, True)}, None, {}),
        ({1: ("liver", True), 2: ("aorta", True), 3: ("aorta", False)}, "aorta", {1: "liver"}),
        ({1: ("liver", True), 2: ("aorta", False), 3: ("aorta", False)}, "liver", {2: "aorta", 3: "aorta"}),
        ({1: ("liver", True), 2: (None, False), 3: (None, False)}, "liver", {2: None, 3: None}),
        ({1: ("liver", False), 2: (None, False), 3: (None, False)}, None, {1: "liver"}),
        ({1: ("liver", False), 2: ("liver", False), 3: ("aorta", False)}, None, {3: "aorta"}),
    ],
)
def test_a_volume_is_about_what_most_slices_are_sure_of(decided, meant, others):
    assert meant_in(decided) == (meant, others)
