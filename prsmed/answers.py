"""From what the network says to what is stated: masks, presence, findings, contradictions.

One pass over [image, question] gives the mask; the sentence continues from that pass's cache. A session, a volume and
an evaluation use the same functions.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from prsmed.data.predictions import to_soft
from prsmed.geometry import Geometry, PatientAxes, mask_to_box
from prsmed.models.encoders import Looked
from prsmed.models.known import Known
from prsmed.models.language import ReadPrefix
from prsmed.models.medisee import MediSee
from prsmed.models.prs_med import PRSMed
from prsmed.samples import findings_of
from prsmed.text.encode import IGNORE_ID, TextEncoder, word_ids
from prsmed.text.fact_words import told_by_facts
from prsmed.text.findings import components, default_min_area_px
from prsmed.text.naming import first_named
from prsmed.text.parse import parse_position, stated_count, zones_match
from prsmed.text.patient import SIDE_UNANSWERABLE, on_side, side_asked
from prsmed.text.query_frames import lead_of
from prsmed.text.templates import described_findings
from prsmed.types import LATERALITIES, AnswerObject, Finding

MAX_NEW_TOKENS = 64


@dataclass
class RawAnswers:
    """What the network says for K rows, before thresholds.

    Attributes:
        mask_prob: float32 (K, 1, H, W) on the batch's canonical grid.
        presence_prob: float32 (K,).
        texts: the greedy sentences; None from a network without words, or where none were asked for.
        boxes_xyxy_norm: (K, 4) what a box decoder says, shares of the picture, NaN where it says nothing is there; None
            from a network without one.
        pointed: bool (K,) whether the words of a model that explains point at something; None where it has no choice.
        named: the known thing that each answer is about, None where that was not decided; None from a network that
            does not decide it.
        agreed: whether that is sure (`prsmed.models.coarse_mask.AGREED`); False also where something was pointed at and
            not decided, None where nothing was to be decided.
        timings_s: seconds for the mask and for the words.
    """

    mask_prob: torch.Tensor
    presence_prob: torch.Tensor
    texts: list[str] | None
    timings_s: dict[str, float] = field(default_factory=dict)
    boxes_xyxy_norm: torch.Tensor | None = None
    pointed: torch.Tensor | None = None
    named: list[str | None] | None = None
    agreed: list[bool | None] | None = None

    def doubtful(self, row: int) -> bool:
        """Whether it is not sure what was pointed at."""
        return self.agreed is not None and self.agreed[row] is False


@torch.no_grad()
def answer_batch(
    network: PRSMed | MediSee,
    batch: Mapping[str, Any],
    text: TextEncoder,
    *,
    encoded: Looked | None = None,
    prefix: ReadPrefix | None = None,
    words: bool = True,
    names: Iterable[str] = (),
) -> RawAnswers:
    """Masks, presence and sentences for a batch of questions (`input_ids` without answers), in evaluation mode.

    Args:
        encoded, prefix: what `encode_image` and `language.read_prefix` gave for these images.
        words: False leaves the sentences out, which take most of the time.
        names: of all that an explanation may name.
    """
    if isinstance(network, MediSee):
        return _see_batch(network, batch, text, encoded=encoded, prefix=prefix, words=words, names=names)
    started = time.perf_counter()
    output = network(
        batch["image"],
        [geometry.canonical_hw_px for geometry in batch["geometry"]],
        batch["input_ids"],
        batch["attention_mask"],
        batch["prompt_mask"],
        encoded=encoded,
        prefix=prefix,
        keep_cache=words,
    )
    mask_prob = output.mask_logits.float().sigmoid()
    presence_prob = output.presence_logit.float().sigmoid()
    has_mask = time.perf_counter()
    if not words:
        return RawAnswers(mask_prob, presence_prob, None, {"mask": has_mask - started})
    generated = network.continue_text(
        output, batch["attention_mask"], max_new_tokens=MAX_NEW_TOKENS, end_id=text.end_id
    )
    texts = [text.decode(row) for row in generated.ids]
    timings_s = {"mask": has_mask - started, "text": time.perf_counter() - has_mask}
    return RawAnswers(mask_prob, presence_prob, texts, timings_s)


def _see_batch(
    network: MediSee,
    batch: Mapping[str, Any],
    text: TextEncoder,
    *,
    encoded: Looked | None,
    prefix: ReadPrefix | None,
    words: bool,
    names: Iterable[str],
) -> RawAnswers:
    """As `answer_batch`. A picture that several rows ask about is encoded once.

    Where the model has no choice (`forced`), a target is as present as the surest pixel of its mask.
    """
    started, targets = time.perf_counter(), [*names]
    decides = network.heads.coarse is not None and bool(targets)
    pictures = batch.get("picture") or list(range(len(batch["image"])))
    first = [pictures.index(name) for name in dict.fromkeys(pictures)]
    number_of = {pictures[row]: number for number, row in enumerate(first)}
    seen = network.ask(
        batch["image"][first],
        [batch["geometry"][row].canonical_hw_px for row in first],
        batch["input_ids"],
        batch["attention_mask"],
        obj_image=torch.tensor([number_of[name] for name in pictures], device=batch["image"].device),
        end_id=text.end_id,
        max_new_tokens=MAX_NEW_TOKENS if words else 0,
        known=_known(targets, batch["question"], text, batch["image"].device) if decides else None,
        encoded=encoded,
        prefix=prefix,
    )
    mask_prob = seen.mask_logits.float().sigmoid()
    presence_prob = mask_prob.flatten(1).amax(dim=1) if seen.presence_logit is None else seen.presence_logit.sigmoid()
    texts = None if seen.ids is None else [text.decode(row).strip() for row in seen.ids]
    timings_s = {"mask and text" if words else "mask": time.perf_counter() - started}
    named = [targets[number] if number >= 0 else None for number in seen.named.tolist()]
    pointed = [True] * len(named) if seen.pointed is None else seen.pointed.tolist()
    agreed = [both if points else None for both, points in zip(seen.agreed.tolist(), pointed, strict=True)]
    agreement = agreed if decides else None
    return RawAnswers(mask_prob, presence_prob, texts, timings_s, seen.boxes_xyxy_norm, seen.pointed, named, agreement)


def _known(names: Sequence[str], questions: Sequence[str], text: TextEncoder, device: torch.device) -> Known:
    """What an explanation may be about, in tokens, and what the questions' words tell of it."""
    leads = [lead_of(name) for name in names]
    statement_ids = text.begin_ids([f"{lead} {name}" for lead, name in zip(leads, names, strict=True)])
    lead_ids = text.begin_ids(leads)
    lead_ids = F.pad(lead_ids, (0, statement_ids.shape[1] - lead_ids.shape[1]), value=IGNORE_ID)
    is_lead = ((statement_ids == lead_ids) & (lead_ids >= 0)).int().cumprod(dim=1).bool()
    told_KN = torch.from_numpy(told_by_facts(questions, names)).float()
    in_tokens = word_ids(names, text.tokenizer), statement_ids, is_lead
    return Known(*(part.to(device) for part in (*in_tokens, told_KN)))


