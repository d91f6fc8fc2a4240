"""From scored rows to the numbers of `scores.json`: one dictionary of plain data, each block with its n.

A block's numbers are statistics (`prsmed.metrics.intervals`), so the number and its interval come from one formula.
Rows of a gate's probe never count. A number that a block has no rows for is None, never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from prsmed.metrics.intervals import Bootstrap, Statistic, macro_mean, mean, ratio
from prsmed.metrics.position import constant_label_sets, is_judged, position_scores, position_statistics
from prsmed.metrics.rows import ScoreRow

SCORES_SCHEMA_VERSION = 2
BOX_IOU_THRESHOLD = 0.5
CALIBRATION_BINS = 10

Rows = Sequence[ScoreRow]


def summarise(rows: Rows, *, intervals: Bootstrap | None = None) -> dict[str, Any]:
    """The blocks of `scores.json` that follow from rows alone.

    Args:
        rows: of one system on one split.
        intervals: how patients are drawn; None leaves every `intervals` empty (validation during training).
    """
    rows = ordinary(rows)
    by_modality = split_by(rows, lambda row: row.modality)
    macro = macro_lesion_dice(rows)
    return {
        "schema_version": SCORES_SCHEMA_VERSION,
        "headline": {"n": macro.n, **_numbers(rows, {"macro_lesion_dice": macro}, intervals)},
        "overall": block(rows, intervals, with_macro=True),
        **_kinds(rows, intervals),
        "modalities": {
            name: {
                **block(part, intervals, with_macro=True),
                **_kinds(part, intervals),
                "negatives": negative_scores(part, intervals),
            }
            for name, part in by_modality.items()
        },
        "targets": _blocks(rows, target_name, intervals),
        "datasets": _blocks(rows, lambda row: row.dataset, intervals),
        "query_kinds": _blocks(rows, lambda row: row.query_kind, intervals),
        "queries": _blocks([row for row in rows if row.query_length], query_name, intervals),
        "negatives": negative_scores(rows, intervals),
        "position": {
            "overall": position_scores(rows, intervals),
            "modalities": {name: position_scores(part, intervals) for name, part in by_modality.items()},
            "constant_label_sets": constant_label_sets(rows),
        },
        "calibration": calibration(rows, intervals),
        "reference_protocol": reference_protocol(rows, intervals),
    }


def ordinary(rows: Rows) -> list[ScoreRow]:
    """The rows that scores are made of: those of no probe."""
    return [row for row in rows if not row.probe]


def split_by(rows: Rows, name_of: Callable[[ScoreRow], str]) -> dict[str, list[ScoreRow]]:
    """Rows by name, names in alphabetical order."""
    parts: dict[str, list[ScoreRow]] = {name: [] for name in sorted({name_of(row) for row in rows})}
    for row in rows:
        parts[name_of(row)].append(row)
    return parts


def target_name(row: ScoreRow) -> str:
    """A target in one modality, as `scores.json` names it: "mri/brain tumour"."""
    return f"{row.modality}/{row.target}"


def query_name(row: ScoreRow) -> str:
    """The kind and length of a case's own question: "attribute/long"."""
    return f"{row.query_kind}/{row.query_length}"


