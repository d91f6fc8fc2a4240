"""Volume Dice and lesion detection of a model on volumes with lesion masks.

    python -m scripts.score_volumes FOLDER --model runs/NAME/best [--out scores.json]

FOLDER holds manifest.csv with the columns name, image, mask, modality (CT, MR...) and label: what is asked for. Rows of
modalities that no model knows, and label volumes of several structures, are left out and said.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from prsmed.data.readers import read_mask, sole_label
from prsmed.data.writers.atomic import write_atomically
from prsmed.errors import DataError, PrsmedError
from prsmed.predictor import Predictor
from prsmed.sessions import VolumeSession
from prsmed.types import MODALITY_OF_DICOM, NOT_A_MEDICAL_DEVICE, MaskRef
from prsmed.volumes import Components, VolumeOptions, large_enough, voxel_mm3

MIN_IOU = 0.1
"""A true lesion is detected where a finding overlaps it that much (Baumgartner et al. 2021, nnDetection)."""


def score_volume(
    predicted_ijk: np.ndarray, truth_ijk: np.ndarray, array_axis: int, *, voxel_mm3: float, options: VolumeOptions
) -> dict[str, Any]:
    """Dice of the whole masks, and which of the true components a predicted one meets.

    True components below the smallest volume that findings may have do not count, as predicted ones do not; a finding
    on one of them is not false.
    """
    overlap = int((predicted_ijk & truth_ijk).sum())
    total = int(predicted_ijk.sum()) + int(truth_ijk.sum())
    predicted, true = Components(predicted_ijk, array_axis), Components(truth_ijk, array_axis)
    lesions, findings = (large_enough(parts.found, options, voxel_mm3) for parts in (true, predicted))
    matches = {
        (lesion.numbers, finding.numbers)
        for lesion in true.found
        for finding in findings
        if _iou(true, lesion, predicted, finding) >= MIN_IOU
    }
    return {
        "dice": 2 * overlap / total if total else 1.0,
        "lesions": len(lesions),
        "detected": len({lesion for lesion, _ in matches} & {lesion.numbers for lesion in lesions}),
        "findings": len(findings),
        "false": len(findings) - len({finding for _, finding in matches}),
    }


def _iou(true: Components, lesion: Any, predicted: Components, finding: Any) -> float:
    both = lesion.area_px.keys() & finding.area_px.keys()
    overlap = sum(int((true.slab(lesion, index) & predicted.slab(finding, index)).sum()) for index in both)
    return overlap / (lesion.voxels + finding.voxels - overlap)


def score_row(predictor: Predictor, folder: Path, row: dict[str, str], options: VolumeOptions) -> dict[str, Any]:
    """Ask about one row and score the answer.

    Raises:
        PrsmedError: the row cannot be asked or scored.
    """
    modality = MODALITY_OF_DICOM.get(row["modality"].partition("_")[0])
    if modality is None:
        raise DataError(f"{row['name']}: modality {row['modality']} is none of the model's; leave it out")
    mask_path = folder / row["mask"]
    truth = MaskRef("nifti", row["mask"], sole_label(mask_path))
    session = predictor.open(folder / row["image"], modality=modality, volume=options)
    if not isinstance(session, VolumeSession):
        raise DataError(f"{row['image']}: is a picture; only volumes are scored here")
    answer = session.ask(f"Where is the {row['label']}?")
    scores = score_volume(
        answer.mask_ijk,
        read_mask(mask_path, truth, session.source),
        session.frame.array_axis,
        voxel_mm3=voxel_mm3(session.frame.affine_ijk_to_ras),
        options=options,
    )
    return {"name": row["name"], "target": row["label"], "modality": modality, **scores, "warnings": answer.warnings}


def main(
    folder: Annotated[Path, typer.Argument(help="Volumes with manifest.csv.")],
    model: str = "tiny",
    min_volume: Annotated[float | None, typer.Option(help="Smaller findings are removed (mm3).")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the figures as JSON, volume by volume.")] = None,
) -> None:
    """Print one line for each volume, the means, and what the model was not trained on."""
    options = VolumeOptions() if min_volume is None else VolumeOptions(min_volume_mm3=min_volume)
    predictor = Predictor.load(model)
    scored, left_out = [], []
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            try:
                scored.append(score_row(predictor, folder, row, options))
            except PrsmedError as error:
                left_out.append(str(error))
            if out:  # after each volume, because a large model takes minutes for one
                content = {"model": model, "volumes": scored, "left_out": left_out}
                write_atomically(out, json.dumps(content, indent=2) + "\n")
    columns = ("name", "target", "modality", "dice", "lesions", "detected", "findings", "false")
    table = Table(*columns, title=f"volumes, {model}, findings from {options.min_volume_mm3:g} mm3")
    for scores in scored:
        table.add_row(*(f"{scores[name]:.3f}" if name == "dice" else str(scores[name]) for name in columns))
    console = Console()
    console.print(table)
    if scored:
        dice = np.mean([scores["dice"] for scores in scored])
        lesions, detected, false = (sum(scores[name] for scores in scored) for name in ("lesions", "detected", "false"))
        console.print(f"mean Dice {dice:.3f}; {detected} of {lesions} lesions detected, {false} false findings")
    for line in sorted({f"{scores['name']}: {text}" for scores in scored for text in scores["warnings"]}):
        console.print(f"warning: {line}")
    for line in left_out:
        console.print(f"left out: {line}")
    console.print(NOT_A_MEDICAL_DEVICE)


if __name__ == "__main__":
    typer.run(main)