def detected_box(raw: RawAnswers, row: int, hw_px: tuple[int, int]) -> tuple[float, float, float, float] | None:
    """What a box decoder says of one row, in pixels of a picture of this size; None where it says nothing."""
    if raw.boxes_xyxy_norm is None or raw.boxes_xyxy_norm[row].isnan().any():
        return None
    height, width = hw_px
    sides_px = torch.tensor([width, height, width, height])
    x0, y0, x1, y1 = (raw.boxes_xyxy_norm[row].cpu().clamp(0, 1) * sides_px).tolist()
    return round(x0, 2), round(y0, 2), round(x1, 2), round(y1, 2)


def decide(
    soft_HW: np.ndarray,
    presence_prob: float | None,
    *,
    kind: str,
    thresholds: Mapping[str, float],
    zone_rule: str,
    spacing_hw_mm: tuple[float, float] | None = None,
    patient_axes: PatientAxes | None = None,
) -> AnswerObject:
    """From probabilities to a statement; below the presence threshold the mask is empty, whatever it was.

    Args:
        soft_HW: uint8 mask probabilities (`to_soft`) on the grid of the source picture.
        presence_prob: None for a system that only draws: what it draws is there.
        thresholds: `mask` and `presence`; and `region`, where given: the share of the largest region's area below which
            a region does not count.
        patient_axes: how the picture lies in the patient, where its file says so.
    """
    mask_HW, present = drawn(soft_HW, presence_prob, thresholds)
    if presence_prob is None:
        presence_prob = float(soft_HW.max()) / 255
    findings = findings_of(mask_HW, kind, zone_rule=zone_rule, spacing_hw_mm=spacing_hw_mm, patient_axes=patient_axes)
    return AnswerObject(mask_HW, mask_to_box(mask_HW), present, float(presence_prob), findings)


def drawn(soft_HW: np.ndarray, presence_prob: float | None, thresholds: Mapping[str, float]) -> tuple[np.ndarray, bool]:
    """The mask (bool, H W) that probabilities stand for, and whether anything is said to be there; as `decide`."""
    mask_HW = soft_HW >= thresholds["mask"] * 255
    if thresholds.get("region"):
        mask_HW = without_specks(mask_HW, share=thresholds["region"])
    present = bool(mask_HW.any()) if presence_prob is None else bool(presence_prob >= thresholds["presence"])
    return mask_HW & present, present


def without_specks(mask_HW: np.ndarray, *, share: float) -> np.ndarray:
    """A mask (bool, H W) without the regions that are smaller than a share of its largest."""
    labels_HW, labels = components(mask_HW, 0)
    if len(labels) < 2:
        return mask_HW
    areas_px = np.bincount(labels_HW.ravel())
    return np.isin(labels_HW, [label for label in labels if areas_px[label] >= share * areas_px[labels[0]]])


def soft_mask(mask_prob_1HW: torch.Tensor, geometry: Geometry) -> np.ndarray:
    """A predicted mask as it is stored and decided on: uint8, from the (padded) canonical grid to the picture's."""
    return to_soft(geometry.prob_to_slice(mask_prob_1HW[0].float().cpu()).numpy())


