"""The one join of image and text: case + question (+ answer) -> sample -> batch. Training and asking both use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from prsmed.data.edits import EDITS
from prsmed.data.empty import empty_picture
from prsmed.data.manifest import Manifest
from prsmed.data.preprocessing import Preprocessing
from prsmed.data.readers import image_suffix
from prsmed.data.readers.picture import PICTURE_SUFFIXES
from prsmed.data.slicing import choose_slices, volume_frame
from prsmed.data.volumes import open_image, open_prepared, open_target
from prsmed.errors import DataError
from prsmed.geometry import Geometry, PatientAxes
from prsmed.text.encode import IGNORE_ID, TextEncoder, pad_batch
from prsmed.text.findings import components, find
from prsmed.text.templates import TemplateBank, rule_text
from prsmed.types import EVIDENCE_STATES, MODALITIES, TARGET_KINDS, Case, Finding, Query, SliceRef, SourceImage, Target
from prsmed.windows import WHOLE, label_window, random_window

ASKS_WHERE = ("position",)
"""Kinds of a case's own questions that an answer about the position fits, and that stay true of a mirrored picture."""


@dataclass(frozen=True)
class Item:
    """One thing to ask: a target of a case, and for a volume the slice to look at.

    The fields below these make it a probe: a question of a gate, on an item's picture (see `prsmed.probes`).

    Attributes:
        probe, base: the probe's name, and the key of the item it was made from; "" for an ordinary item.
        number: tells probes of one name and one base apart.
        question: asked instead of a template.
        edit: what is done to the picture, a name in `EDITS`.
        only_zone, zone_rule: only what lies in this zone, by this rule, is true.
        query: the case's own question that this item asks; None: the question comes from a template.
    """

    case: Case
    target: Target
    slice: SliceRef | None
    probe: str = ""
    base: str = ""
    number: int = 0
    question: str | None = None
    edit: str | None = None
    only_zone: str | None = None
    zone_rule: str = ""
    query: Query | None = None

    @property
    def key(self) -> str:
        """A name that is unique in its manifest."""
        if self.probe:
            return f"{self.base}#{self.probe}{self.number or ''}"
        where = f"@{self.slice.axis}{self.slice.index}" if self.slice else ""
        return f"{self.case.id}/{self.query.id if self.query else self.target.id}{where}"

    @property
    def picture(self) -> str:
        """A name that items share if they show the same picture."""
        return f"{self.case.id}@{self.slice}#{self.edit}"


def items_of(manifest: Manifest, split: str, *, slices: Mapping[str, Any]) -> list[Item]:
    """Everything that can be asked in a split; volumes give the slices that `choose_slices` picks.

    Args:
        slices: `axis`, `choice` and so on of `choose_slices`.

    Raises:
        DataError: the split has nothing to ask.
    """
    items = []
    for case in manifest.split(split):
        if case.modality is None:
            continue
        for target in case.targets:
            image = None if case.slice or image_suffix(case.image) in PICTURE_SUFFIXES else open_image(manifest, case)
            if image is None or not image.is_volume:
                items.append(Item(case, target, case.slice))
                continue
            mask = open_target(manifest, case, target, image)
            items.extend(Item(case, target, position) for position in choose_slices(image, mask, **slices))
    if not items:
        raise DataError(
            f"{manifest.folder}: no case of split {split!r} has a modality and a target; check manifest.jsonl"
            " and the refusal report of `prsmed data build`"
        )
    return items


def truth_of(manifest: Manifest, item: Item) -> tuple[SourceImage, np.ndarray]:
    """The source image as stored, and the true mask (bool, H W) of the picture that is shown, after the item's edit."""
    image = open_image(manifest, item.case)
    return image, edited_truth(item, shown_truth(manifest, item, image), shown_spacing(item, image))


def shown_truth(manifest: Manifest, item: Item, image: SourceImage) -> np.ndarray:
    """The true mask (bool, H W) of the picture that is shown, before the item's edit.

    Args:
        image: the item's own; its grid is enough (`open_image` with `values=False`).
    """
    mask = open_target(manifest, item.case, item.target, image)
    return volume_frame(image, item.slice).take(mask) if item.slice is not None and image.is_volume else mask


def shown_spacing(item: Item, image: SourceImage) -> tuple[float, float] | None:
    """Size of a pixel (rows, columns; mm) of the picture that is shown; None where the file does not state it."""
    if item.slice is not None and image.is_volume:
        return volume_frame(image, item.slice).spacing_hw_mm
    if image.is_volume or image.spacing_mm is None:
        return None
    row_mm, column_mm = image.spacing_mm
    return row_mm, column_mm


def edited_truth(item: Item, mask_HW: np.ndarray, spacing_hw_mm: tuple[float, float] | None) -> np.ndarray:
    """What is true of the item's picture after its edit, of what was true before."""
    if item.edit is not None:
        mask_HW = EDITS[item.edit].mask(mask_HW)
    if item.only_zone is not None:
        mask_HW = _regions_in(mask_HW, item.only_zone, zone_rule=item.zone_rule, spacing_hw_mm=spacing_hw_mm)
    return mask_HW


