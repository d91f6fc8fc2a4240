"""Masks as PNG, and overlays: the picture with prediction, truth, box and caption drawn on it.

Colours are from the Okabe-Ito palette, which stays apart under the common colour vision deficiencies (Okabe and Ito,
"Color Universal Design", 2008); prediction and truth differ in style as well: a tinted area and a bare outline.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_dilation, binary_erosion

from prsmed.data.writers.atomic import replaced_whole
from prsmed.errors import DataError

PREDICTION_RGB = (86, 180, 233)
TRUTH_RGB = (240, 228, 66)
BOX_RGB = (255, 255, 255)
_BAND_RGB = (24, 26, 30)
_CAPTION_RGB = (235, 235, 235)
_FILL_OPACITY = 0.3

# Beyond this no picture is enlarged: a strip of few rows would become a picture of gigabytes.
_MAX_ENLARGED_SIDE_PX = 2048
_COMPRESS_LEVEL = 3  # soft masks take 16 % more room than at zlib's 6, and less than half the time
# A caption is for reading at a glance; a question of 20,000 characters is cut.
_MAX_CAPTION_CHARACTERS = 400


def write_mask(path: str | Path, mask_HW: np.ndarray) -> None:
    """Write a mask as a one-channel PNG of 0 and 255, in one step: readers see the old file or the whole new one.

    Args:
        path: the file; its folder is made where missing.
        mask_HW: bool, on the grid of its picture.

    Raises:
        DataError: not a bool (H, W) array, or a folder that cannot be written.
    """
    if mask_HW.ndim != 2 or mask_HW.dtype != bool:
        raise DataError(f"{path}: a mask is bool (H, W), got {mask_HW.dtype} {mask_HW.shape}; threshold it first")
    write_picture(path, mask_HW.astype(np.uint8) * 255)


def write_picture(path: str | Path, picture: np.ndarray) -> None:
    """Write a uint8 picture, (H, W) or (H, W, 3), as PNG in one step.

    Raises:
        DataError: another type or shape, or a folder that cannot be written.
    """
    if picture.dtype != np.uint8 or picture.shape[2:] not in ((), (3,)):
        raise DataError(f"{path}: a picture is uint8 (H, W) or (H, W, 3), got {picture.dtype} {picture.shape}")
    with replaced_whole(path) as part:
        Image.fromarray(picture).save(part, format="PNG", compress_level=_COMPRESS_LEVEL)


def write_overlay(path: str | Path, picture_HWC: np.ndarray, **drawing: Any) -> None:
    """Write what `draw_overlay` draws, with the same arguments and errors, as PNG in one step."""
    write_picture(path, draw_overlay(picture_HWC, **drawing))


def to_display(image: np.ndarray) -> np.ndarray:
    """Turn a canonical image into a picture to show.

    Args:
        image: float, (3, H, W) or (H, W, 3), 0 to 1; values outside are clipped. A CPU tensor will do.

    Returns:
        uint8 (H, W, 3), 0 to 255.

    Raises:
        DataError: no axis of three channels first or last.
    """
    array = np.asarray(image, dtype=np.float32)
    if array.ndim != 3 or 3 not in (array.shape[0], array.shape[2]):
        raise DataError(f"a canonical image is (3, H, W) or (H, W, 3), got {array.shape}")
    image_HWC = array if array.shape[0] != 3 else array.transpose(1, 2, 0)
    return np.rint(np.clip(np.nan_to_num(image_HWC), 0, 1) * 255).astype(np.uint8)


def draw_overlay(
    picture_HWC: np.ndarray,
    *,
    mask_HW: np.ndarray | None = None,
    truth_HW: np.ndarray | None = None,
    box_xyxy_px: tuple[float, float, float, float] | None = None,
    caption: Sequence[str] = (),
    min_side_px: int = 256,
) -> np.ndarray:
    """Draw prediction (tinted area), truth (outline) and box (thin rectangle) on a picture, its caption below.

    Args:
        picture_HWC: uint8, one or three channels. A small one is enlarged by a whole factor.
        mask_HW: bool, the prediction on the picture's grid.
        truth_HW: bool, the truth on the same grid. Where both are given a legend tells them apart.
        box_xyxy_px: half-open box in pixels of the picture as given.
        caption: lines of any text, wrapped; characters that the font lacks become empty boxes.
        min_side_px: the shorter side that enlarging aims at.

    Returns:
        uint8 RGB, (rows, columns, 3), the picture's rows first.

    Raises:
        DataError: a picture that is not uint8 with one or three channels, or masks on another grid.
    """
    if picture_HWC.dtype != np.uint8 or picture_HWC.ndim != 3 or picture_HWC.shape[2] not in (1, 3):
        raise DataError(f"a picture to draw on is uint8 (H, W, 1 or 3), got {picture_HWC.dtype} {picture_HWC.shape}")
    for name, mask in (("prediction", mask_HW), ("truth", truth_HW)):
        if mask is not None and mask.shape != picture_HWC.shape[:2]:
            raise DataError(f"{name} is {mask.shape}, its picture is {picture_HWC.shape[:2]} (rows, columns)")
    factor = _whole_factor(picture_HWC.shape[:2], min_side_px)
    rows, columns = picture_HWC.shape[:2]
    picture = Image.fromarray(np.ascontiguousarray(np.broadcast_to(picture_HWC, (rows, columns, 3))))
    canvas = np.array(picture.resize((columns * factor, rows * factor), Image.Resampling.BICUBIC))
    line_px = max(2, round(min(canvas.shape[:2]) / 256))
    if mask_HW is not None:
        area = _enlarged(mask_HW, factor)
        canvas[area] = np.rint(canvas[area] * (1 - _FILL_OPACITY) + np.multiply(PREDICTION_RGB, _FILL_OPACITY))
        # The predicted outline lies outside its area and the true one inside, so that equal masks show both.
        canvas[binary_dilation(area, iterations=line_px) & ~area] = PREDICTION_RGB
    if truth_HW is not None:
        area = _enlarged(truth_HW, factor)
        canvas[area & ~binary_erosion(area, iterations=line_px)] = TRUTH_RGB
    picture = Image.fromarray(canvas)
    if box_xyxy_px is not None:
        x0, y0, x1, y1 = (edge * factor for edge in box_xyxy_px)
        if x1 > x0 and y1 > y0:
            ImageDraw.Draw(picture).rectangle((x0, y0, x1 - 1, y1 - 1), outline=BOX_RGB, width=max(1, line_px // 2))
    return _with_band(picture, _legend(mask_HW, truth_HW), caption, min_side_px)


def contact_sheet(pictures: Sequence[np.ndarray], columns: int = 3) -> np.ndarray:
    """Lay uint8 RGB pictures out in rows on a dark ground, each at the top left of its cell.

    Raises:
        DataError: no picture, or fewer than one column.
    """
    if not pictures or columns < 1:
        raise DataError(f"a contact sheet needs a picture and a column, got {len(pictures)} and {columns}")
    gap_px = 8
    columns = min(columns, len(pictures))
    rows = [pictures[start : start + columns] for start in range(0, len(pictures), columns)]
    heights = [max(picture.shape[0] for picture in row) for row in rows]
    widths = [max(picture.shape[1] for picture in pictures[column::columns]) for column in range(columns)]
    sheet = np.full((sum(heights) + gap_px * (len(rows) + 1), sum(widths) + gap_px * (columns + 1), 3), _BAND_RGB)
    for r, row in enumerate(rows):
        y = sum(heights[:r]) + gap_px * (r + 1)
        for c, picture in enumerate(row):
            x = sum(widths[:c]) + gap_px * (c + 1)
            sheet[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return sheet.astype(np.uint8)


def _whole_factor(shape_HW: tuple[int, ...], min_side_px: int) -> int:
    wanted = -(-min_side_px // min(shape_HW))
    return max(1, min(wanted, _MAX_ENLARGED_SIDE_PX // max(shape_HW)))


def _enlarged(mask_HW: np.ndarray, factor: int) -> np.ndarray:
    """Every pixel becomes a square of `factor` pixels: an outline shows the mask's own steps, nothing smoothed."""
    return mask_HW.astype(bool).repeat(factor, axis=0).repeat(factor, axis=1)


