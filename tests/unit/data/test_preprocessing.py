"""The steps of configs/train.json on synthetic pictures and volumes; expected values are the steps' own formulas."""

import json
import tracemalloc

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from prsmed.data.preprocessing import TRANSFORMS, Preprocessing
from prsmed.data.slicing import volume_frame
from prsmed.errors import DataError, RequestError
from prsmed.geometry import resize_mask
from prsmed.types import MODALITIES, SLICE_AXES, SliceRef, SourceImage
from tests.unit.orientations import AFFINES

SIDE_PX = 128
LPI = np.diag([-1.0, -1.0, -1.0, 1.0])  # the stored array is the displayed one


@pytest.fixture(scope="module")
def steps(repository):
    return json.loads((repository / "configs/train.json").read_text(encoding="utf-8"))["preprocessing_steps"]


@pytest.fixture(scope="module")
def preprocessing(steps):
    return Preprocessing(steps)


def _step(steps, name, modality):
    (step,) = [step for step in steps if step["transform"] == name and modality in step["modalities"]]
    return step


def _picture(dtype, hw_px=(60, 100), channels=1):
    values = np.random.default_rng(0).integers(10, 250, size=(*hw_px, channels))
    scale = {"uint8": 1, "uint16": 16, "float32": 0.37}[dtype]
    return SourceImage((values * scale).astype(dtype), path=f"picture of {dtype}")


def _volume(array_ijk, affine=LPI):
    spacing_mm = tuple(np.linalg.norm(affine[:3, :3], axis=0).tolist())
    return SourceImage(array_ijk, affine, spacing_mm, path="volume.nii.gz")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("modality", MODALITIES)
def test_every_picture_becomes_canonical(preprocessing, modality, dtype, channels):
    image, geometry = preprocessing(_picture(dtype, channels=channels), modality=modality)
    assert type(image) is torch.Tensor and image.dtype == torch.float32
    assert image.shape == (3, 77, SIDE_PX)  # 60 x 100 with a long side of 128
    assert 0 <= float(image.min()) < 0.2 and 0.8 < float(image.max()) <= 1
    assert (geometry.slice_hw_px, geometry.canonical_hw_px) == ((60, 100), (77, SIDE_PX))
    assert geometry.volume is None and geometry.spacing_hw_mm is None


@pytest.mark.parametrize("hw_px", [(512, 1024), (1024, 512), (3, 700)])
def test_the_long_side_is_the_configured_one(preprocessing, hw_px):
    image, geometry = preprocessing(_picture("uint8", hw_px), modality="endoscopy")
    scale = SIDE_PX / max(hw_px)
    assert image.shape[1:] == tuple(max(1, round(side * scale)) for side in hw_px) == geometry.canonical_hw_px


def test_eight_bit_is_divided_by_255_and_more_by_its_own_range(preprocessing):
    array = np.full((SIDE_PX, SIDE_PX, 1), 51, np.uint8)
    assert preprocessing(SourceImage(array), modality="dermoscopy")[0].unique().tolist() == [pytest.approx(0.2)]
    for dtype in (np.uint16, np.float32):
        array = np.tile(np.array([1000, 1500, 3000, 2000], dtype), (SIDE_PX, 32))[..., None]
        image, _ = preprocessing(SourceImage(array), modality="ultrasound")
        np.testing.assert_allclose(image[0, 0, :4], [0, 0.25, 1, 0.5], atol=1e-6)


@pytest.mark.filterwarnings("ignore:Divide by zero")  # MONAI's, on the constant picture
def test_a_constant_picture_is_black_or_its_own_value_not_nan(preprocessing):
    for dtype in (np.uint8, np.uint16, np.float32):
        for modality in MODALITIES:
            image, _ = preprocessing(SourceImage(np.full((20, 20, 1), 7, dtype)), modality=modality)
            assert torch.isfinite(image).all() and float(image.max()) <= 7 / 255 + 1e-6


@pytest.mark.parametrize("modality", ["mri", "x-ray"])
def test_percentiles_of_a_picture(preprocessing, steps, modality):
    step = _step(steps, "ScalePercentilesd", modality)
    array = np.random.default_rng(1).integers(0, 4000, size=(SIDE_PX, SIDE_PX, 1)).astype(np.uint16)
    low, high = np.percentile(array, [step["lower"], step["upper"]])
    image, _ = preprocessing(SourceImage(array), modality=modality)
    np.testing.assert_allclose(image[0], np.clip((array[..., 0] - low) / (high - low), 0, 1), atol=1e-4)


