"""A small evaluation made up for the report's tests: scored rows, their summary, gates and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from prsmed.metrics.intervals import Bootstrap
from prsmed.metrics.rows import MaskScores, ScoreRow
from prsmed.metrics.summary import summarise
from prsmed.report import CasePicture
from prsmed.types import MODALITIES, NOT_A_MEDICAL_DEVICE, ZONES

TARGETS = {
    "ct": ("lung nodule", "lungs"),
    "mri": ("brain tumour",),
    "x-ray": ("opacity", "lungs"),
    "ultrasound": ("breast lesion",),
    "endoscopy": ("polyp",),
    "dermoscopy": ("skin lesion",),
}
GATES = {
    "flip_consistency": {
        "passed": True,
        "value": 0.875,
        "threshold": 0.7,
        "comparison": ">=",
        "n": 24,
        "meaning": "In the mirrored picture the sentence names the mirrored zone.",
        "details": {"said_the_same": 0.083},
    },
    "blank_image": {
        "passed": False,
        "value": 0.417,
        "threshold": 0.1,
        "comparison": "<=",
        "n": 12,
        "meaning": "On an empty picture the target is said to be visible.",
        "details": {},
    },
    "absent_target": {
        "passed": None,
        "value": None,
        "threshold": 0.8,
        "comparison": ">=",
        "n": 0,
        "meaning": "On verified lesion-free images the lesion is said not to be visible.",
        "details": {},
    },
}


def made_up_rows(n: int, *, skill: float = 0.75, seed: int = 0) -> list[ScoreRow]:
    """Rows of all modalities; one in eight without the target, every second dermoscopy finding in the centre."""
    random = np.random.default_rng(seed)
    return [_row(index, random, skill) for index in range(n)]


def _row(index: int, random: np.random.Generator, skill: float) -> ScoreRow:
    modality = MODALITIES[index % len(MODALITIES)]
    target = TARGETS[modality][index // len(MODALITIES) % len(TARGETS[modality])]
    present = index % 8 != 7
    zone = "center" if modality == "dermoscopy" else str(random.choice(ZONES))
    right = bool(random.random() < skill)
    said = zone if right else str(random.choice(ZONES))
    dice = float(np.clip(random.beta(8 * skill, 2), 0, 1)) if present else float(right)
    union = int(random.integers(400, 900)) if dice < 1 else 0
    kind = "unreadable" if random.random() < 0.04 else "positions" if present or not right else "none"
    return ScoreRow(
        index=index,
        key=f"case{index}/t1",
        group=f"patient{index // 2}",
        modality=modality,
        dataset=f"{modality} set",
        target=target,
        kind="organ" if target == "lungs" else "lesion",
        query_kind=("template", "location", "attribute")[index % 3],
        probe="",
        base="",
        question=f"Where is the {target}?",
        present=present,
        mask=MaskScores(
            dice=dice,
            iou=dice / (2 - dice),
            nsd=0.9 * dice,
            intersection_px=int(union * dice / (2 - dice)),
            union_px=union,
            box_iou=0.95 * dice,
            lesions_true=int(present),
            lesions_found=int(present and dice > 0.3),
            lesions_false=int(random.random() < 0.2),
        ),
        presence_prob=float(random.beta(6, 2) if present else random.beta(2, 6)),
        says_present=present if right else bool(random.random() < 0.8),
        mask_is_empty=not present and right,
        zones_truth=(zone,) if present else (),
        border_ambiguous=index % 9 == 0,
        zones_mask=(said,),
        rule_right=right,
        model_text=f"The {target} is in the {said} of the image.",
        text_kind=kind,
        zones_text=(said,) if kind == "positions" else (),
        zones_right=kind != "unreadable" and (said == zone if present else kind == "none"),
        contradiction=bool(random.random() < 0.05),
        protocol_dice=0.97 * dice if present else None,
        protocol_iou=0.95 * dice / (2 - dice) if present else None,
        protocol_e_measure=0.97 * dice if present else None,
    )


def made_up_content(rows: list[ScoreRow], *, model: str = "tiny") -> dict[str, Any]:
    """The content of scores.json for these rows, with gates and two baselines."""
    n = len(rows)
    return {
        "model": {"name": model, "version": "0.3.0", "weights_sha256": "9f2c" * 16, "licence": "Apache-2.0"},
        "split": "test",
        "data_fingerprint": "sha256:4be1d2c07a9033",
        "settings": {
            "tolerance": {"mm": 2.0, "px": 3.0},
            "thresholds": {"mask": 0.5, "presence": 0.25},
            "zone_rule": "posmed",
            "intervals": {"coverage": 0.95, "draws": 100, "drawn": "patients"},
        },
        **summarise(rows, intervals=Bootstrap(n_draws=100)),
        "gates": GATES,
        "baselines": {
            "constant": summarise(made_up_rows(n, skill=0.3, seed=1)),
            "oracle": summarise(made_up_rows(n, skill=1.0, seed=2)),
        },
        "notice": NOT_A_MEDICAL_DEVICE,
    }


def made_up_pictures(folder: Path, rows: list[ScoreRow], *, per_kind: int = 3) -> list[CasePicture]:
    """Grey pictures with a bright spot, written to folder/pictures."""
    (folder / "pictures").mkdir(parents=True)
    pictures = []
    for index, row in enumerate(rows[: 3 * per_kind]):
        kind = ("best", "worst", "example")[index % 3]
        pixels_HW = np.full((96, 128), 40, dtype=np.uint8)
        pixels_HW[20 + 5 * index :][:20, 30:60] = 200
        path = f"pictures/{row.modality}-{kind}-{index}.png"
        Image.fromarray(pixels_HW).save(folder / path)
        pictures.append(CasePicture(path, f"{row.question} — {row.model_text}", kind, row.modality, row.mask.dice))
    return pictures
