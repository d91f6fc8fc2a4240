"""Masks and overlays as pictures. Colours and sizes asserted here follow from the drawing rules in the docstrings."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prsmed.data.writers import contact_sheet, draw_overlay, to_display, write_mask, write_overlay, write_picture
from prsmed.data.writers.picture import BOX_RGB, PREDICTION_RGB, TRUTH_RGB
from prsmed.errors import DataError

GREY_HWC = np.full((40, 60, 1), 100, dtype=np.uint8)


def square_HW(top: int, left: int, side: int) -> np.ndarray:
    mask_HW = np.zeros(GREY_HWC.shape[:2], dtype=bool)
    mask_HW[top : top + side, left : left + side] = True
    return mask_HW


def pixels_of(colour: tuple[int, int, int], overlay: np.ndarray) -> np.ndarray:
    return (overlay == colour).all(axis=2)


def test_a_mask_comes_back_as_it_went(tmp_path: Path) -> None:
    mask_HW = square_HW(3, 5, 7)
    write_mask(tmp_path / "new" / "mask.png", mask_HW)
    with Image.open(tmp_path / "new" / "mask.png") as stored:
        assert stored.mode == "L"
        np.testing.assert_array_equal(np.array(stored), np.where(mask_HW, 255, 0))
    assert os.listdir(tmp_path / "new") == ["mask.png"]


@pytest.mark.parametrize("mask", [np.zeros((4, 4), np.uint8), np.zeros((1, 4, 4), bool)])
def test_only_bool_masks_are_written(tmp_path: Path, mask: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"a\.png: a mask is bool"):
        write_mask(tmp_path / "a.png", mask)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mask.png"
    write_mask(path, square_HW(0, 0, 3))
    before = path.read_bytes()

    def full_disk(self: Image.Image, part: Path, **_: object) -> None:
        part.write_bytes(b"half a picture")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(DataError, match="No space left on device"):
        write_mask(path, square_HW(0, 0, 9))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["mask.png"]


def test_a_folder_that_cannot_be_made_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="choose another output folder"):
        write_picture(tmp_path / "file" / "a.png", np.zeros((2, 2), np.uint8))


def test_small_pictures_grow_by_a_whole_factor() -> None:
    assert draw_overlay(GREY_HWC, min_side_px=100).shape == (120, 180, 3)  # 100 / 40 rounded up is 3
    assert draw_overlay(GREY_HWC, min_side_px=40).shape == (40, 60, 3)
    assert draw_overlay(np.zeros((2, 1500, 3), np.uint8)).shape == (2, 1500, 3)  # a strip would grow to 192,000 px


def test_without_marks_the_picture_stays_as_it_is() -> None:
    picture_HWC = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    np.testing.assert_array_equal(draw_overlay(picture_HWC, min_side_px=30), picture_HWC)


def test_equal_prediction_and_truth_are_both_seen() -> None:
    mask_HW = square_HW(10, 20, 12)
    overlay = draw_overlay(GREY_HWC, mask_HW=mask_HW, truth_HW=mask_HW, min_side_px=40)[:40]
    prediction_HW, truth_HW = pixels_of(PREDICTION_RGB, overlay), pixels_of(TRUTH_RGB, overlay)
    assert prediction_HW.any() and not (prediction_HW & mask_HW).any()
    # a frame two pixels thick just inside the square: 12 x 12 - 8 x 8
    assert truth_HW.sum() == 80 and not (truth_HW & ~mask_HW).any()
    inside = overlay[16, 26].astype(int)
    assert inside[2] > 100 + 30  # 0.7 x 100 + 0.3 x 233, towards the blue of the prediction
    np.testing.assert_array_equal(overlay[0, 0], [100, 100, 100])


def test_a_truth_that_fills_the_picture_has_an_outline() -> None:
    overlay = draw_overlay(GREY_HWC, truth_HW=np.ones((40, 60), bool), min_side_px=40)
    assert pixels_of(TRUTH_RGB, overlay)[0].all()


def test_the_box_is_half_open() -> None:
    overlay = draw_overlay(GREY_HWC, box_xyxy_px=(10, 5, 20, 9), min_side_px=80)
    y, x = np.nonzero(pixels_of(BOX_RGB, overlay))
    assert (x.min(), y.min(), x.max() + 1, y.max() + 1) == (20, 10, 40, 18)  # twice the box


def test_an_empty_box_and_an_empty_mask_draw_nothing() -> None:
    overlay = draw_overlay(GREY_HWC, mask_HW=square_HW(0, 0, 0), box_xyxy_px=(5, 5, 5, 5), min_side_px=40)
    np.testing.assert_array_equal(overlay, np.full((40, 60, 3), 100))


def test_the_legend_needs_both_masks() -> None:
    mask_HW = square_HW(10, 10, 5)
    assert draw_overlay(GREY_HWC, mask_HW=mask_HW).shape[0] == 280  # 7 x 40, no band
    both = draw_overlay(GREY_HWC, mask_HW=mask_HW, truth_HW=~mask_HW)
    assert pixels_of(PREDICTION_RGB, both[280:]).any() and pixels_of(TRUTH_RGB, both[280:]).any()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "Wo ist die Läsion?",
        "病変はどこですか" * 30,
        "где опухоль",
        "أين الآفة؟",
        "😀",
        "a\x00b\n\tc",
        "\ud800",
        "x" * 20_000,
    ],
    ids=["empty", "blank", "latin", "chinese", "cyrillic", "arabic", "emoji", "control", "surrogate", "long"],
)
def test_any_caption_can_be_drawn(text: str) -> None:
    overlay = draw_overlay(GREY_HWC, caption=[text, "second line"])
    assert overlay.shape[1] == 420 and 280 < overlay.shape[0] < 1000
    assert (overlay[280:] > 200).all(axis=2).any()  # something light is written on the band


def test_a_long_caption_takes_more_lines_and_keeps_its_width() -> None:
    short = draw_overlay(GREY_HWC, caption=["Where is the lesion?"])
    long = draw_overlay(GREY_HWC, caption=["Where is the lesion? " * 10])
    assert long.shape[1] == short.shape[1]
    assert long.shape[0] > short.shape[0]


def test_a_narrow_picture_has_room_for_its_caption() -> None:
    overlay = draw_overlay(np.zeros((1000, 10, 3), np.uint8), caption=["Where is the lesion?"])
    assert overlay.shape[1] == 256


@pytest.mark.parametrize(
    ("picture", "mask", "message"),
    [
        (np.zeros((4, 4), np.uint8), None, "a picture to draw on is uint8"),
        (np.zeros((4, 4, 3), np.float32), None, "a picture to draw on is uint8"),
        (GREY_HWC, np.zeros((60, 40), bool), r"prediction is \(60, 40\), its picture is \(40, 60\)"),
    ],
)
def test_what_does_not_fit_is_refused(picture: np.ndarray, mask: np.ndarray | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        draw_overlay(picture, mask_HW=mask)


def test_an_overlay_is_written_as_drawn(tmp_path: Path) -> None:
    drawing = {"mask_HW": square_HW(4, 4, 4), "caption": ["a caption"]}
    write_overlay(tmp_path / "overlay.png", GREY_HWC, **drawing)
    with Image.open(tmp_path / "overlay.png") as stored:
        np.testing.assert_array_equal(np.array(stored), draw_overlay(GREY_HWC, **drawing))


def test_a_contact_sheet_holds_every_picture() -> None:
    pictures = [np.full((10 + index, 20, 3), 50 + index, np.uint8) for index in range(5)]
    sheet = contact_sheet(pictures, columns=3)
    assert sheet.shape == (8 + 12 + 8 + 14 + 8, 8 + 3 * 28, 3)  # gaps of 8 px, rows as high as their highest
    for index, picture in enumerate(pictures):
        assert (sheet == 50 + index).all(axis=2).sum() == picture.shape[0] * 20
    assert contact_sheet(pictures[:1]).shape == (26, 36, 3)
    with pytest.raises(DataError, match="needs a picture"):
        contact_sheet([])


def test_to_display_takes_channels_first_and_last() -> None:
    image_CHW = np.linspace(0, 1, 3 * 4 * 5, dtype=np.float32).reshape(3, 4, 5)
    shown = to_display(image_CHW)
    assert shown.dtype == np.uint8 and shown.shape == (4, 5, 3)
    assert shown[0, 0, 0] == 0 and shown[-1, -1, 2] == 255
    np.testing.assert_array_equal(to_display(image_CHW.transpose(1, 2, 0)), shown)
    np.testing.assert_array_equal(to_display(np.array([[[-1.0, np.nan, 7.0]]])), [[[0, 0, 255]]])
    with pytest.raises(DataError, match=r"got \(1, 4, 4\)"):
        to_display(np.zeros((1, 4, 4)))
