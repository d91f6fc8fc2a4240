"""The intensity steps, on pictures and on volumes; expected values are the steps' own formulas."""

import warnings

import numpy as np
import pytest
import torch
from monai.transforms import ScaleIntensityRangePercentilesd

from prsmed.data.preprocessing import Preprocessing
from prsmed.data.scaling import CT_WINDOWS_HU, ScalePercentilesd
from prsmed.errors import RequestError
from prsmed.types import SliceRef, SourceImage

SIDE_PX = 32
LPI = np.diag([-1.0, -1.0, -1.0, 1.0])
AROUND_VOLUMES = (
    {"transform": "Orientationd", "axcodes": "LPI", "labels": None, "form": "volume"},
    {"transform": "SliceByAxisd", "form": "volume"},
    {"transform": "ToCanonicald", "long_side_px": SIDE_PX},
)


def _through(step, image, *, index=0, modality="mri", before=()):
    """The canonical image (first channel) of a list with just this intensity step."""
    turn, cut, resize = AROUND_VOLUMES
    position = SliceRef("axial", index) if image.is_volume else None
    canonical, _ = Preprocessing([turn, *before, step, cut, resize])(image, modality=modality, position=position)
    return canonical[0].numpy()


def _mri(background=0):
    """A body of 200 to 300 in a quarter of the volume, the rest background."""
    array = np.full((SIDE_PX, SIDE_PX, 4), background, np.float32)
    array[8:24, 8:24] = np.random.default_rng(0).uniform(200, 300, (16, 16, 4))
    return SourceImage(array, LPI, (1.0, 1.0, 1.0), path="mri.nii.gz")


@pytest.mark.parametrize(
    ("step", "low", "high"),
    [
        ({"window": "lung"}, -1350, 150),  # L -600, W 1500
        ({"window": "brain"}, 0, 80),  # L 40, W 80: the example of the source's text
        ({"window": "soft tissue"}, -150, 250),
        ({"window": "liver"}, -45, 105),
        ({"window": "bone"}, -500, 1300),
        ({"level": 10, "width": 30}, -5, 25),
    ],
)
def test_a_window_is_level_and_width(step, low, high):
    hounsfield = np.array([low - 100, low, (low + high) / 2, high, high + 100], np.float32)
    array = np.broadcast_to(hounsfield, (SIDE_PX, SIDE_PX, 5))
    image = SourceImage(array, LPI, (1.0, 1.0, 1.0), path="ct.nii.gz")
    for index, expected in enumerate([0, 0, 0.5, 1, 1]):
        shown = _through({"transform": "CTWindowd", **step}, image, index=index, modality="ct")
        np.testing.assert_allclose(shown, expected, atol=1e-6)


