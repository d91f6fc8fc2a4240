"""What a report says and in which order: from the content of scores.json to a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prsmed.report.page import CasePicture, Cell, Fold, Page, Plot, Section, Table, number, score, words
from prsmed.report.tables import (
    MAIN,
    MASKS,
    NEGATIVES,
    PUBLISHED,
    QUERIES,
    SENTENCES,
    beside_table,
    confusion_tables,
    flat,
    gate_table,
    model_name,
    position_tables,
    protocol_table,
    published_table,
    scopes,
    score_table,
    systems,
)
from prsmed.types import NOT_A_MEDICAL_DEVICE

Block = Mapping[str, Any]

CAVEAT = (
    "Printed numbers cannot be compared row by row: data, splits, thresholds and the reading of sentences differ. The "
    "printed Dice and IoU are means over 256 thresholds of the soft mask (the authors' protocol), the printed position "
    "accuracy has no majority answer beside it, and the lung masks of CT and X-ray are organs."
)
READING = (
    ("n", "The number of cases behind a score. A dash means that there was no case, or that it was not measured."),
    ("Intervals", "Confidence intervals by bootstrap, drawing all images of a patient or a video together."),
    (
        "Dice, IoU, NSD, box IoU, Acc@0.5",
        "Over images that show the target, on the grid of the source picture. A missed target is 0. NSD is the share "
        "of both outlines that lie within the tolerance stated above of each other; Acc@0.5 is the share of boxes "
        "with an IoU above 0.5.",
    ),
    (
        "Empty masks",
        "Both empty is right (1), one of two empty is wrong (0). Images without the target never raise Dice: they are "
        "scored on their own under Negatives. Only gIoU (mean IoU) and cIoU (summed overlap by summed union) run over "
        "all images.",
    ),
    (
        "Macro lesion Dice",
        "The mean over lesion targets of their mean Dice, so that the most frequent does not decide.",
    ),
    (
        "Lesion F1, FP / image",
        "Connected regions: a true one counts as found when the prediction hits it; a predicted one that hits none is "
        "a false positive (FP).",
    ),
    (
        "Zone accuracy",
        "Read from the model's own sentence by a strict parser, over images with exactly one finding. A sentence that "
        "cannot be read is wrong. Off borders: without findings that change their zone when they move by 2 %. Kappa "
        "is 0 for an answer that does not look, whatever its accuracy.",
    ),
    (
        "Sentence, presence, mask",
        "The three ways in which a system says that the target is not there: its words, its presence probability below "
        "the threshold, an empty mask.",
    ),
    ("Silent systems", "A system that gives masks but no sentences has no zone scores: a dash, not 0."),
    ("Gates", "Made from the split's own images by changing picture or question; they enter no other score."),
)


def build_page(content: Block, plots: Mapping[str, Plot], pictures: Sequence[CasePicture]) -> Page:
    """The page of one evaluation; parts without data are left out."""
    sections = (
        _masks(content, plots),
        _queries(content),
        _position(content, plots),
        _negatives(content),
        _gates(content),
        _calibration(content, plots),
        _papers(content),
        _groups(content),
        _pictures(pictures),
        Section("reading", "How to read this", points=READING),
        _everything(content),
    )
    return Page(
        title=f"Evaluation of {model_name(content)}",
        notice=str(content.get("notice") or NOT_A_MEDICAL_DEVICE),
        facts=tuple(_facts(content)),
        headline=tuple(_headline(content)),
        sections=tuple(section for section in sections if section),
    )


def _facts(content: Block) -> Iterator[tuple[str, str]]:
    overall, negatives = content.get("overall") or {}, content.get("negatives") or {}
    yield "Split", str(content.get("split") or "unknown")
    yield "Questions", f"{number(overall.get('n'))} with the target, {number(negatives.get('n'))} without"
    yield "Data fingerprint", str(content.get("data_fingerprint") or "unknown")
    for name, value in flat(content.get("model") or {}):
        yield f"Model {name}", value
    yield from _settings(content.get("settings") or {})


def _settings(settings: Block) -> Iterator[tuple[str, str]]:
    """How the numbers were made; what is not stated is left out."""
    if tolerance := settings.get("tolerance"):
        yield "NSD tolerance", f"{tolerance['mm']:g} mm where the size of a pixel is known, else {tolerance['px']:g} px"
    if thresholds := settings.get("thresholds"):
        yield "Thresholds", ", ".join(f"{name} {value:g}" for name, value in thresholds.items())
    if zone_rule := settings.get("zone_rule"):
        yield "Zone rule", str(zone_rule)
    if intervals := settings.get("intervals"):
        yield "Intervals", f"{intervals['coverage']:.0%}, {intervals['draws']} draws of {intervals['drawn']}"


def _headline(content: Block) -> Iterator[tuple[str, Cell]]:
    overall, negatives = content.get("overall") or {}, content.get("negatives") or {}
    headline = content.get("headline") or {}
    lesions = f"n = {number(headline.get('n'))} images with a lesion"
    yield "Macro lesion Dice", score(headline, "macro_lesion_dice", note=lesions)
    single = f"n = {number(overall.get('zone_n'))} images with one finding"
    yield "Zone accuracy", score(overall, "zone_accuracy", note=single)
    yield "Zone kappa", score(overall, "zone_kappa", note="0 for an answer that does not look")
    without = f"n = {number(negatives.get('n'))} images without the target"
    yield "Specificity", score(negatives, "specificity", note=without)
    shown = f"n = {number(negatives.get('n_positive'))} images with the target"
    yield "False “none”", score(negatives, "false_none", note=shown)
    verdicts = [gate.get("passed") for gate in (content.get("gates") or {}).values()]
    if verdicts:
        passed, open_ = verdicts.count(True), verdicts.count(None)
        kind = "fail" if False in verdicts else "open" if open_ else "pass"
        note = f"{open_} not measured" if open_ else ""
        yield "Gates passed", Cell(f"{passed} of {len(verdicts)}", note=note, kind=kind)


def _masks(content: Block, plots: Mapping[str, Plot]) -> Section | None:
    blocks = list(scopes(content, counted=True))
    tables = score_table("Lesions and organs, overall and by modality", ("Modality", "Asked for"), blocks, MAIN)
    if content.get("baselines"):
        tables += beside_table("Dice beside the baselines", content, "dice", "n")
    return _section("scores", "Scores by modality", tables, _chosen(plots, "dice"))


def _queries(content: Block) -> Section | None:
    rows = [
        ((name, kind.replace("/", ", ")), block)
        for name, scores in systems(content).items()
        for kind, block in (scores.get("queries") or {}).items()
        if block
    ]
    tables = score_table("Own questions, every system", ("Answered by", "Question"), rows, QUERIES)
    tables += _negatives_by(content, "queries", "Asked for what is not there", "Question")
    text = "Baselines are told what a question means; the model has to find it out."
    return _section("questions", "Scores by kind and length of question", tables, texts=(text,))


def _position(content: Block, plots: Mapping[str, Plot]) -> Section | None:
    position = content.get("position") or {}
    if (position.get("overall") or {}).get("n") == 0:  # no question asked for a position, or no sentence was made
        return None
    tables = position_tables(content)
    if content.get("baselines"):
        tables += beside_table("Zone accuracy beside the baselines", content, "zone_accuracy", "zone_n")
    constant = position.get("constant_label_sets")
    texts = [
        "A bare accuracy says little where most findings lie in one zone: read it beside the majority answer, which "
        "never looks."
    ]
    if constant:
        named = ", ".join(map(str, constant))
        texts.append(f"All findings of these sets lie in one zone, so they are left out of kappa: {named}.")
    folds = _fold("Confusion as tables", confusion_tables(position))
    return _section("position", "Position", tables, _chosen(plots, "confusion"), texts=tuple(texts), folds=folds)


def _negatives(content: Block) -> Section | None:
    rows = [((name,), scores["negatives"]) for name, scores in systems(content).items() if scores.get("negatives")]
    tables = score_table("Every system, all images", ("Answered by",), rows, NEGATIVES)
    tables += _negatives_by(content, "modalities", "The model by modality", "Modality")
    texts = (
        "Specificity: images without the target of which the answer says so. False none: images with it that are said "
        "not to show it. One is worth nothing without the other.",
    )
    return _section("negatives", "Negatives", tables, texts=texts)


def _negatives_by(content: Block, groups: str, caption: str, label: str) -> tuple[Table, ...]:
    blocks = (content.get(groups) or {}).items()
    counted = [(name, block["negatives"]) for name, block in blocks if (block or {}).get("negatives")]
    rows = [((name.replace("/", ", "),), negatives) for name, negatives in counted]
    return score_table(caption, (label,), rows, NEGATIVES)


def _gates(content: Block) -> Section | None:
    return _section("gates", "Gates", gate_table(content.get("gates") or {}))


def _calibration(content: Block, plots: Mapping[str, Plot]) -> Section | None:
    calibration = content.get("calibration") or {}
    scalars = [name for name, value in calibration.items() if isinstance(value, (int, float))]
    rows = tuple((words(name.replace("_", " ")), score(calibration, name)) for name in scalars)
    tables = (Table("Presence probability against what the images show", ("Measure", "Value"), rows),) if rows else ()
    columns = (("n", "n"), ("Mean probability", "mean_prob"), ("Share that shows it", "share_present"))
    bins = [((f"{number(part['lower'])} to {number(part['upper'])}",), part) for part in calibration.get("bins") or ()]
    folds = _fold("Bins as a table", score_table("Bins of the diagram", ("Stated probability",), bins, columns))
    return _section("calibration", "Calibration", tables, _chosen(plots, "reliability"), folds=folds)


def _papers(content: Block) -> Section | None:
    protocol = content.get("reference_protocol")
    tables = (protocol_table(protocol) if protocol else ()) + published_table(content)
    return _section("papers", "The authors' protocol and printed numbers", tables, texts=(CAVEAT, _source()))


def _source() -> str:
    return f"Printed numbers: {PUBLISHED['source']}."


def _groups(content: Block) -> Section | None:
    folds: tuple[Fold, ...] = ()
    groups = {"targets": "Target", "datasets": "Data set", "query_kinds": "Query kind", "queries": "Question"}
    for name, label in groups.items():
        rows = [((key,), block) for key, block in (content.get(name) or {}).items() if block]
        tables = score_table("Masks", (label,), rows, MASKS) + score_table("Sentences", (label,), rows, SENTENCES)
        tables += _negatives_by(content, name, "Negatives", label)
        folds += _fold(f"By {label.lower()} ({len(rows)})", tables)
    return _section("groups", "By target, data set and query kind", folds=folds)


def _pictures(pictures: Sequence[CasePicture]) -> Section | None:
    titles = {"best": "Best by Dice", "worst": "Worst by Dice", "example": "Examples, not chosen by score"}
    groups = {title: tuple(picture for picture in pictures if picture.kind == kind) for kind, title in titles.items()}
    shown = tuple((title, group) for title, group in groups.items() if group)
    return Section("cases", "Cases", pictures=shown) if shown else None


def _everything(content: Block) -> Section | None:
    folds: tuple[Fold, ...] = ()
    for name, scores in systems(content).items():
        rows, labels = list(scopes(scores)), ("Modality", "Asked for")
        tables = score_table(f"Masks, {name}", labels, rows, (*MASKS, ("Macro lesion Dice", "macro_lesion_dice")))
        tables += score_table(f"Sentences, {name}", labels, rows, SENTENCES)
        tables += _negatives_by(scores, "modalities", f"Negatives, {name}", "Modality") if scores is not content else ()
        folds += _fold(f"All scores of {name}", tables)
    return _section("all", "All scores", folds=folds)


def _fold(title: str, tables: tuple[Table, ...]) -> tuple[Fold, ...]:
    return (Fold(title, tables),) if tables else ()


def _chosen(plots: Mapping[str, Plot], name: str) -> tuple[Plot, ...]:
    return (plots[name],) if name in plots else ()


def _section(
    anchor: str,
    title: str,
    tables: tuple[Table, ...] = (),
    plots: tuple[Plot, ...] = (),
    *,
    texts: tuple[str, ...] = (),
    folds: tuple[Fold, ...] = (),
) -> Section | None:
    """The section, or None where it would hold nothing but sentences."""
    if not (tables or plots or folds):
        return None
    return Section(anchor, title, texts, tables, plots, folds=folds)
