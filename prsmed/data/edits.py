"""Changes of a picture for the gates: what is done to the canonical image, and what it does to the truth.

Every edit is deterministic: the same picture gives the same edited picture.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from prsmed.geometry import Box

GREY = 0.5
_MIN_FONT_PX = 10
_FONT_SHARE = 0.06
_CORNERS = tuple((level, side) for level in ("top", "bottom") for side in ("left", "right"))


@dataclass(frozen=True)
class Edit:
    """One change of a picture.

    Attributes:
        picture: makes the edited image of the canonical image, float32 (3, h, w) in [0, 1], and the true mask after the
            edit, bool (h, w).
        mask: makes the true mask after the edit of the one before, bool (H, W), on any grid.
    """

    picture: Callable[[torch.Tensor, np.ndarray], torch.Tensor]
    mask: Callable[[np.ndarray], np.ndarray]


def _mirror(image_CHW: torch.Tensor, mask_HW: np.ndarray) -> torch.Tensor:
    return image_CHW.flip(2)


def _mirror_mask(mask_HW: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(mask_HW[:, ::-1])


def _blank(image_CHW: torch.Tensor, mask_HW: np.ndarray) -> torch.Tensor:
    return torch.full_like(image_CHW, GREY)


def _noise(image_CHW: torch.Tensor, mask_HW: np.ndarray) -> torch.Tensor:
    """Uniform grey noise, another one for each picture."""
    seed = zlib.crc32((image_CHW * 255).round().to(torch.uint8).numpy().tobytes())
    noise_HW = np.random.default_rng(seed).random(image_CHW.shape[1:], dtype=np.float32)
    return torch.from_numpy(noise_HW).expand_as(image_CHW).contiguous()


def _burned_text(image_CHW: torch.Tensor, mask_HW: np.ndarray) -> torch.Tensor:
    """The name of a corner, written into that corner: the one that hides least of the truth and lies farthest from it.

    White letters on black, as examination stations burn them in.
    """
    height, width = mask_HW.shape
    font = ImageFont.load_default(size=max(_MIN_FONT_PX, round(_FONT_SHARE * max(height, width))))
    captions = [_Caption.at(level, side, font, (height, width)) for level, side in _CORNERS]
    caption = min(captions, key=lambda caption: caption.nearness(mask_HW))
    x0, y0, x1, y1 = caption.box_xyxy_px
    picture = Image.new("L", (width, height))
    ImageDraw.Draw(picture).text((x0 + 1, y0 + 1), caption.text, font=font, fill=255, anchor="lt")
    edited = image_CHW.clone()
    edited[:, y0:y1, x0:x1] = torch.from_numpy(np.array(picture)[y0:y1, x0:x1].astype(np.float32) / 255)
    return edited


@dataclass(frozen=True)
class _Caption:
    """A corner's name, and the box it takes there."""

    text: str
    box_xyxy_px: Box

    @classmethod
    def at(
        cls, level: str, side: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, hw_px: tuple[int, int]
    ) -> _Caption:
        height, width = hw_px
        text = f"{level} {side}".upper()
        _, _, right, bottom = ImageDraw.Draw(Image.new("L", (1, 1))).textbbox((0, 0), text, font=font, anchor="lt")
        columns, rows = min(width, round(right) + 2), min(height, round(bottom) + 2)
        x0 = 0 if side == "left" else width - columns
        y0 = 0 if level == "top" else height - rows
        return cls(text, (x0, y0, x0 + columns, y0 + rows))

    def nearness(self, mask_HW: np.ndarray) -> tuple[int, float]:
        """Pixels of the mask that it covers, and minus the distance of its middle from the mask's nearest pixel."""
        x0, y0, x1, y1 = self.box_xyxy_px
        rows, columns = np.nonzero(mask_HW)
        if not rows.size:
            return 0, 0.0
        distance_px = np.hypot(columns + 0.5 - (x0 + x1) / 2, rows + 0.5 - (y0 + y1) / 2).min()
        return int(mask_HW[y0:y1, x0:x1].sum()), -float(distance_px)


EDITS: dict[str, Edit] = {
    "mirror": Edit(_mirror, _mirror_mask),
    "blank": Edit(_blank, np.zeros_like),
    "noise": Edit(_noise, np.zeros_like),
    "burned_text": Edit(_burned_text, np.copy),
}
