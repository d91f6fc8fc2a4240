"""An answer on disk: the record as JSON, the mask at the picture's own size, and an overlay to look at."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from prsmed.data.writers.picture import write_mask, write_overlay
from prsmed.errors import DataError
from prsmed.types import Answer


def write_answer(folder: Path, answer: Answer, picture_HWC: np.ndarray) -> None:
    """Write answer.json, mask.png and overlay.png into `folder`.

    Args:
        picture_HWC: uint8 (H, W, 1 or 3), what was asked about, on the masks' grid.

    Raises:
        DataError: the folder cannot be written.
    """
    thing = answer.objects[0]
    record = {**answer.to_json(), "files": {"mask": "mask.png", "overlay": "overlay.png"}}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_mask(folder / "mask.png", thing.mask)
        write_overlay(
            folder / "overlay.png",
            picture_HWC,
            mask_HW=thing.mask,
            box_xyxy_px=thing.box_xyxy_px,
            caption=[f"Q: {answer.question}", f"A: {answer.text}", *(f"! {item}" for item in answer.contradictions)],
        )
        (folder / "answer.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"{folder}: the answer cannot be written ({error}); choose another output folder") from error
