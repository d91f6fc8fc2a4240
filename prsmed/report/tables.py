"""Tables from the blocks of scores.json. A missing block or value becomes a dash, never a zero."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prsmed.report.page import Cell, Table, number, score, words

PUBLISHED: dict[str, Any] = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))

Block = Mapping[str, Any]
# A column: its header, and the name of its value in a block.
Columns = tuple[tuple[str, str], ...]

MAIN: Columns = (
    ("n", "n"),
    ("Dice", "dice"),
    ("IoU", "iou"),
    ("NSD", "nsd"),
    ("Lesion F1", "lesion_f1"),
    ("FP / image", "false_positives_per_image"),
    ("Box IoU", "box_iou"),
    ("Acc@0.5", "acc_at_0.5"),
    ("Zone accuracy", "zone_accuracy"),
    ("Zone n", "zone_n"),
    ("Zone kappa", "zone_kappa"),
)
MASKS: Columns = (
    *MAIN[:4],
    ("gIoU", "giou"),
    ("cIoU", "ciou"),
    *MAIN[4:8],
)
SENTENCES: Columns = (
    ("n", "n"),
    *MAIN[8:],
    ("Balanced accuracy", "zone_balanced_accuracy"),
    ("Accuracy off borders", "zone_accuracy_unambiguous"),
    ("n off borders", "zone_n_unambiguous"),
    ("All findings", "all_findings_accuracy"),
    ("Rule text", "rule_accuracy"),
    ("Contradictions", "contradiction_rate"),
)
QUERIES: Columns = (
    ("n", "n"),
    ("Dice", "dice"),
    ("gIoU", "giou"),
    ("cIoU", "ciou"),
    ("Box IoU", "box_iou"),
    ("Acc@0.5", "acc_at_0.5"),
    ("Decoder's box IoU", "decoder_box_iou"),
    ("Decoder's Acc@0.5", "decoder_acc_at_0.5"),
    ("Names the target", "names_target"),
    ("Readings agree", "readings_agree"),
    ("Dice where they do", "dice_agreed"),
    ("Dice where not", "dice_disagreed"),
)
NEGATIVES: Columns = (
    ("n without", "n"),
    ("Specificity: sentence", "specificity"),
    ("Specificity: presence", "specificity_presence"),
    ("Specificity: mask", "specificity_mask"),
    ("False positive px", "false_positive_px"),
    ("n with", "n_positive"),
    ("False none: sentence", "false_none"),
    ("False none: presence", "false_none_presence"),
    ("Sensitivity: presence", "sensitivity_presence"),
)
POSITION: Columns = (
    ("n", "n"),
    ("Accuracy", "accuracy"),
    ("Balanced accuracy", "balanced_accuracy"),
    ("Kappa", "kappa"),
    ("Unreadable", "unreadable"),
)
PROTOCOL: Columns = (("n", "n"), ("Dice", "dice"), ("IoU", "iou"), ("E-measure", "e_measure"))


def score_table(
    caption: str, labels: Sequence[str], blocks: Sequence[tuple[Sequence[str], Block]], columns: Columns
) -> tuple[Table, ...]:
    """One row per (labels, block); no table where there is no block."""
    rows = tuple((*map(words, names), *(score(block, name) for _, name in columns)) for names, block in blocks)
    return (Table(caption, (*labels, *(header for header, _ in columns)), rows),) if rows else ()


def scopes(scores: Block, *, counted: bool = False) -> Iterator[tuple[tuple[str, str], Block]]:
    """Every block of one system with its names: all, lesions, organs, then the same of each modality.

    Args:
        scores: the content of scores.json, or one of its baselines.
        counted: only lesions and organs that have cases.
    """
    whole = {**(scores.get("overall") or {}), "lesions": scores.get("lesions"), "organs": scores.get("organs")}
    for name, block in (("all", whole), *(scores.get("modalities") or {}).items()):
        if not counted and "n" in (block or {}):
            yield (name, "all"), block
        for part in ("lesions", "organs"):
            inner = (block or {}).get(part)
            if inner and not (counted and not inner.get("n")):
                yield (name, part), inner


def systems(content: Block) -> dict[str, Block]:
    """The evaluated model first, then the baselines, by name."""
    return {model_name(content): content, **(content.get("baselines") or {})}


def model_name(content: Block) -> str:
    """The model's name, "model" where it has none."""
    return str((content.get("model") or {}).get("name") or "model")


def beside_table(caption: str, content: Block, name: str, n_name: str) -> tuple[Table, ...]:
    """One score of every system: a row per modality and kind, a column per system, n of the model's own cases."""
    others = {system: dict(scopes(scores)) for system, scores in systems(content).items()}
    rows = []
    if name == "dice":
        macro = [score(scores.get("overall"), "macro_lesion_dice") for scores in systems(content).values()]
        rows.append((words("macro"), words("lesions"), score(content.get("lesions"), "n"), *macro))
    for place, block in scopes(content, counted=True):
        if block.get(n_name):
            cells = [score(blocks.get(place), name) for blocks in others.values()]
            rows.append((*map(words, place), score(block, n_name), *cells))
    return (Table(caption, ("Modality", "Asked for", "n", *others), tuple(rows)),) if rows else ()