@pytest.mark.parametrize("hw_px", [(1, 1), (31, 45), (400, 300), (1100, 1000)])
@pytest.mark.parametrize("values", ["8 bit", "12 bit", "real", "three levels"])
@pytest.mark.parametrize("shares", [(1, 99), (0.5, 99.5), (0, 100)])
def test_percentiles_of_pictures_are_monai_s_to_the_last_bit(hw_px, values, shares):
    """Weights were trained on MONAI's values. Beyond a million pixels it asks NumPy, else torch."""
    rng = np.random.default_rng(0)
    if values == "real":
        picture = rng.normal(0, 1, (1, *hw_px))
    else:
        picture = rng.integers(0, {"8 bit": 256, "12 bit": 4096, "three levels": 3}[values], (1, *hw_px))
    item = {"image": torch.from_numpy(picture.astype(np.float32))}
    theirs = ScaleIntensityRangePercentilesd("image", *shares, b_min=0.0, b_max=1.0, clip=True, channel_wise=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one pixel, both percentiles are the same
        expected = torch.as_tensor(theirs(item)["image"]).clamp(0, 1)
    assert torch.equal(torch.as_tensor(ScalePercentilesd("image", *shares)(item)["image"]), expected)


def test_percentiles_out_of_order_are_refused():
    for lower, upper in ((99, 1), (-1, 99), (1, 101), (5, 5)):
        with pytest.raises(RequestError, match="give percentiles, 0 to 100, lower first"):
            ScalePercentilesd("image", lower, upper)


def test_windows_are_sane():
    for name, (level, width) in CT_WINDOWS_HU.items():
        assert -1000 <= level <= 1000 and 0 < width <= 4096, name


@pytest.mark.parametrize(
    "arguments", [{}, {"window": "soul"}, {"window": "lung", "level": 1}, {"level": 1, "width": 0}]
)
def test_a_window_that_is_none(arguments):
    with pytest.raises(RequestError, match=r"give one of brain, .* or a level and a width"):
        Preprocessing([{"transform": "CTWindowd", **arguments}])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize(
    "scale",
    [{"transform": "ScalePercentilesd", "lower": 0.5, "upper": 99.5}, {"transform": "ScaleByDtyped"}],
    ids=["percentiles", "dtype"],
)
def test_monochrome1_is_turned_round_and_nothing_else_is(dtype, scale):
    values = np.random.default_rng(1).integers(3, 250, (SIDE_PX, SIDE_PX, 1)).astype(dtype)
    invert = {"transform": "InvertMonochrome1d", "modalities": ["x-ray"]}
    plain = _through(scale, SourceImage(values), modality="x-ray")
    assert (plain == _through(scale, SourceImage(values), modality="x-ray", before=[invert])).all()
    turned = _through(scale, SourceImage(values, is_inverted=True), modality="x-ray", before=[invert])
    np.testing.assert_allclose(turned, 1 - plain, atol=1e-5)
    other = _through(scale, SourceImage(values, is_inverted=True), modality="ultrasound", before=[invert])
    np.testing.assert_array_equal(other, plain)


def test_percentiles_in_the_body_ignore_the_background():
    step = {"transform": "ScalePercentilesInBodyd", "lower": 2, "upper": 98, "body": "otsu"}
    small = _mri()
    body = small.array[8:24, 8:24]
    low, high = np.percentile(body, [2, 98])
    shown = _through(step, small)[8:24, 8:24]
    np.testing.assert_allclose(shown.T, np.clip((body[..., 0] - low) / (high - low), 0, 1), atol=1e-5)
    wide = np.zeros((96, 96, 4), np.float32)
    wide[:SIDE_PX, :SIDE_PX] = small.array
    large = Preprocessing([step]).prepare(SourceImage(wide, LPI, (1.0, 1.0, 1.0)), modality="mri")
    limits = Preprocessing([step]).prepare(small, modality="mri").transforms[0].scaler
    assert (large.transforms[0].scaler.a_min, large.transforms[0].scaler.a_max) == (limits.a_min, limits.a_max)


@pytest.mark.parametrize(("body", "background"), [("otsu", 0), ("positive", -5)])
def test_z_scores_in_the_body(body, background):
    image = _mri(background)
    values = image.array[8:24, 8:24].astype(np.float64)
    shown = _through({"transform": "ZScoreInBodyd", "limit": 2.0, "body": body}, image, index=1)
    z_scores = (values[..., 1] - values.mean()) / values.std()
    np.testing.assert_allclose(shown[8:24, 8:24].T, np.clip((z_scores + 2) / 4, 0, 1), atol=1e-5)


def test_each_channel_of_a_picture_is_measured_by_itself():
    channel = np.random.default_rng(2).uniform(50, 200, (SIDE_PX, SIDE_PX)).astype(np.float32)
    picture = SourceImage(np.stack([channel, 10 * channel, channel + 70], axis=-1))
    canonical, _ = Preprocessing(
        [{"transform": "ZScoreInBodyd", "body": "positive"}, {"transform": "ToCanonicald", "long_side_px": SIDE_PX}]
    )(picture, modality="mri")
    np.testing.assert_allclose(canonical[0], canonical[1], atol=1e-5)
    np.testing.assert_allclose(canonical[0], canonical[2], atol=1e-5)


def test_an_empty_volume_is_black():
    image = SourceImage(np.zeros((8, 8, 3), np.int16), LPI, (1.0, 1.0, 1.0))
    for step in ("ZScoreInBodyd", "ScalePercentilesInBodyd"):
        arguments = {} if step == "ZScoreInBodyd" else {"lower": 1, "upper": 99}
        assert not _through({"transform": step, **arguments}, image).any()


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"transform": "ZScoreInBodyd", "body": "skull"}, "use one of otsu, positive"),
        ({"transform": "ZScoreInBodyd", "limit": 0}, "above 0"),
        ({"transform": "N4BiasFieldCorrectiond", "shrink_factor": 0}, "at least 1"),
    ],
)
def test_arguments_without_sense(step, message):
    with pytest.raises(RequestError, match=message):
        Preprocessing([step])


def test_ranges_of_a_volume_are_those_of_the_whole_volume():
    array = np.stack([np.full((8, 8), value, np.uint16) for value in (100, 300, 500)], axis=-1)
    image = SourceImage(array, LPI, (1.0, 1.0, 1.0))
    for index, expected in enumerate([0, 0.5, 1]):
        assert _through({"transform": "ScaleByDtyped"}, image, index=index)[0, 0] == pytest.approx(expected)
