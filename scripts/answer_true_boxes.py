"""LiteMedSAM told the true box: how good a mask can get where the place is already known. A ceiling, not a rival.

    python -m scripts.answer_true_boxes DATASET_DIR --out boxes [--split test]
    prsmed evaluate --answers boxes/answers.csv --dataset-dir DATASET_DIR --out boxes_scored --no-gates

Every lesion and organ of the split is outlined from the smallest boxes around the connected regions of its true mask.
LiteMedSAM's training data are not documented: it may have seen public test images.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.progress import track

from prsmed.answers import soft_mask
from prsmed.data.manifest import read_manifest
from prsmed.data.preprocessing import Preprocessing
from prsmed.data.volumes import open_prepared
from prsmed.data.writers.atomic import write_atomically
from prsmed.data.writers.picture import write_picture
from prsmed.geometry import mask_to_box
from prsmed.models.bases import base_file
from prsmed.models.encoders import LiteMedSAMEncoder
from prsmed.models.feature_cache import keep_maps
from prsmed.models.pretrained import read_torch_file
from prsmed.models.sam import SamPrompting
from prsmed.samples import Item, items_of, truth_of
from prsmed.text.findings import components


def boxes_of(mask_HW: np.ndarray) -> list[tuple[float, float, float, float]]:
    """The smallest half-open boxes around the connected regions of a canonical mask."""
    labels_HW, labels = components(mask_HW, 0)
    return [box for box in (mask_to_box(labels_HW == label) for label in labels) if box is not None]


class TrueBoxes:
    """LiteMedSAM's encoder and decoder, asked with boxes."""

    def __init__(self, feature_cache: Path | None):
        path = base_file("lite_medsam")
        tensors = read_torch_file(path)
        self.encoder = LiteMedSAMEncoder().requires_grad_(False).eval()
        self.prompting = SamPrompting(frame_px=self.encoder.frame.size_px).eval()
        for part in (self.encoder, self.prompting):
            part.load_segment_anything(tensors, source=str(path))
        if feature_cache is not None:
            keep_maps(self.encoder, feature_cache)

    @torch.no_grad()
    def mask_prob(
        self, image_CHW: torch.Tensor, boxes_xyxy_px: list[tuple[float, float, float, float]]
    ) -> torch.Tensor:
        """Probability (H, W) of the union of what lies in the boxes, all in canonical pixels."""
        hw_px = (image_CHW.shape[1], image_CHW.shape[2])
        if not boxes_xyxy_px:
            return torch.zeros(hw_px)
        frame = self.encoder.frame
        encoded = self.encoder.encode(image_CHW[None], [hw_px])
        framed = torch.tensor([frame.box_from_canonical(box, hw_px) for box in boxes_xyxy_px])
        logits, _ = self.prompting(
            encoded.features, boxes_xyxy_px=framed, obj_image=torch.zeros(len(framed), dtype=torch.long)
        )
        return frame.leave(logits, [hw_px] * len(framed), hw_px).sigmoid().amax(dim=(0, 1))


def main(
    dataset_dir: Annotated[Path, typer.Argument(help="A folder with a manifest.")],
    out: Annotated[Path, typer.Option(help="Where masks and answers.csv go.")],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    feature_cache: Annotated[Path | None, typer.Option(help="Keep encoded pictures here.")] = None,
    config: Annotated[Path, typer.Option(help="Preprocessing steps and slices as of this config.")] = Path(
        "configs/train.json"
    ),
) -> None:
    """Write the answers of LiteMedSAM with true boxes, in the form that `prsmed evaluate --answers` scores."""
    settings = json.loads(config.read_text(encoding="utf-8"))
    asker = TrueBoxes(feature_cache)
    steps = [
        {**step, "long_side_px": asker.encoder.frame.size_px} if step["transform"] == "ToCanonicald" else step
        for step in settings["preprocessing_steps"]
    ]
    manifest, preprocessing = read_manifest(dataset_dir), Preprocessing(steps)
    lines = io.StringIO()
    table = csv.DictWriter(lines, ["key", "mask", "presence"])
    table.writeheader()
    items: list[Item] = items_of(manifest, split, slices=settings["slices"])
    for number, item in enumerate(track(items, description="asking with true boxes")):
        source, mask_HW = truth_of(manifest, item)
        image_CHW, geometry = open_prepared(manifest, item.case, source, preprocessing).slice(item.slice)
        boxes = boxes_of(geometry.mask_to_canonical(mask_HW))
        write_picture(out / f"{number:05d}.png", soft_mask(asker.mask_prob(image_CHW, boxes)[None], geometry))
        table.writerow({"key": item.key, "mask": f"{number:05d}.png", "presence": float(bool(boxes))})
    write_atomically(out / "answers.csv", lines.getvalue())


if __name__ == "__main__":
    typer.run(main)