def only_on_side(
    thing: AnswerObject, side: str, *, kind: str, zone_rule: str, geometry: Geometry, region_share: float = 0.0
) -> tuple[AnswerObject, list[str], int]:
    """What of an answer lies on one side of the patient, what has to be said about it, and how much lies elsewhere.

    Each region is looked at by itself, also of an organ: asked for the right lung, the left one is left out.

    Args:
        thing: decided without the threshold `region`.
        region_share: that threshold: it compares the regions of the side that was asked about.
    """
    find = partial(
        findings_of, zone_rule=zone_rule, spacing_hw_mm=geometry.spacing_hw_mm, patient_axes=geometry.patient_axes
    )
    regions = find(thing.mask, "lesion")
    kept, unknown = on_side(regions, side)
    if unknown:
        mask_HW, elsewhere, notes = thing.mask, 0, [f"the question about the patient's {side} side {SIDE_UNANSWERABLE}"]
    else:
        labels_HW, numbers = components(thing.mask, default_min_area_px(thing.mask.shape))
        there = [number for number, region in zip(numbers, regions, strict=True) if region in kept]
        mask_HW, elsewhere = np.isin(labels_HW, there), len(regions) - len(kept)
        notes = [f"only the patient's {side} side was asked about; the presence probability is that of the whole image"]
    mask_HW = without_specks(mask_HW, share=region_share)
    present = thing.present and (bool(mask_HW.any()) or bool(unknown))
    limited = AnswerObject(mask_HW, mask_to_box(mask_HW), present, thing.presence_prob, find(mask_HW, kind))
    return limited, [*notes, *left_out(elsewhere)], elsewhere


def left_out(count: int) -> list[str]:
    """Said where something was drawn on the side that was not asked about."""
    return [f"drawn on the other side, and left out: {count}"] if count else []


def contradictions_of(
    model_text: str,
    thing: AnswerObject,
    *,
    target: str,
    names: Iterable[str] = (),
    states_position: bool = True,
    overruled: bool = False,
) -> list[str]:
    """Where the sentence, the mask and the presence decision disagree, in plain English.

    Args:
        names: of all that the sentence may be about.
        states_position: False for an explanation (MediSee), which need not say where the thing is.
        overruled: whether this explanation points at something that the network then found to be nowhere.
    """
    parsed = parse_position(model_text, target=target)
    found = []
    if thing.present and not thing.mask.any():
        found.append("the presence head says that something is visible, but the mask is empty")
    if not states_position:
        if parsed.kind == "none" and thing.mask.any():
            found.append("the model's sentence says that nothing is visible, but the mask is not empty")
        elif overruled and parsed.kind != "none":
            found.append("the model's sentence points at something, but nothing in the image looks like it")
        elif parsed.kind != "none" and (named := first_named(model_text, names)) not in (None, target):
            found.append(f"the model's sentence names the {named}, and it is not sure that this is meant")
        return found
    if parsed.kind == "unreadable":
        found.append("the model's sentence states no position that can be checked")
    elif parsed.kind == "none" and thing.mask.any():
        found.append("the model's sentence says that nothing is visible, but the mask is not empty")
    elif parsed.kind == "positions" and not thing.mask.any():
        found.append("the model's sentence names a position, but the mask is empty")
    elif parsed.kind == "positions" and not zones_match(parsed, described_zones(thing.findings)):
        said, shown = ", ".join(parsed.zones), ", ".join(described_zones(thing.findings))
        found.append(f"the model's sentence says {said}, the mask lies at {shown}")
    elif parsed.kind == "positions" and (count := stated_count(model_text, parsed)) != len(thing.findings):
        found.append(f"the model's sentence speaks of {count}, the mask shows {len(thing.findings)}")
    if (named := first_named(model_text, names)) not in (None, target) and target in names:
        found.append(f"the model's sentence is about the {named}")
    return found


def side_contradictions(thing: AnswerObject, target: str) -> list[str]:
    """Where a target that is called left or right lies on the other side of the patient, in plain English."""
    own = side_asked(target)
    wrong = {finding.patient_side for finding in thing.findings} & (set(LATERALITIES) - {own})
    return [f"the {target} was asked for, the mask lies on the patient's {side}" for side in wrong if own]


def box_contradictions(thing: AnswerObject) -> list[str]:
    """Where a box decoder's box and the mask share no pixel, in plain English; nothing where one of them is missing."""
    box, drawn_box = thing.detected_box_xyxy_px, thing.box_xyxy_px
    if box is None or drawn_box is None:
        return []
    x_meet, y_meet = (min(box[end], drawn_box[end]) > max(box[end - 2], drawn_box[end - 2]) for end in (2, 3))
    return [] if x_meet and y_meet else ["the box of the box decoder lies elsewhere than the mask"]


def described_zones(findings: Sequence[Finding]) -> tuple[str, ...]:
    """The zones a truthful sentence names: all findings up to the templates' limit, else the largest one's."""
    return tuple(finding.zone for finding in described_findings(findings))