def _regions_in(
    mask_HW: np.ndarray, zone: str, *, zone_rule: str, spacing_hw_mm: tuple[float, float] | None
) -> np.ndarray:
    """The connected regions of a mask that lie in a zone."""
    labels_HW, labels = components(mask_HW, 0)
    regions = [labels_HW == label for label in labels]
    find_one = partial(find, zone_rule=zone_rule, spacing_hw_mm=spacing_hw_mm)
    inside = [region for region in regions if find_one(region)[0].zone == zone]
    return np.logical_or.reduce(inside) if inside else np.zeros_like(mask_HW)


def findings_of(
    mask_HW: np.ndarray,
    kind: str,
    *,
    zone_rule: str,
    spacing_hw_mm: tuple[float, float] | None = None,
    patient_axes: PatientAxes | None = None,
) -> list[Finding]:
    """Findings of a mask: one per region for lesions, one for the whole of an organ (two lungs are one answer)."""
    return find(
        mask_HW,
        zone_rule=zone_rule,
        per_component=kind == "lesion",
        spacing_hw_mm=spacing_hw_mm,
        patient_axes=patient_axes,
    )


def load_item(manifest: Manifest, item: Item, preprocessing: Preprocessing) -> dict[str, Any]:
    """The part of a sample that is the same in every epoch: canonical image and label, without padding.

    Returns:
        image float32 (3, h, w) in [0, 1] and label float32 (1, h, w), both after the item's edit; geometry; `asked`,
        the item's own question or None; and the facts of the item.
    """
    source, mask = truth_of(manifest, item)
    assert item.case.modality is not None
    image, geometry = open_prepared(manifest, item.case, source, preprocessing).slice(item.slice)
    canonical_mask = geometry.mask_to_canonical(mask)
    if item.edit is not None:
        image = EDITS[item.edit].picture(image, canonical_mask)
    return {
        "image": image,
        "label": torch.from_numpy(canonical_mask.astype(np.float32))[None],
        "geometry": geometry,
        "modality": item.case.modality,
        "named_modality": item.case.modality,
        "target": item.target.name,
        "kind": item.target.kind,
        "laterality": item.target.side or "",
        "asked": item.question,
        "query": item.query,
        "picture": item.picture,
        "queries": [
            query for query in item.case.queries if item.target.id in query.target_ids and query.kind in ASKS_WHERE
        ],
        "key": item.key,
    }