def _legend(mask_HW: np.ndarray | None, truth_HW: np.ndarray | None) -> list[tuple[str, tuple[int, int, int]]]:
    if mask_HW is None or truth_HW is None:
        return []
    entries = (("prediction", mask_HW, PREDICTION_RGB), ("truth", truth_HW, TRUTH_RGB))
    return [(name if mask.any() else f"{name}: empty", colour) for name, mask, colour in entries]


def _with_band(
    picture: Image.Image, legend: list[tuple[str, tuple[int, int, int]]], caption: Sequence[str], min_width_px: int
) -> np.ndarray:
    """The picture over a dark band with the legend and the caption; the picture alone where there is neither."""
    if not legend and not caption:
        return np.array(picture)
    width = max(picture.width, min_width_px)
    size_px = max(13, round(width / 36))
    font = ImageFont.load_default(size=size_px)
    margin, line_height = size_px // 2, round(size_px * 1.35)
    lines = [line for text in caption for line in _wrapped(text, font, width - 2 * margin)]
    band_height = 2 * margin + line_height * (bool(legend) + len(lines))
    canvas = Image.new("RGB", (width, picture.height + band_height), _BAND_RGB)
    canvas.paste(picture, ((width - picture.width) // 2, 0))
    draw = ImageDraw.Draw(canvas)
    y = picture.height + margin
    x = margin
    for index, (name, colour) in enumerate(legend):
        swatch = (x, y + size_px // 5, x + size_px, y + size_px)
        tint = tuple(round(part * _FILL_OPACITY) for part in colour) if index == 0 else None
        draw.rectangle(swatch, fill=tint, outline=colour, width=2)
        draw.text((x + size_px + margin, y), name, font=font, fill=colour)
        x += size_px + 3 * margin + round(font.getlength(name))
    y += line_height * bool(legend)
    for line in lines:
        draw.text((margin, y), line, font=font, fill=_CAPTION_RGB)
        y += line_height
    return np.array(canvas)


def _wrapped(text: str, font: Any, width_px: int) -> list[str]:
    """Break a text into lines no wider than `width_px`: between words where it can, inside long ones where not."""
    # Control characters, lone surrogates and the like have no glyph, and some are refused by the font library.
    text = "".join(" " if unicodedata.category(character).startswith("C") else character for character in text)
    text = " ".join(text.split())
    if len(text) > _MAX_CAPTION_CHARACTERS:
        text = text[: _MAX_CAPTION_CHARACTERS - 1] + "…"
    lines: list[str] = []
    while text:
        end = len(text)
        while end > 1 and font.getlength(text[:end]) > width_px:
            space = text.rfind(" ", 0, end)
            end = space if space > 0 else end - 1
        lines.append(text[:end])
        text = text[end:].lstrip()
    return lines
