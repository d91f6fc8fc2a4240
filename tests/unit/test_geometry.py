"""Frames and their inverses; what a reader of radiographs expects is written out from the patient's coordinates."""

import numpy as np
import pytest
import torch

from prsmed.errors import DataError
from prsmed.geometry import (
    Frame,
    Geometry,
    PatientAxes,
    VolumeFrame,
    box_center_px,
    from_center,
    in_image,
    lps_ras,
    mask_to_box,
    resize_mask,
    resize_prob,
)
from prsmed.types import SLICE_AXES
from tests.unit.orientations import AFFINES, SHAPE_IJK, SIZES_RAS_MM, world_ras

# Patient axis (0 right, 1 front, 2 head) that falls along the columns and along the rows of a displayed slice. Each
# falls: right is on the left of the picture, front and head at its top, front on the left of a sagittal slice.
COLUMNS_AND_ROWS = {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}
SIZES_HW_PX = [(512, 1024), (1024, 512), (333, 777)]


def _frame(affine: np.ndarray, axis: str, index: int = 1) -> VolumeFrame:
    return VolumeFrame(SHAPE_IJK, tuple(tuple(row) for row in affine.tolist()), axis, index)


def _box_mask(hw_px: tuple[int, int], box: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros(hw_px, bool)
    x0, y0, x1, y1 = box
    mask[y0:y1, x0:x1] = True
    return mask


@pytest.mark.parametrize("axis", SLICE_AXES)
def test_slices_are_displayed_in_radiological_convention(axis):
    along_columns, along_rows = COLUMNS_AND_ROWS[axis]
    for affine in AFFINES:
        shown = [_frame(affine, axis).take(part) for part in world_ras(affine)]
        assert (np.diff(shown[along_columns], axis=1) < 0).all(), affine
        assert (np.diff(shown[along_rows], axis=0) < 0).all(), affine
        through = shown[3 - along_columns - along_rows]
        assert np.ptp(through) == 0


@pytest.mark.parametrize("axis", SLICE_AXES)
def test_put_is_the_inverse_of_take(axis):
    array = np.random.default_rng(0).normal(size=SHAPE_IJK)
    for affine in AFFINES:
        frame = _frame(affine, axis, index=2)
        copy = np.zeros(SHAPE_IJK)
        frame.put(frame.take(array), copy)
        kept = [slice(None)] * 3
        kept[frame.array_axis] = slice(2, 3)
        np.testing.assert_array_equal(copy[tuple(kept)], array[tuple(kept)])
        assert np.count_nonzero(copy) == array[tuple(kept)].size


@pytest.mark.parametrize("axis", SLICE_AXES)
def test_pixel_sizes_follow_the_patients_axes(axis):
    along_columns, along_rows = COLUMNS_AND_ROWS[axis]
    for affine in AFFINES:
        assert _frame(affine, axis).spacing_hw_mm == (SIZES_RAS_MM[along_rows], SIZES_RAS_MM[along_columns])


@pytest.mark.parametrize("axis", SLICE_AXES)
def test_patient_axes_say_what_the_slice_shows(axis):
    """Letters, slice position and shares against the patient's coordinates of the displayed pixels."""
    letters = ("LR", "PA", "FH")  # towards which the coordinates (right, front, head) fall and rise
    along_columns, along_rows = COLUMNS_AND_ROWS[axis]
    along_slices = 3 - along_columns - along_rows
    for affine in AFFINES:
        frame = _frame(affine, axis)
        world = world_ras(affine)
        axes = Geometry((1, 1), (1, 1), volume=frame).patient_axes
        assert (axes.right, axes.down, axes.view) == (letters[along_columns][0], letters[along_rows][0], axis)
        following = _frame(affine, axis, index=2).take(world[along_slices])[0, 0]
        here = frame.take(world[along_slices])[0, 0]
        assert axes.through == letters[along_slices][int(following > here)]
        assert axes.slice_share == 1.5 / SHAPE_IJK[frame.array_axis]
        assert axes.oblique_deg == pytest.approx(0, abs=1e-6)
        shown = [frame.take(part) for part in world]
        height, width = shown[0].shape
        for coordinate, (_, rising) in enumerate(letters):
            half_mm = SIZES_RAS_MM[coordinate] / 2
            low, high = world[coordinate].min() - half_mm, world[coordinate].max() + half_mm
            share = (shown[coordinate][1, 2] - low) / (high - low)
            assert axes.share_towards(rising, 2.5 / width, 1.5 / height) == pytest.approx(share)


@pytest.mark.parametrize(("axis_ras", "angle_deg"), [(0, 10), (1, 20), (2, 40)])
def test_the_angle_of_an_oblique_slice_is_the_turn_about_a_patient_axis(axis_ras, angle_deg):
    turn = np.deg2rad(angle_deg)
    first, second = (axis for axis in range(3) if axis != axis_ras)
    rotation = np.eye(4)
    rotation[[first, first, second, second], [first, second, first, second]] = (
        np.cos(turn),
        -np.sin(turn),
        np.sin(turn),
        np.cos(turn),
    )
    for axis in SLICE_AXES:
        axes = _frame(rotation @ np.diag([-1.0, -2.0, 3.0, 1.0]), axis).patient_axes()
        assert axes.oblique_deg == pytest.approx(angle_deg) and axes.view == axis


def test_views_of_pictures_by_what_their_file_states():
    views = {("L", "F"): "frontal", ("R", "F"): "frontal", ("P", "F"): "lateral", ("A", "F"): "lateral"}
    views |= {("F", "L"): "frontal", ("L", "P"): "axial", ("L", ""): "", ("", ""): ""}
    assert {letters: PatientAxes(*letters).view for letters in views} == views
    axes = PatientAxes("R", "F")
    shares = [axes.share_towards(letter, 0.2, 0.9) for letter in "RLFHAP"]
    assert shares == pytest.approx([0.2, 0.8, 0.9, 0.1, None, None])


def test_an_oblique_volume_takes_the_nearest_axes():
    turn = np.deg2rad(20)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[:2, :2] = -np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    array = np.arange(np.prod(SHAPE_IJK)).reshape(SHAPE_IJK)
    # first axis to the left, second to the back, as displayed already: rows are j and columns i
    np.testing.assert_array_equal(_frame(affine, "axial", index=3).take(array), array[:, :, 3].T)


def test_a_slice_mask_goes_back_to_its_volume():
    frame = _frame(AFFINES[5], "coronal", index=3)
    truth = np.random.default_rng(1).random(SHAPE_IJK) > 0.5
    picture = frame.take(truth)
    geometry = Geometry(picture.shape, (64, 64), frame.spacing_hw_mm, frame)
    volume = geometry.mask_to_source(picture)
    assert volume.dtype == bool and volume.shape == SHAPE_IJK
    np.testing.assert_array_equal(frame.take(volume), picture)
    assert volume.sum() == picture.sum()
    with pytest.raises(DataError, match=r"mask is \(64, 64\)"):
        geometry.mask_to_source(np.zeros((64, 64), bool))


def test_a_picture_is_its_own_source_grid():
    mask = _box_mask((20, 30), (3, 4, 9, 8))
    assert Geometry((20, 30), (10, 15)).mask_to_source(mask) is mask


@pytest.mark.parametrize("hw_px", SIZES_HW_PX)
@pytest.mark.parametrize("frame", [Frame(128), Frame(128, "squash"), Frame(1024)], ids=str)
def test_boxes_go_there_and_back(hw_px, frame):
    geometry = Geometry(hw_px, frame.content_hw_px(hw_px) if frame.mode == "pad" else (96, 128))
    height, width = hw_px
    for box in [(0, 0, width, height), (17, 29, 40, 31), (width - 1, height - 1, width, height)]:
        canonical = geometry.box_to_canonical(box)
        framed = frame.box_from_canonical(canonical, geometry.canonical_hw_px)
        assert max(framed) <= frame.size_px + 1e-9
        back = geometry.box_to_slice(frame.box_to_canonical(framed, geometry.canonical_hw_px))
        np.testing.assert_allclose(back, box, atol=1e-9)


@pytest.mark.parametrize("hw_px", SIZES_HW_PX)
def test_a_masks_box_survives_to_half_a_pixel_of_the_coarser_grid(hw_px):
    height, width = hw_px
    canonical_hw_px = Frame(256).content_hw_px(hw_px)
    geometry = Geometry(hw_px, canonical_hw_px)
    box = (width // 5, height // 7, width // 2 + 3, height // 2 + 5)
    small = mask_to_box(geometry.mask_to_canonical(_box_mask(hw_px, box)))
    half_px = 0.5 * max(height / canonical_hw_px[0], width / canonical_hw_px[1])
    assert np.abs(np.subtract(geometry.box_to_slice(small), box)).max() <= half_px + 1e-6


@pytest.mark.parametrize("hw_px", SIZES_HW_PX)
def test_a_mask_returns_to_its_slice(hw_px):
    geometry = Geometry(hw_px, Frame(128).content_hw_px(hw_px))
    height, width = hw_px
    mask = _box_mask(hw_px, (width // 4, height // 4, width // 2, height // 2))
    padded = torch.zeros(140, 150)
    rows, columns = geometry.canonical_hw_px
    padded[:rows, :columns] = torch.from_numpy(geometry.mask_to_canonical(mask)).float()
    padded[rows:], padded[:, columns:] = 1.0, 1.0  # what is predicted on padding must not come back
    back = geometry.prob_to_slice(padded).numpy() >= 0.5
    assert back.shape == hw_px
    assert 2 * (back & mask).sum() / (back.sum() + mask.sum()) > 0.95
    assert not back[-1].any() and not back[:, -1].any()


@pytest.mark.parametrize("to_hw_px", [(8, 8), (64, 13), (100, 300), (1, 1)])
def test_a_mask_is_never_lost_and_never_made_up(to_hw_px):
    rng = np.random.default_rng(2)
    for _ in range(20):
        mask = np.zeros((int(rng.integers(1, 200)), int(rng.integers(1, 200))), bool)
        assert not resize_mask(mask, to_hw_px).any() and resize_mask(mask, to_hw_px).shape == to_hw_px
        mask[rng.integers(mask.shape[0]), rng.integers(mask.shape[1])] = True
        resized = resize_mask(mask, to_hw_px)
        assert resized.any() and resized.shape == to_hw_px and resized.dtype == bool


def test_a_mask_on_its_own_grid_stays_and_is_a_copy():
    mask = _box_mask((6, 7), (1, 2, 4, 5))
    same = resize_mask(mask, (6, 7))
    np.testing.assert_array_equal(same, mask)
    same[:] = False
    assert mask.any()


def test_resizing_a_map_keeps_places():
    ramp = (torch.arange(40) + 0.5)[None].expand(20, 40) / 40
    smaller = resize_prob(ramp, (10, 16))
    tenth_of_a_pixel = 0.1 / 16  # the filter's weights are sampled, so places move a little
    np.testing.assert_allclose(smaller[0, 2:-2], (np.arange(16) + 0.5)[2:-2] / 16, atol=tenth_of_a_pixel)


@pytest.mark.parametrize(
    ("frame", "content_hw_px"), [(Frame(64), (32, 64)), (Frame(64, "squash"), (64, 64))], ids=["pad", "squash"]
)
def test_images_enter_and_leave_a_frame(frame, content_hw_px):
    rows, columns = content_hw_px
    x = ((torch.arange(40) + 0.5) / 40).expand(20, 40)
    y = ((torch.arange(20) + 0.5) / 20)[:, None].expand(20, 40)
    common = torch.full((2, 2, 50, 60), 9.0)  # the second image fills the canonical grid, the first has padding
    common[0, :, :20, :40] = torch.stack([x, y])
    framed = frame.enter(common, [(20, 40), (50, 60)])
    assert framed.shape == (2, 2, 64, 64)
    np.testing.assert_allclose(framed[0, 0, 5, 3:-3], ((np.arange(64) + 0.5) / 64)[3:-3], atol=1e-5)
    np.testing.assert_allclose(framed[0, 1, 3 : rows - 3, 5], ((np.arange(rows) + 0.5) / rows)[3:-3], atol=1e-5)
    assert (framed[0, :, rows:] == 0).all() and (framed[0, :, :, columns:] == 0).all()
    left = frame.leave(framed, [(20, 40), (50, 60)], (50, 60))
    np.testing.assert_allclose(left[0, 0, 2:18, 2:38], common[0, 0, 2:18, 2:38], atol=0.1 / 40)  # a tenth of a pixel
    np.testing.assert_allclose(left[0, 1, 2:18, 2:38], common[0, 1, 2:18, 2:38], atol=0.1 / 20)
    assert (left[0, :, 20:] == 0).all() and (left[0, :, :, 40:] == 0).all()
    np.testing.assert_allclose(left[1], common[1], atol=1e-5)


def test_a_coarse_map_leaves_the_frame_over_the_whole_image():
    # a 4 x 4 map of a 64 px frame; the image fills its left half
    coarse = torch.tensor([1.0, 1.0, 7.0, 7.0]).expand(1, 1, 4, 4)
    left = Frame(64).leave(coarse, [(40, 20)], (40, 20))
    assert left.shape == (1, 1, 40, 20) and (left == 1).all()


def test_centres_of_patches_as_a_share_of_the_image():
    # frame 8, 2 x 2 patches: centres at 2 and 6 px; the image is 8 wide and 4 high in the frame
    centers = Frame(8).patch_centers_norm(2, [(4, 8), (8, 8)])
    assert centers.tolist() == [
        [[0.25, 0.5], [0.75, 0.5], [0.25, 1.5], [0.75, 1.5]],
        [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]],
    ]
    assert in_image(centers).tolist() == [[True, True, False, False], [True] * 4]
    assert in_image(Frame(8).patch_centers_norm(2, [(8, 4)])).tolist() == [[True, False, True, False]]


def test_boxes_are_half_open():
    mask = _box_mask((9, 12), (3, 2, 7, 5))
    assert mask_to_box(mask) == (3, 2, 7, 5)
    assert box_center_px((3, 2, 7, 5)) == (5.0, 3.5)
    assert mask_to_box(np.zeros((4, 4), bool)) is None
    # MediSee's golden value: rows 10 to 19 and columns 40 to 59 of 100 x 200 are (.2, .1, .3, .2), half-open.
    golden = mask_to_box(_box_mask((100, 200), (40, 10, 60, 20)))
    assert np.divide(golden, (200, 100, 200, 100)).tolist() == [0.2, 0.1, 0.3, 0.2]


def test_offsets_from_the_center_are_in_units_of_the_shorter_side():
    """By hand: in a picture of 100 x 200, three quarters along a row is 50 px off the centre, half a short side."""
    centers = torch.tensor([[[0.75, 0.5], [0.5, 0.0]], [[0.75, 0.5], [0.5, 0.0]]])
    offsets = from_center(centers, [(100, 200), (200, 100)])
    assert offsets.tolist() == [[[0.5, 0.0], [0.0, -0.5]], [[0.25, 0.0], [0.0, -1.0]]]


def test_left_and_back_are_negative_here_and_positive_in_dicom() -> None:
    """PS3.3 C.7.6.2.1.1: DICOM's x grows to the patient's left and y to the back; ours to the right and the front."""
    left_back_head_lps = np.array([[3.0, 5.0, 7.0]])
    assert lps_ras(left_back_head_lps).tolist() == [[-3.0, -5.0, 7.0]]
    assert np.array_equal(lps_ras(lps_ras(left_back_head_lps)), left_back_head_lps)