def add_text(
    sample: Mapping[str, Any],
    *,
    bank: TemplateBank,
    text: TextEncoder,
    split: str,
    answers: bool,
    zone_rule: str,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Question, answer and their ids, made from the label as it is now, after any flip or shift.

    A case's own questions are used beside the templates; the answer always comes from the mask, so that words and
    pixels cannot disagree. A probe's question is asked as it is. `query_kind` says where the question came from:
    "template", "probe", or the kind of the case's own question. An item that is one of the case's own questions keeps
    its answer, too, as long as the target is in the picture.
    """
    sample = dict(sample)
    if sample["query"] is not None:
        return {**sample, **own_words(sample, sample["query"], sample["label"], text=text, answers=answers)}
    mask = sample["label"][0].numpy() > 0.5
    spacing_hw_mm = sample["geometry"].canonical_spacing_hw_mm
    findings = findings_of(mask, sample["kind"], zone_rule=zone_rule, spacing_hw_mm=spacing_hw_mm)
    if sample["asked"] is not None:
        sample["question"], sample["query_kind"] = sample["asked"], "probe"
        sample["answer"] = rule_text(findings, target=sample["target"])
    else:
        turn = bank.question(split, target=sample["target"], modality=sample["named_modality"], rng=rng)
        sample["question"], sample["query_kind"] = turn.question, "template"
        if sample["queries"] and rng.random() < 0.5:
            query = sample["queries"][int(rng.integers(len(sample["queries"])))]
            sample["question"], sample["query_kind"] = query.question, query.kind
        sample["answer"] = bank.answer(turn.template_id, target=sample["target"], findings=findings)
    sample["state"] = state_of(findings)
    sample["encoded"] = text.encode(sample["question"], sample["answer"] if answers else None)
    return sample


def state_of(findings: Sequence[Finding]) -> str:
    """What findings of one target come to, of `EVIDENCE_STATES`."""
    if len(findings) > 1:
        return "several"
    return findings[0].zone if findings else "none"


def ask_for_another(sample: Mapping[str, Any], *, target: str, modality: str | None) -> dict[str, Any]:
    """The same picture, asked for a lesion that it cannot show: there is none, and what it shows is left unsaid.

    Args:
        target: the lesion's name, see `foreign_targets`.
        modality: what the question calls the picture; None: nothing.
    """
    return {
        **sample,
        "target": target,
        "kind": "lesion",
        "queries": [],
        "label": torch.zeros_like(sample["label"]),
        "named_modality": modality,
        "foreign": True,
    }


def show_nothing(sample: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The same question about one of the `EMPTY_PICTURES`, a square: what is asked for is not there."""
    side_px = max(sample["image"].shape[1:])
    return {
        **sample,
        "image": empty_picture(number, side_px),
        "label": torch.zeros(1, side_px, side_px),
        "geometry": Geometry((side_px, side_px), (side_px, side_px)),
        "queries": [],
    }


_VISIBLE_LIGHT = ("endoscopy", "dermoscopy")


def foreign_targets(items: Sequence[Item], modality: str | None) -> list[tuple[str, str]]:
    """(modality, lesion) of these items that a picture of this modality cannot show.

    Two radiological modalities may show the same organ, so that the one's lesion may be in the other's picture, seen by
    nobody. A picture taken with visible light shares its target with no other modality.
    """
    own = {item.target.name for item in items if item.case.modality == modality}
    pairs = {(item.case.modality or "", item.target.name) for item in items if item.target.kind == "lesion"}
    return sorted(
        (other, name)
        for other, name in pairs
        if other != modality and (other in _VISIBLE_LIGHT or modality in _VISIBLE_LIGHT) and name not in own
    )


def through_window(
    sample: Mapping[str, Any], rng: np.random.Generator, *, share: float, min_side: float, mirror: bool
) -> dict[str, Any]:
    """The sample with the label of a random window, which the network cuts from its maps; `image` stays whole.

    Args:
        share: how many samples; the others stay as they are.
        min_side, mirror: see `random_window`.
    """
    if rng.random() >= share:
        return dict(sample)
    window = random_window(rng, min_side=min_side, mirror=mirror)
    return {**sample, "label": label_window(sample["label"], window), "window_xyxy_norm": window}


def windows_of(samples: Sequence[Mapping[str, Any]]) -> torch.Tensor | None:
    """Windows (B, 4) of samples, the whole picture where a sample has none; None where no sample has one."""
    if not any("window_xyxy_norm" in sample for sample in samples):
        return None
    return torch.stack([sample.get("window_xyxy_norm", torch.tensor(WHOLE)) for sample in samples])


def own_words(
    sample: Mapping[str, Any],
    query: Query,
    label: torch.Tensor,
    *,
    text: TextEncoder,
    answers: bool,
    explained: bool = True,
) -> dict[str, Any]:
    """One of a case's own questions and its ids; where the target is there, the answer begins by pointing at it.

    Args:
        label: of what is asked for, as it is now; moved out of the picture, it is denied.
        explained: False: what an answer that points says behind the candidates is left out of its ids, its end too.
    """
    present = bool(label.any())
    answer = query.answer or f"This is the {sample['target']}."
    if not present and query.target_ids:
        answer = rule_text([], target=sample["target"])
    words = answer if answers and (explained or not present) else None
    encoded = text.encode(query.question, words, points=answers and present)
    return {"question": query.question, "query_kind": query.kind, "answer": answer, "encoded": encoded}


def collate(samples: Sequence[Mapping[str, Any]], *, pad_id: int) -> dict[str, Any]:
    """Samples to one batch: images and labels padded at the bottom and right, texts on the right.

    Returns:
        image (B, 3, H, W) float32; windows_xyxy_norm (B, 4), what the labels show of the images, or None for all of
        them; label, valid (K, 1, H, W) float32; obj_image, modality_index, kind_index (K,) long;
        state_index (K,) long, of `EVIDENCE_STATES`, IGNORE_ID where the picture shows something else than is asked for;
        present (K,) float32; input_ids, attention_mask, prompt_mask, target_ids (K, T); geometry, question, query_kind,
        answer, key, picture, modality, target, kind as lists of K. Here every image has one object: K = B.
    """
    height = max(sample["image"].shape[1] for sample in samples)
    width = max(sample["image"].shape[2] for sample in samples)

    def padded(name: str) -> torch.Tensor:
        common = torch.zeros(len(samples), samples[0][name].shape[0], height, width)
        for row, sample in zip(common, samples, strict=True):
            row[:, : sample[name].shape[1], : sample[name].shape[2]] = sample[name]
        return common

    label = padded("label")
    valid = torch.zeros_like(label)
    for row, sample in zip(valid, samples, strict=True):
        row[:, : sample["image"].shape[1], : sample["image"].shape[2]] = 1
    names = ("geometry", "question", "answer", "key", "picture", "modality", "target", "kind")
    return {
        "image": padded("image"),
        "label": label,
        "valid": valid,
        "windows_xyxy_norm": windows_of(samples),
        "obj_image": torch.arange(len(samples)),
        "modality_index": torch.tensor([MODALITIES.index(sample["modality"]) for sample in samples]),
        "kind_index": torch.tensor([TARGET_KINDS.index(sample["kind"]) for sample in samples]),
        "state_index": torch.tensor([_state_index(sample) for sample in samples]),
        "present": label.flatten(1).amax(dim=1),
        "index": torch.tensor([sample.get("index", -1) for sample in samples]),
        **pad_batch([sample["encoded"] for sample in samples], pad_id),
        "query_kind": [sample.get("query_kind", "") for sample in samples],
        **{name: [sample[name] for sample in samples] for name in names},
    }


def _state_index(sample: Mapping[str, Any]) -> int:
    known = "state" in sample and not sample.get("foreign")
    return EVIDENCE_STATES.index(sample["state"]) if known else IGNORE_ID
