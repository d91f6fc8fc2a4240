"""Fine-tuning on corrected labels: from the datastore's records to a manifest, from the served weights to new ones."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bundle.monailabel.asked import TrainRequest
from prsmed.data.manifest import write_manifest
from prsmed.data.readers import read_image
from prsmed.errors import PrsmedError, RequestError
from prsmed.models.checkpoints import read_info
from prsmed.predictor import stated_modality
from prsmed.text.patient import side_asked
from prsmed.types import Case, MaskRef, Query, Target

logger = logging.getLogger(__name__)

_ROOT = "studies"


@dataclass(frozen=True)
class Labelled:
    """One image that a person has labelled; `mask` is empty (all 0) where what was asked for is not there."""

    id: str
    image: Path
    mask: Path
    info: Mapping[str, Any]


def write_training_set(
    folder: Path,
    labelled: Sequence[Labelled],
    *,
    studies: Path,
    val_split: float,
    name_target: Callable[[str], tuple[str, str, list[str]]],
) -> dict[str, int]:
    """Write a manifest of labelled images; nothing is copied.

    Every image is a group of its own: the app does not know which images are of one patient.

    Args:
        folder: a new folder.
        name_target: what a question asks for, and its kind (`LoadedModel.name_target`).

    Returns:
        how many cases each split has, and `left_out`.

    Raises:
        RequestError: fewer than two images can be used.
    """
    cases = [case for entry in labelled if (case := _case(entry, studies, name_target))]
    if len(cases) < 2:
        raise RequestError(
            f"training needs two labelled images whose question is known, {len(cases)} of {len(labelled)} can be used;"
            " ask, correct and save more"
        )
    cases.sort(key=lambda case: hashlib.sha256(case.id.encode()).hexdigest())  # any order that stays the same
    held_back = min(max(1, round(val_split * len(cases))), len(cases) - 1)
    cases = [_in_split(case, "val" if number < held_back else "train") for number, case in enumerate(cases)]

    write_manifest(folder, cases, {_ROOT: studies})
    return {"train": len(cases) - held_back, "val": held_back, "left_out": len(labelled) - len(cases)}


def training_overrides(model: Path, *, dataset: Path, runs: Path, name: str, asked: TrainRequest) -> dict[str, Any]:
    """What is set on top of configs/train.json and configs/finetune.json."""
    info = read_info(model)
    return {
        "start_from": str(model),
        "task": info["task"],
        "preset": info["preset"],
        "zone_rule": info["zone_rule"],
        "thresholds": info["thresholds"],
        "preprocessing_steps": info["preprocessing"],
        "dataset_dir": str(dataset),
        "runs_dir": str(runs),
        "run_name": name,
        "max_epochs": asked.max_epochs,
    }


def _case(entry: Labelled, studies: Path, name_target: Callable[[str], tuple[str, str, list[str]]]) -> Case | None:
    question = entry.info.get("question")
    if not question:
        return None
    try:
        source = read_image(entry.image)
        modality = stated_modality(source, entry.info.get("modality")).name
    except PrsmedError as error:
        logger.warning("a labelled image is left out: %s", type(error).__name__)
        return None
    name, kind, _ = name_target(question)
    side = side_asked(question)
    if side and side_asked(name) != side:
        logger.warning("a labelled image is left out: its question was about one side, its target is not")
        return None
    mask = entry.mask.relative_to(studies).as_posix()
    ref = MaskRef("nifti", mask, 1) if source.is_volume else MaskRef("png", mask)
    answer = entry.info.get("answer")
    return Case(
        id=entry.id,
        image=entry.image.relative_to(studies).as_posix(),
        modality=modality,
        group=entry.id,
        root=_ROOT,
        dataset="corrected",
        targets=(Target("t1", name, kind, masks=(ref,)),),
        queries=(Query("q1", ("t1",), "position", question, answer=answer, made_by="annotator" if answer else None),),
    )


def _in_split(case: Case, split: str) -> Case:
    return Case(**{**vars(case), "split": split})