def test_ct_volumes_are_cut_to_the_window(preprocessing, steps):
    step = _step(steps, "ScaleIntensityRanged", "ct")
    low, high = step["a_min"], step["a_max"]
    hounsfield = np.array([low - 500, low, (low + high) / 2, high, high + 900], np.float32)
    volume = np.broadcast_to(hounsfield, (16, 16, 5)).astype(np.int16)
    for index, expected in enumerate([0.0, 0.0, 0.5, 1.0, 1.0]):
        image, _ = preprocessing(_volume(volume), modality="ct", position=SliceRef("axial", index))
        np.testing.assert_allclose(image, expected, atol=1e-6)


def test_mri_volumes_are_scaled_by_the_percentiles_of_the_whole_volume(preprocessing, steps):
    step = _step(steps, "ScalePercentilesd", "mri")
    volume = np.random.default_rng(2).gamma(2.0, 100.0, size=(SIDE_PX, SIDE_PX, 3)).astype(np.float32)
    volume[..., 2] *= 3
    low, high = np.percentile(volume, [step["lower"], step["upper"]])
    image, geometry = preprocessing(_volume(volume), modality="mri", position=SliceRef("axial", 2))
    expected = np.clip((volume[..., 2].T - low) / (high - low), 0, 1)
    np.testing.assert_allclose(image[1], expected, atol=1e-4)
    assert geometry.slice_hw_px == geometry.canonical_hw_px == (SIDE_PX, SIDE_PX)


def test_spacing_makes_pixels_square_and_keeps_places(preprocessing):
    # columns of 1 mm, rows of 2.5 mm: 80 x 40 pixels are 80 x 100 mm
    volume = np.full((80, 40, 3), -1000, np.int16)
    volume[50:62, 8:14, 1] = 400
    affine = np.diag([-1.0, -2.5, -3.0, 1.0])
    image, geometry = preprocessing(_volume(volume, affine), modality="ct", position=SliceRef("axial", 1))
    assert geometry.slice_hw_px == (40, 80) and geometry.spacing_hw_mm == (2.5, 1.0)
    rows, columns = geometry.canonical_hw_px
    assert rows == SIDE_PX and columns == pytest.approx(SIDE_PX * 80 / 100, abs=1.5)
    mask = volume[..., 1].T > 0
    expected = np.argwhere(resize_mask(mask, geometry.canonical_hw_px)).mean(axis=0)
    weight = image[0].numpy()
    found = np.array([(weight * grid).sum() for grid in np.mgrid[:rows, :columns]]) / weight.sum()
    np.testing.assert_allclose(found, expected, atol=1.0)


def test_the_picture_of_a_volume_is_the_displayed_slice(preprocessing):
    # stored as RAS: the array's high end is the patient's right, front and head
    volume = np.full((SIDE_PX, SIDE_PX, 2), -1000, np.int16)
    volume[100:, 100:, 1] = 400
    image, geometry = preprocessing(_volume(volume, np.eye(4)), modality="ct", position=SliceRef("axial", 1))
    assert image[0, :28, :28].min() == 1 and image.sum() == 3 * 28 * 28  # right and front: top left
    np.testing.assert_array_equal(geometry.volume.take(volume) > 0, image[0].numpy() > 0.5)


def test_unknown_steps_are_refused():
    for name in ("torch.load", "Lambdad", None):
        with pytest.raises(RequestError, match=r"unknown; there is .*Spacingd"):
            Preprocessing([{"transform": name}])


def test_a_modality_without_an_intensity_step_is_an_error(steps):
    without = [step for step in steps if step["transform"] != "ScaleByDtyped"]
    with pytest.raises(DataError, match=r"picture of uint8: values from .* modality 'endoscopy'"):
        Preprocessing(without)(_picture("uint8"), modality="endoscopy")


def test_a_volume_needs_a_slice_that_it_has(preprocessing):
    volume = _volume(np.zeros((8, 8, 3), np.int16))
    with pytest.raises(RequestError, match=r"volume.nii.gz: is a volume; say which slice"):
        preprocessing(volume, modality="ct")
    with pytest.raises(DataError, match="no slice 3"):
        preprocessing(volume, modality="ct", position=SliceRef("axial", 3))