def published_table(content: Block) -> tuple[Table, ...]:
    """This model beside the papers' printed numbers."""
    rows = []
    for name, block in (content.get("modalities") or {}).items():
        paper = PUBLISHED["modalities"].get(name)
        if paper:
            dice, iou = (
                Cell(number(paper[key]), note=f"page {number(paper['page_' + key])}" if f"page_{key}" in paper else "")
                for key in ("dice", "iou")
            )
            ours = (score(block, value) for value in ("n", "dice", "iou", "zone_accuracy", "zone_n"))
            theirs = (words(paper["data"]), score(paper, "n"), dice, iou, score(paper, "position_accuracy"))
            rows.append((words(name), *ours, *theirs))
    header = ("Modality", "n", "Dice", "IoU", "Zone accuracy", "Zone n")
    printed = ("Their data", "Their n", "Printed Dice", "Printed IoU", "Printed position accuracy")
    caption = "This model, and the numbers printed for PRS-Med"
    return (Table(caption, (*header, *printed), tuple(rows)),) if rows else ()


def position_tables(content: Block) -> tuple[Table, ...]:
    """Every system beside the majority and random answers, then the model by modality."""
    position = content.get("position") or {}
    overall = position.get("overall")
    if not overall:
        return ()
    rows = [(words(model_name(content)), *(score(overall, name) for _, name in POSITION))]
    majority = overall.get("majority") or {}
    unknown = Cell(number(None))
    constant = f"majority answer ({majority.get('zone', number(None))})"
    rows.append((words(constant), score(overall, "n"), score(majority, "accuracy"), *[unknown] * 3))
    rows.append((words("random answer"), score(overall, "n"), score(overall, "random_accuracy"), *[unknown] * 3))
    for name, scores in (content.get("baselines") or {}).items():
        block = (scores.get("position") or {}).get("overall")
        rows.append((words(name), *(score(block, value) for _, value in POSITION)))
    header = ("Answered by", *(title for title, _ in POSITION))
    first = Table("Zone named in the sentence, over images with exactly one finding", header, tuple(rows))
    return (first, *_position_by_modality(position))


def _position_by_modality(position: Block) -> tuple[Table, ...]:
    rows = []
    for name, block in (position.get("modalities") or {}).items():
        majority = (block or {}).get("majority") or {}
        constant = score(majority, "accuracy", note=str(majority.get("zone", "")))
        cells = (score(block, value) for _, value in POSITION)
        rows.append((words(name), *cells, constant, score(block, "random_accuracy")))
    header = ("Modality", *(title for title, _ in POSITION), "Majority answer", "Random answer")
    return (Table("The same by modality", header, tuple(rows)),) if rows else ()


def confusion_tables(position: Block) -> tuple[Table, ...]:
    """True zones as rows, zones named as columns, counts; overall and for each modality."""
    blocks = {"all": position.get("overall"), **(position.get("modalities") or {})}
    tables = []
    for name, block in blocks.items():
        confusion = (block or {}).get("confusion")
        if confusion:
            labels = confusion["labels"]
            rows = tuple(
                (words(label), *(Cell(number(count)) for count in counts))
                for label, counts in zip(labels, confusion["rows"], strict=False)
                if any(counts)
            )
            tables.append(Table(f"Confusion, {name}: true zone by zone named", ("True zone", *labels), rows))
    return tuple(tables)


def gate_table(gates: Block) -> tuple[Table, ...]:
    """One row per gate, the verdict in words and colour."""
    verdicts = {True: ("pass", "pass"), False: ("fail", "fail"), None: ("not measured", "open")}
    signs = {">=": "≥", "<=": "≤"}
    rows = []
    for name, gate in gates.items():
        text, kind = verdicts[gate.get("passed")]
        threshold = f"{signs.get(gate['comparison'], gate['comparison'])} {number(gate['threshold'])}"
        details = ", ".join(f"{key}: {value}" for key, value in flat(gate.get("details") or {}))
        meaning = Cell(gate.get("meaning") or "", note=details, kind="text")
        row = (words(name.replace("_", " ")), Cell(text, kind=kind), score(gate, "value"), Cell(threshold))
        rows.append((*row, score(gate, "n"), meaning))
    header = ("Gate", "Verdict", "Value", "Threshold", "n", "Meaning")
    return (Table("Gates: does the answer depend on the picture?", header, tuple(rows)),) if rows else ()


def protocol_table(protocol: Block) -> tuple[Table, ...]:
    """The authors' protocol, overall and by modality."""
    blocks = {"all": protocol, **(protocol.get("modalities") or {})}
    rows = [((name,), block) for name, block in blocks.items()]
    return score_table("This model by the authors' protocol", ("Modality",), rows, PROTOCOL)


def flat(record: Block, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The plain values of nested records, as (names in words, text); lists are left to scores.json."""
    for key, value in record.items():
        name = prefix + str(key).replace("_", " ")
        if isinstance(value, Mapping):
            yield from flat(value, f"{name} ")
        elif isinstance(value, float):
            yield name, number(value)
        elif value is not None and not isinstance(value, (list, tuple)):
            yield name, str(value)