def block_statistics(rows: Rows) -> dict[str, Statistic]:
    """The statistics of a block, over the rows given; which of them each one is over is stated line by line."""
    every_R = np.ones(len(rows), dtype=bool)
    present_R = _where(rows, lambda row: row.present)
    lesion_R = _where(rows, lambda row: row.kind == "lesion")
    one_finding_R = _where(rows, lambda row: row.present and row.zone_truth is not None)
    clear_R = _where(rows, lambda row: not row.border_ambiguous)
    spoken_R = _where(rows, lambda row: row.text_kind != "silent")
    judged_R = _where(rows, is_judged)
    right_R = _values(rows, lambda row: row.zones_right)
    box_iou_R = _values(rows, lambda row: row.mask.box_iou)
    iou_R = _values(rows, lambda row: row.mask.iou)
    boxed_R = _where(rows, lambda row: row.decoder_box_iou is not None)
    decoder_R = _values(rows, lambda row: row.decoder_box_iou or 0.0)
    named_R = _where(rows, lambda row: row.names_target is not None)
    decided_R = _where(rows, lambda row: row.readings_agree is not None)
    agreed_R = _where(rows, lambda row: bool(row.readings_agree))
    found_R = _values(rows, lambda row: row.mask.lesions_found)
    false_R = _values(rows, lambda row: row.mask.lesions_false)
    regions_R = _values(rows, lambda row: row.mask.lesions_true)
    position = position_statistics(rows)
    return {
        "dice": mean(_values(rows, lambda row: row.mask.dice), present_R),
        "iou": mean(iou_R, present_R),
        "nsd": mean(_values(rows, lambda row: row.mask.nsd), present_R),
        "ciou": ratio(
            _values(rows, lambda row: row.mask.intersection_px), _values(rows, lambda row: row.mask.union_px), every_R
        ),
        "giou": mean(iou_R, every_R),
        "box_iou": mean(box_iou_R, present_R),
        "acc_at_0.5": mean(box_iou_R > BOX_IOU_THRESHOLD, present_R),
        "decoder_box_iou": mean(decoder_R, boxed_R),
        "decoder_acc_at_0.5": mean(decoder_R > BOX_IOU_THRESHOLD, boxed_R),
        # 2 TP / (2 TP + FN + FP) of regions; an organ's parts are no lesions.
        "lesion_f1": ratio(2 * found_R, found_R + regions_R + false_R, lesion_R),
        "false_positives_per_image": mean(false_R, lesion_R),
        "zone_accuracy": position["accuracy"],
        "zone_balanced_accuracy": position["balanced_accuracy"],
        "zone_kappa": position["kappa"],
        "zone_accuracy_unambiguous": mean(right_R, judged_R & clear_R),
        "all_findings_accuracy": mean(right_R, present_R & spoken_R),
        # Not of the sentence but of the mask, so systems that give no sentences have it too.
        "rule_accuracy": mean(_values(rows, lambda row: row.rule_right), one_finding_R),
        "contradiction_rate": mean(_values(rows, lambda row: row.contradiction), spoken_R),
        "names_target": mean(_values(rows, lambda row: bool(row.names_target)), named_R),
        "readings_agree": mean(1.0 * agreed_R, decided_R),
        "dice_agreed": mean(_values(rows, lambda row: row.mask.dice), present_R & agreed_R),
        "dice_disagreed": mean(_values(rows, lambda row: row.mask.dice), present_R & decided_R & ~agreed_R),
    }


def negative_statistics(rows: Rows) -> dict[str, Statistic]:
    """The statistics on images without the target, and how often the target is denied where it is there."""
    present_R = _where(rows, lambda row: row.present)
    spoken_R = _where(rows, lambda row: row.text_kind != "silent")
    denied_R = _values(rows, lambda row: row.text_kind == "none")
    says_present_R = _values(rows, lambda row: row.says_present)
    return {
        "specificity": mean(denied_R, ~present_R & spoken_R),
        "specificity_presence": mean(1 - says_present_R, ~present_R),
        "specificity_mask": mean(_values(rows, lambda row: row.mask_is_empty), ~present_R),
        # Where nothing is true, the union is what was drawn.
        "false_positive_px": mean(_values(rows, lambda row: row.mask.union_px), ~present_R),
        "false_none": mean(denied_R, present_R & spoken_R),
        "false_none_presence": mean(1 - says_present_R, present_R),
        "sensitivity_presence": mean(says_present_R, present_R),
    }


def macro_lesion_dice(rows: Rows) -> Statistic:
    """The headline: the mean over lesion targets (modality and target) of their mean Dice where they are present."""
    dice_R = _values(rows, lambda row: row.mask.dice)
    counts_R = _where(rows, lambda row: row.lesion_dice_counts)
    names_R = np.array([target_name(row) for row in rows])
    targets = sorted({target_name(row) for row in rows if row.lesion_dice_counts})
    return macro_mean([mean(dice_R, counts_R & (names_R == name)) for name in targets], len(rows))


def block(rows: Rows, intervals: Bootstrap | None, *, with_macro: bool = False) -> dict[str, Any]:
    """One BLOCK of `scores.json`; `n` is the number of images that show the target."""
    statistics = block_statistics(rows)
    if with_macro:
        statistics["macro_lesion_dice"] = macro_lesion_dice(rows)
    return {
        "n": statistics["dice"].n,
        "zone_n": statistics["zone_accuracy"].n,
        "zone_n_unambiguous": statistics["zone_accuracy_unambiguous"].n,
        **_numbers(rows, statistics, intervals),
    }


def negative_scores(rows: Rows, intervals: Bootstrap | None) -> dict[str, Any]:
    """One NEG block of `scores.json`: specificity without the target (`n`), false denials with it (`n_positive`)."""
    positives = sum(row.present for row in rows)
    numbers = _numbers(rows, negative_statistics(rows), intervals)
    return {"n": len(rows) - positives, "n_positive": positives, **numbers}


