"""Does the wording of a question change the answer? Five test templates and ten sentences of no template, side by side.

    python -m scripts.compare_wordings DATASET_DIR --model small [--split test] [--pictures 24] [--out wordings.json]

Each picture is encoded once and asked in all fifteen wordings. Nothing is compared with the truth: a model that always
gives one answer agrees with itself, so read the figures beside those of `prsmed evaluate`.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import track

from prsmed.data.manifest import Manifest, read_manifest
from prsmed.data.writers.atomic import write_atomically
from prsmed.errors import DataError
from prsmed.predictor import Predictor
from prsmed.samples import Item, items_of, truth_of
from prsmed.text.grammar import MODALITY_WORDS, PLURAL, SINGULAR, is_plural
from prsmed.text.parse import parse_position
from prsmed.text.templates import TemplateBank
from prsmed.types import NOT_A_MEDICAL_DEVICE, Answer

WORDINGS = (
    "Would you mind telling me whereabouts the {target} {is}?",
    "{target}: which corner, or rather the middle?",
    "My colleague cannot find the {target}. Help her, please.",
    "I need the exact spot of the {target} on this {modality} picture.",
    "Suppose I had to point a finger at the {target}. Where would it go?",
    "If you divide this picture into quarters, which of them holds the {target}?",
    "Looking at this {modality} study, to what area should I turn for the {target}?",
    "please mark {target}, and say its position in one sentence",
    "Draw round the {target} and tell me in words where that outline lies.",
    "Up or down, left or right, or central: how do you describe the {target}?",
)
"""Wordings that are in no template, of training or of test."""

SLICES = {"axis": "axial", "with_target": 1, "without_target": 0}


def questions_about(target: str, modality: str, bank: TemplateBank) -> list[str]:
    """Every test template and every wording of ours, asked about a target."""
    number = PLURAL if is_plural(target) else SINGULAR
    slots = {**number, "target": target, "modality": MODALITY_WORDS[modality]}
    return [sentence.format_map(slots) for sentence in (*(pair[0] for pair in bank.splits["test"].pairs), *WORDINGS)]


def mask_agreement(masks: Sequence[np.ndarray]) -> float:
    """Mean Dice of all pairs of masks (bool, one grid); two empty masks agree."""
    flat_KP = np.stack([mask.ravel() for mask in masks]).astype(np.float32)
    overlap_KK, areas_K = flat_KP @ flat_KP.T, flat_KP.sum(axis=1)
    total_KK = areas_K[:, None] + areas_K
    dice_KK = np.where(total_KK > 0, 2 * overlap_KK / np.maximum(total_KK, 1), 1.0)
    return float(dice_KK[np.triu_indices(len(masks), k=1)].mean())


def pair_agreement(stated: Sequence[Hashable | None]) -> float:
    """Share of all pairs that state the same; what cannot be read (None) agrees with nothing."""
    pairs = list(combinations(stated, 2))
    return sum(first is not None and first == second for first, second in pairs) / len(pairs)


def statement(sentence: str, target: str) -> tuple[str, ...] | None:
    """What a sentence states: zones, or that nothing is there; None where it cannot be read."""
    parsed = parse_position(sentence, target=target)
    return None if parsed.kind == "unreadable" else (parsed.kind, *sorted(parsed.zones))


def compare(answers: Sequence[Answer], target: str) -> dict[str, Any]:
    """How far the answers to one picture's wordings agree: pairs of masks by Dice, pairs of places by being the same.

    `zone` reads the model's own sentences, `zone_shown` those that are shown (the rule's, where the model's
    contradicts its mask), `zone_by_mask` the masks.
    """
    objects = [answer.objects[0] for answer in answers]
    return {
        "dice": mask_agreement([thing.mask for thing in objects]),
        "zone": pair_agreement([statement(answer.model_text, target) for answer in answers]),
        "zone_shown": pair_agreement([statement(answer.text, target) for answer in answers]),
        "zone_by_mask": pair_agreement([tuple(sorted(each.zone for each in thing.findings)) for thing in objects]),
    }


def pictures_with_target(manifest: Manifest, split: str, count: int, seed: int) -> list[Item]:
    """Up to `count` items of a split that show their target, at random.

    Raises:
        DataError: there is none.
    """
    items, chosen = items_of(manifest, split, slices=SLICES), []
    for index in np.random.default_rng(seed).permutation(len(items)):
        if len(chosen) < count and truth_of(manifest, items[int(index)])[1].any():
            chosen.append(items[int(index)])
    if not chosen:
        raise DataError(f"{manifest.folder}: no picture of split {split!r} shows a target; choose another split")
    return chosen


def main(
    dataset_dir: Annotated[Path, typer.Argument(help="A folder with a manifest.")],
    model: Annotated[str, typer.Option(help="A shipped model, or a folder that training wrote.")] = "tiny",
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    pictures: Annotated[int, typer.Option(help="At most so many, at random.", min=1)] = 24,
    seed: Annotated[int, typer.Option(help="Chooses them.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the figures as JSON, picture by picture.")] = None,
) -> None:
    """Print how often two wordings agree on mask and zone, and in how many pictures all wordings do."""
    predictor, manifest, bank = Predictor.load(model), read_manifest(dataset_dir), TemplateBank.load()
    compared = []
    for item in track(pictures_with_target(manifest, split, pictures, seed), description="asking in other words"):
        case, modality = item.case, item.case.modality or ""
        path = manifest.resolve(case, case.image)
        session = predictor.open(path, modality=modality, position=item.slice, series_uid=case.series_uid)
        answers = [session.ask(question) for question in questions_about(item.target.name, modality, bank)]
        compared.append({"key": item.key, "modality": modality, **compare(answers, item.target.name)})
    zones = {"zone": "the model's sentences", "zone_shown": "those that are shown", "zone_by_mask": "the masks"}
    means = {name: float(np.mean([one[name] for one in compared])) for name in ("dice", *zones)}
    means |= {f"same_{name}": float(np.mean([one[name] == 1 for one in compared])) for name in zones}
    typer.echo(f"{model}, split {split}: {len(compared)} pictures in {5 + len(WORDINGS)} wordings")
    typer.echo(f"two wordings: mean Dice between the masks {means['dice']:.3f}")
    for name, place in zones.items():
        typer.echo(
            f"two wordings have the same zone in {place}: {means[name]:.3f}; all have: {means['same_' + name]:.3f}"
        )
    typer.echo(NOT_A_MEDICAL_DEVICE)
    if out:
        content = {"model": model, "split": split, "seed": seed, **means, "pictures": compared}
        write_atomically(out, json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
