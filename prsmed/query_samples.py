"""A case's own questions as items, and several of them about one picture as one training sample (MediSee)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from prsmed.data.manifest import Manifest
from prsmed.data.preprocessing import Preprocessing
from prsmed.errors import DataError
from prsmed.geometry import mask_to_box
from prsmed.samples import Item, items_of, load_item, own_words, truth_of
from prsmed.text.encode import IGNORE_ID, Encoded, TextEncoder, word_ids
from prsmed.text.packing import pack_batch
from prsmed.types import Case, Query, Target

REASONING_KINDS = ("attribute", "location")
GROUPS = ("naming", "reasoning")
"""What the training set mixes: questions that name their target, and questions that do not."""


def query_items(manifest: Manifest, split: str, *, slices: Mapping[str, Any]) -> list[Item]:
    """One item per question of a split; a case without questions is asked for each of its targets by name.

    A question about several targets asks for all of them as one; a question about none asks for what is not there.

    Args:
        slices: as of `items_of`.

    Raises:
        DataError: the split has nothing to ask, or a question is about a target that its case does not have.
    """
    names = {target.name: target.kind for case in manifest.cases for target in case.targets}
    items: list[Item] = []
    for shown in _pictures_of(items_of(manifest, split, slices=slices)):
        case = shown[0].case
        queries = [query for query in case.queries if query.kind in ("naming", *REASONING_KINDS)]
        for query in queries or [naming_query(target) for target in case.targets]:
            target = _asked_for(case, query, names)
            # Slices of a volume were chosen target by target; a question without a target fits each of them.
            seen = [item for item in shown if not query.target_ids or item.target.id == query.target_ids[0]]
            places = dict.fromkeys(item.slice for item in seen)
            items.extend(Item(case, target, place, query=query) for place in places)
    return items


def naming_query(target: Target) -> Query:
    """The plainest question there is for a target."""
    return Query(f"name-{target.id}", (target.id,), "naming", f"Show me the {target.name}.", "short")


def _pictures_of(items: Sequence[Item]) -> list[list[Item]]:
    """Items by case, in order."""
    by_case: dict[str, list[Item]] = {}
    for item in items:
        by_case.setdefault(item.case.id, []).append(item)
    return list(by_case.values())


def _asked_for(case: Case, query: Query, names: Mapping[str, str]) -> Target:
    try:
        targets = [case.target(target_id) for target_id in query.target_ids]
    except KeyError as error:
        raise DataError(f"query {query.id}: {error.args[0]}; build the manifest again") from error
    if len(targets) == 1:
        return targets[0]
    if not targets:
        said = (query.answer or "").casefold()
        name = max((name for name in names if name.casefold() in said), key=len, default="object")
        return Target("", name, names.get(name, "organ"))
    joined, masks = "+".join(query.target_ids), tuple(mask for target in targets for mask in target.masks)
    return Target(joined, " and ".join(target.name for target in targets), targets[0].kind, None, masks)


@dataclass(frozen=True)
class Picture:
    """One picture of a split, and its items by group."""

    groups: Mapping[str, tuple[Item, ...]]

    @property
    def items(self) -> tuple[Item, ...]:
        """All of them."""
        return tuple(item for group in self.groups.values() for item in group)


def pictures_of(items: Sequence[Item]) -> list[Picture]:
    """The pictures that items show, each once."""
    shown: dict[str, dict[str, list[Item]]] = {}
    for item in items:
        assert item.query is not None, "only items of own questions can share a sequence"
        group = "reasoning" if item.query.kind in REASONING_KINDS else "naming"
        shown.setdefault(item.picture, {}).setdefault(group, []).append(item)
    return [Picture({name: tuple(group) for name, group in groups.items()}) for groups in shown.values()]


def load_picture(manifest: Manifest, picture: Picture, preprocessing: Preprocessing) -> dict[str, Any]:
    """The part of a training sample that is the same in every epoch: the image, and one label map a target.

    Returns:
        image float32 (3, h, w); label float32 (T, h, w) in the order of `target_ids`; geometry. `laterality` is not
        empty: pictures whose questions speak of places and sides must not be mirrored.
    """
    by_target = {item.target.id: item for item in picture.items}
    first = load_item(manifest, picture.items[0], preprocessing)
    geometry = first["geometry"]
    masks = [geometry.mask_to_canonical(truth_of(manifest, item)[1]) for item in by_target.values()]
    return {
        "image": first["image"],
        "label": torch.from_numpy(np.stack(masks).astype(np.float32)),
        "target_ids": list(by_target),
        "geometry": geometry,
        "laterality": "as displayed",
    }


def packed_sample(
    sample: Mapping[str, Any],
    chosen: Sequence[Item],
    *,
    text: TextEncoder,
    plain_queries: bool,
    explained: Sequence[bool] | None = None,
) -> dict[str, Any]:
    """Questions about one picture, as `load_picture` made it and augmentation left it, encoded with their answers.

    Args:
        plain_queries: also ask for the target of every attribute or location question by its name: the teachers of the
            similarity loss. They are no targets of the language model.
        explained: whose answers are words behind the candidates, too; None: all of them. A denial always is.

    Returns:
        image, geometry; `turns`, objects first to last, then the teachers; `labels` (K, h, w) and `names` of the turns
        that point at something; `absent`, the names of those that do not; `teacher_of`, for each teacher the number of
        its object.
    """
    turns: list[Encoded] = []
    teachers: list[Encoded] = []
    labels: list[torch.Tensor] = []
    names: list[str] = []
    absent: list[str] = []
    teacher_of: list[int] = []
    for item, is_explained in zip(chosen, explained or [True] * len(chosen), strict=True):
        assert item.query is not None
        label = sample["label"][sample["target_ids"].index(item.target.id)] > 0.5
        asked = {"target": item.target.name}
        words = own_words(asked, item.query, label, text=text, answers=True, explained=is_explained)
        turn = words["encoded"]
        turns.append(turn)
        if turn.candidate_at is None:
            absent.append(item.target.name)
            continue
        if plain_queries and item.query.kind in REASONING_KINDS:
            plain = text.encode(naming_query(item.target).question, "", points=True)
            teachers.append(replace(plain, target_ids=torch.full_like(plain.target_ids, IGNORE_ID)))
            teacher_of.append(len(labels))
        labels.append(label)
        names.append(item.target.name)
    return {
        "image": sample["image"],
        "geometry": sample["geometry"],
        "turns": [*turns, *teachers],
        "labels": labels,
        "names": names,
        "absent": absent,
        "teacher_of": teacher_of,
    }


def collate_packed(samples: Sequence[Mapping[str, Any]], *, text: TextEncoder) -> dict[str, Any]:
    """Packed samples to one batch, images and labels padded at the bottom and right.

    Returns:
        image (B, 3, H, W); label, valid (K, 1, H, W); obj_image (K,); boxes_xyxy_norm (K, 4), shares of the image;
        input_ids, position_ids, target_ids (B, T), attention_mask (B, 1, T, T); candidate_at (K, n); name_ids (K, W),
        the targets' names; absent_ids (A, W), absent_image (A,), the names of what is not there; teacher_at (Kt, n),
        teacher_image, teacher_of (Kt,); geometry, a list of B.
    """
    packed = pack_batch([sample["turns"] for sample in samples], text)
    turn_image, at = packed.pop("turn_image"), packed.pop("candidate_at")
    objects = [len(sample["labels"]) for sample in samples]
    starts = np.cumsum([0, *objects[:-1]]).tolist()
    # Of the turns that point, an image's objects come first, then its teachers.
    is_teacher = torch.tensor(
        [flag for sample, count in zip(samples, objects, strict=True) for flag in _flags(count, sample["teacher_of"])],
        dtype=torch.bool,
    )
    absent = [(image, name) for image, sample in enumerate(samples) for name in sample["absent"]]
    teacher_of = [start + one for start, sample in zip(starts, samples, strict=True) for one in sample["teacher_of"]]
    return {
        **packed,
        **_padded_pixels(samples),
        "obj_image": turn_image[~is_teacher],
        "candidate_at": at[~is_teacher],
        "name_ids": word_ids([name for sample in samples for name in sample["names"]], text.tokenizer),
        "absent_ids": word_ids([name for _, name in absent], text.tokenizer),
        "absent_image": torch.tensor([image for image, _ in absent], dtype=torch.long),
        "teacher_at": at[is_teacher],
        "teacher_image": turn_image[is_teacher],
        "teacher_of": torch.tensor(teacher_of, dtype=torch.long),
        "geometry": [sample["geometry"] for sample in samples],
    }


def _flags(objects: int, teacher_of: Sequence[int]) -> list[bool]:
    return [False] * objects + [True] * len(teacher_of)


def _padded_pixels(samples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    height = max(sample["image"].shape[1] for sample in samples)
    width = max(sample["image"].shape[2] for sample in samples)
    labels = [label_HW for sample in samples for label_HW in sample["labels"]]
    image = torch.zeros(len(samples), 3, height, width)
    label = torch.zeros(len(labels), 1, height, width)
    valid, boxes = torch.zeros_like(label), torch.full((len(labels), 4), torch.nan)
    for index, sample in enumerate(samples):
        image[index, :, : sample["image"].shape[1], : sample["image"].shape[2]] = sample["image"]
    for index, label_HW in enumerate(labels):
        rows, columns = label_HW.shape
        label[index, 0, :rows, :columns], valid[index, 0, :rows, :columns] = label_HW.float(), 1
        boxes[index] = torch.tensor(mask_to_box(label_HW.numpy())) / torch.tensor([columns, rows, columns, rows])
    return {"image": image, "label": label, "valid": valid, "boxes_xyxy_norm": boxes}