def calibration(rows: Rows, intervals: Bootstrap | None) -> dict[str, Any]:
    """How far the presence probability is a probability: Brier score, expected calibration error, reliability bins.

    The expected calibration error is the mean over rows of |share present - mean probability| of the row's bin, for
    ten bins of equal width (Guo et al. 2017, equation 3, for the probability of presence). Empty bins have None.
    """
    prob_R = _values(rows, lambda row: row.presence_prob)
    present_R = _values(rows, lambda row: row.present)
    edges = np.arange(CALIBRATION_BINS + 1) / CALIBRATION_BINS
    bin_R = np.searchsorted(edges[1:-1], prob_R, side="right")
    bins, error = [], 0.0
    for index in range(CALIBRATION_BINS):
        inside_R = bin_R == index
        n = int(inside_R.sum())
        mean_prob, share = (float(values[inside_R].mean()) if n else None for values in (prob_R, present_R))
        bins.append(
            {
                "lower": float(edges[index]),
                "upper": float(edges[index + 1]),
                "n": n,
                "mean_prob": mean_prob,
                "share_present": share,
            }
        )
        if mean_prob is not None and share is not None:
            error += n / len(rows) * abs(share - mean_prob)
    brier = {"brier": mean((prob_R - present_R) ** 2, np.ones(len(rows), dtype=bool))}
    return {
        "n": len(rows),
        "expected_calibration_error": error if rows else None,
        **_numbers(rows, brier, intervals),
        "bins": bins,
    }


def reference_protocol(rows: Rows, intervals: Bootstrap | None) -> dict[str, Any] | None:
    """Dice, IoU and E-measure by the authors' protocol, over images with the target; None where not asked for."""
    rows = [row for row in rows if row.present and row.protocol_dice is not None]
    if not rows:
        return None

    def scores(part: Rows) -> dict[str, Any]:
        every_R = np.ones(len(part), dtype=bool)
        statistics = {
            "dice": mean(_values(part, lambda row: row.protocol_dice), every_R),
            "iou": mean(_values(part, lambda row: row.protocol_iou), every_R),
            "e_measure": mean(_values(part, lambda row: row.protocol_e_measure), every_R),
        }
        return {"n": len(part), **_numbers(part, statistics, intervals)}

    by_modality = split_by(rows, lambda row: row.modality)
    return {**scores(rows), "modalities": {name: scores(part) for name, part in by_modality.items()}}


def flat_metrics(scores: Mapping[str, Any], prefix: str = "val") -> dict[str, float]:
    """Scalars under MLflow names: `val/overall/dice`, `val/mri/zone_accuracy`, `val/attribute/long/dice`, ..."""
    names = ("overall", "lesions", "organs", "negatives", "calibration")
    blocks = {**{name: scores[name] for name in names}, **scores["modalities"], **scores["queries"]}
    return {
        f"{prefix}/{block}/{name}": float(value)
        for block, values in blocks.items()
        for name, value in values.items()
        if isinstance(value, (int, float))
    }


def selection_score(scores: Mapping[str, Any]) -> float:
    """What picks the best checkpoint: the mean of Dice, zone accuracy and balanced presence, as far as they exist."""
    negatives = scores["negatives"]
    parts = [scores["overall"]["dice"], scores["overall"]["zone_accuracy"], negatives["specificity"]]
    if negatives["false_none"] is not None:
        parts.append(1 - negatives["false_none"])
    return float(np.mean([part for part in parts if part is not None] or [0.0]))


def _kinds(rows: Rows, intervals: Bootstrap | None) -> dict[str, Any]:
    """One block of the lesions and one of the organs."""
    return {
        name: block([row for row in rows if row.kind == kind], intervals)
        for name, kind in (("lesions", "lesion"), ("organs", "organ"))
    }


def _blocks(rows: Rows, name_of: Callable[[ScoreRow], str], intervals: Bootstrap | None) -> dict[str, Any]:
    return {
        name: {**block(part, intervals), "negatives": negative_scores(part, intervals)}
        for name, part in split_by(rows, name_of).items()
    }


def _numbers(rows: Rows, statistics: Mapping[str, Statistic], intervals: Bootstrap | None) -> dict[str, Any]:
    """The values of statistics under their names, and beside them their intervals."""
    return {
        **{name: statistic.value() for name, statistic in statistics.items()},
        "intervals": intervals.intervals([row.group for row in rows], statistics) if intervals else {},
    }


def _values(rows: Rows, value_of: Callable[[ScoreRow], Any]) -> np.ndarray:
    return np.array([value_of(row) for row in rows], dtype=np.float64)


def _where(rows: Rows, holds: Callable[[ScoreRow], bool]) -> np.ndarray:
    return np.array([holds(row) for row in rows], dtype=bool)