def test_a_picture_that_is_black_but_for_a_few_pixels_is_scaled_too(preprocessing):
    """Both percentiles are 0 then; MONAI's own transform would hand the grey values on as they are."""
    picture = np.zeros((64, 64, 1), np.uint8)
    picture[3, 4] = 5
    image, _ = preprocessing(SourceImage(picture, path="a.png"), modality="mri")
    assert float(image.min()) == 0 and 0 < float(image.max()) <= 1


def _whole_volume_at_once(steps, image, position):
    """MONAI's transforms on a float32 copy of the whole volume, one after the other."""
    voxels = MetaTensor(
        torch.from_numpy(image.array[None].astype(np.float32)), affine=torch.tensor(image.affine_ijk_to_ras)
    )
    frame = volume_frame(image, position)
    item = {
        "image": voxels,
        "volume_frame": frame,
        "source_dtype": "",
        "path": "",
        "modality": "",
        "is_inverted": False,
    }
    for step in steps:
        if step["transform"] == "SliceByAxisd":
            axis = 1 + {"sagittal": 0, "coronal": 1, "axial": 2}[position.axis]
            item["image"] = item["image"].narrow(axis, frame.display_index, 1)
        arguments = {key: step[key] for key in step if key not in ("transform", "form", "modalities")}
        item = TRANSFORMS[step["transform"]]("image", **arguments)(item)
    return item["image"]


@pytest.mark.parametrize("modality", ["ct", "mri"])
@pytest.mark.parametrize("axis", SLICE_AXES)
def test_slices_are_those_of_the_whole_volume(repository, modality, axis):
    """With the list of the shipped weights, which is older than `prepare`."""
    steps = json.loads((repository / "models/tiny/model.json").read_text(encoding="utf-8"))["preprocessing"]
    for number, affine in enumerate(AFFINES[::7]):
        array = np.random.default_rng(number).normal(0, 500, (34, 30, 26)).astype(np.int16)
        image = _volume(np.asarray(array, order="CF"[number % 2]), affine)
        prepared = Preprocessing(steps).prepare(image, modality=modality)
        for index in (0, 7, 25):
            shown, geometry = prepared.slice(SliceRef(axis, index))
            chosen = [
                step
                for step in steps
                if modality in step.get("modalities", [modality]) and step.get("form") != "picture"
            ]
            expected = _whole_volume_at_once(chosen, image, SliceRef(axis, index))
            np.testing.assert_allclose(shown, expected, atol=1e-6)
            assert geometry.volume == volume_frame(image, SliceRef(axis, index))


@pytest.mark.parametrize("modality", ["ct", "mri"])
def test_a_volume_is_not_copied(preprocessing, modality):
    """NumPy's memory is traced, and torch's tensors here start as NumPy arrays: a float copy would be 2 volumes."""
    array = np.random.default_rng(0).integers(-1000, 1000, (128, 128, 400)).astype(np.int16)
    image = _volume(np.asfortranarray(array))
    preprocessing(image, modality=modality, position=SliceRef("axial", 0))  # what is made once is made
    tracemalloc.start()
    prepared = preprocessing.prepare(image, modality=modality)
    for index in range(0, 400, 40):
        prepared.slice(SliceRef("axial", index))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert prepared.image.array is image.array
    assert peak_bytes < array.nbytes / 2


def test_what_the_file_says_of_a_picture_reaches_the_geometry(preprocessing):
    image = SourceImage(np.zeros((8, 9, 1), np.uint8), patient_axes=("L", "F"), laterality="left")
    _, geometry = preprocessing(image, modality="x-ray")
    assert (geometry.picture_axes, geometry.laterality) == (("L", "F"), "left")


def test_the_inversion_of_x_rays_changes_nothing_else(preprocessing, steps):
    without = Preprocessing([step for step in steps if step["transform"] != "InvertMonochrome1d"])
    for modality in MODALITIES:
        for dtype in ("uint8", "uint16", "float32"):
            before, after = (each(_picture(dtype), modality=modality)[0] for each in (without, preprocessing))
            assert torch.equal(before, after)


def test_resampling_a_whole_volume_is_refused(steps):
    turn, *others = steps
    spacing = next(step for step in steps if step["transform"] == "Spacingd")
    with pytest.raises(RequestError, match="move Spacingd behind SliceByAxisd"):
        Preprocessing([turn, spacing, *(step for step in others if step is not spacing)])
