"""Where in the patient: the slots of a finding that its file's own geometry states, their words, and sides asked for.

Everything is relative to the middle of the scan, which is where a reader of the picture would draw the line too; a
body that lies off centre is not detected. Nothing is said that the file does not state: the slots are "unknown" then.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from prsmed.errors import RequestError
from prsmed.geometry import PatientAxes, box_center_px
from prsmed.text.naming import asking_sentence, sentences
from prsmed.types import LATERALITIES, Finding

UNKNOWN = "unknown"
MIDDLE = "middle"

# A patient lies a few per cent off the middle of the scan, and a predicted centre is off by 2 to 5 % of the picture: a
# side nearer to the line than that would be a guess.
MIDDLE_SHARE = 0.05
# Tilting a gantry or lining a stack up with the skull base turns it by some degrees, and readers still say "axial".
NEARLY_DEG = 5.0
# Beyond this another plane may be as near, so the plane gets no name. The positions stay true: they are computed from
# the patient's coordinates, not from the name.
OBLIQUE_DEG = 45.0

SIDE_NOT_STATED = "Patient side unknown: the file does not state it."
SIDE_NOT_SHOWN = "Patient side unknown: this view does not show it."
SIDE_UNANSWERABLE = "cannot be answered: the file does not state which side is which"

_HAS_SIDES = ("ct", "mri", "x-ray")

_PICTURE = (
    r"(?:image|picture|frame|scan|view|slice|photo|photograph|radiograph|screen|study|film|x-?ray|ct|mri?|ultrasound|"
    r"sonogram|mammogram)"
)
_PICTURE_SIDE = re.compile(
    r"\b(?:left|right)(?:[ -]hand)?(?: (?:side|half|part|corner|third|edge))?"
    rf" (?:of|in|on) (?:the|this) (?:(?!(?:of|in|on|with|from|at)\b)\w+ ){{0,2}}{_PICTURE}\b"
    rf"|\b{_PICTURE}'s (?:left|right)\b"
)
# Parts of which a patient has one on each side; a side of one of them is a side of the patient.
_PAIRED = (
    r"(?:lungs?|(?:upper|middle|lower|frontal|temporal|parietal|occipital) lobe|thyroid lobe|hemithorax|hilum|"
    r"costophrenic angle|hemisphere|lateral ventricle|orbit|eye|ear|maxillary sinus|parotid|kidneys?|adrenal|breast|"
    r"axilla|ovary|testis|shoulder|clavicle|scapula|humerus|arm|elbow|forearm|wrist|"
    r"hand(?! (?:side|corner|edge|half|part|third|quarter|quadrant|upper|lower|top|bottom|border|area)\b)|"
    r"ribs?|hip|femur|"
    r"thigh|knee|leg|tibia|ankle|foot)"
)
_WHOLE = r"(?:patient|body|chest|thorax|brain|head|skull|abdomen|pelvis|neck)"
_PATIENT_SIDE = re.compile(
    r"\bpatient's (?:upper |lower )?(left|right)\b"
    r"|\b(left|right)[ -]sided\b"
    rf"|\b(left|right) (?:(?:side|half|part) of (?:the |this |his |her |their )?)?{_WHOLE}\b"
    rf"|\b(left|right) (?:(?:upper|lower|main|cerebral|cerebellar) )?{_PAIRED}\b"
)
_NOT_ONE_SIDE = re.compile(
    r"\b(?:not|except|excluding|outside|other than|besides|apart from|opposite|both|bilateral)\b"
    r"|\b(?:or|and) (?:\w+ )?(?:else|elsewhere|anywhere)\b"
    # what a finding does, and what was done, to another part says nothing of where it lies
    r"|\b(?:caus|explain|leads? to|leading to|due to|because|histor|remov|resect|replac|operat)"
    r"|\b(?:left|right)(?:[ -]sided)? (?:\w+ ){0,2}(?:weak|pain|numb|paresis|paralys|symptom|hemipar)"
    r"|\b(?:weak|numb|painful) (?:left|right)\b"
    # beside a part is not in it
    r"|\b(?:in front of|behind|beside|next to|near|adjacent to|between|below|above|under|over|towards?|against|around|"
    r"after|since|before|(?:weakness|pain|numbness|paresis|paralysis|symptoms?) (?:of|in|on))"
    r" (?:the |a |his |her |their |patient's )*(?:left|right)\b"
)


def patient_slots(
    axes: PatientAxes | None, box_xyxy_px: Sequence[float], image_hw_px: tuple[int, int]
) -> dict[str, str]:
    """The slots `patient_side`, `ap`, `si` and `frame` of a finding, from the centre of its box.

    Args:
        axes: how the picture lies in the patient; None where nothing is known.
        box_xyxy_px: half-open box in pixels of the picture.
        image_hw_px: rows and columns of the picture.

    Returns:
        patient_side: "left", "right" or "middle"; the file's laterality where it shows one side only; in a sagittal
            slice the slice's own side.
        ap: "anterior", "posterior" or "middle"; unknown in a coronal slice.
        si: "superior", "inferior" or "middle"; in an axial slice its third of the volume ("upper third"), in a frontal
            picture its zone ("upper zone").
        frame: "picture" where nothing is known, else the view, with its angle where it is oblique.
        What the file does not state is "unknown".
    """
    if axes is None:
        return {"patient_side": UNKNOWN, "ap": UNKNOWN, "si": UNKNOWN, "frame": "picture"}
    (x_px, y_px), (height, width) = box_center_px(box_xyxy_px), image_hw_px
    leftness, frontness, height_share = (axes.share_towards(end, x_px / width, y_px / height) for end in "LAH")
    view = axes.view
    if view in ("frontal", "axial"):
        si = _third(height_share, "zone" if view == "frontal" else "third")
    else:
        si = _half(height_share, "inferior", "superior")
    return {
        "patient_side": axes.laterality or _half(leftness, "right", "left"),
        "ap": UNKNOWN if view == "coronal" else _half(frontness, "posterior", "anterior"),
        "si": si,
        "frame": _frame(axes),
    }


def patient_words(finding: Finding) -> str:
    """What a sentence says of a finding's place in the patient: "the patient's right, anterior"; "" where unknown."""
    side, level = finding.patient_side, finding.si
    zone = level if level.endswith("zone") else ""
    if side in LATERALITIES:
        words = [f"the patient's {side} {zone}".rstrip()]
    else:
        words = [f"the patient's {zone}"] if zone else []
        words += ["in the middle between the patient's left and right"] if side == MIDDLE else []
    words += [end for end in (finding.ap, level) if end in ("anterior", "posterior", "superior", "inferior")]
    if level.endswith("third"):
        words.append(f"in the {level} of the scanned volume")
    return ", ".join(words)


def patient_remark(findings: Sequence[Finding], *, side_expected: bool) -> str:
    """Sentences that go after one that states findings: an oblique slice, a side that cannot be said; "" for neither.

    Args:
        side_expected: say so where the patient's side is unknown (`expects_side`).
    """
    remarks = []
    if findings and findings[0].frame.startswith(("nearly", "oblique")):
        remarks.append(f"The slice is {findings[0].frame}.")
    if side_expected and any(finding.patient_side == UNKNOWN for finding in findings):
        turned = any(finding.ap != UNKNOWN or finding.si != UNKNOWN for finding in findings)
        remarks.append(SIDE_NOT_SHOWN if turned else SIDE_NOT_STATED)
    return " ".join(remarks)


def expects_side(modality: str) -> bool:
    """Whether readers of such images speak of the patient's left and right: CT, MRI and X-ray.

    An endoscope or a dermatoscope is held any way up, and the side of an ultrasound is its examiner's note.
    """
    return modality in _HAS_SIDES


def side_asked(question: str) -> str | None:
    """The one side of the patient an English question is about: "in the right lung?", "on the patient's left side?".

    Conservative: a side of the picture ("on the left of the image", "top left") is none of the patient, nor is a bare
    "on the left". Neither is the left lobe of the liver or the right atrium, which are names, not sides. A question
    about both sides, or about what is outside one, is about none. Only a sentence that asks counts: others tell a
    history.

    Returns:
        "left", "right", or None.
    """
    told = sentences(question.casefold().replace("\u2019", "'"))
    with_side = [one for one in told if one.endswith("?") and re.search(r"\b(?:left|right)\b", one)]
    text = _PICTURE_SIDE.sub(" ", with_side[-1] if with_side else asking_sentence(" ".join(told)))
    named = {side for match in _PATIENT_SIDE.finditer(text) for side in match.groups() if side}
    others = set(re.findall(r"\b(?:left|right)\b", text)) - named
    return named.pop() if len(named) == 1 and not others and not _NOT_ONE_SIDE.search(text) else None


def on_side(findings: Sequence[Finding], side: str) -> tuple[list[Finding], list[Finding]]:
    """The findings that answer a question about one side of the patient.

    Args:
        findings: of one mask.
        side: "left" or "right", as `side_asked` reads it from the question.

    Returns:
        Those on that side or in the middle, where no side can be ruled out, and those whose side is unknown: where
        there are any of these, the question cannot be answered (`SIDE_UNANSWERABLE`). The order stays.

    Raises:
        RequestError: another side.
    """
    if side not in LATERALITIES:
        raise RequestError(f"side {side!r}: unknown; choose one of {', '.join(LATERALITIES)}")
    kept = [finding for finding in findings if finding.patient_side in (side, MIDDLE)]
    return kept, [finding for finding in findings if finding.patient_side == UNKNOWN]


def _half(share: float | None, low: str, high: str) -> str:
    if share is None:
        return UNKNOWN
    if abs(share - 0.5) <= MIDDLE_SHARE:
        return MIDDLE
    return high if share > 0.5 else low


def _third(share: float | None, noun: str) -> str:
    if share is None:
        return UNKNOWN
    return f"{'lower' if share < 1 / 3 else 'upper' if share > 2 / 3 else 'middle'} {noun}"


def _frame(axes: PatientAxes) -> str:
    view = axes.view or "patient"
    if axes.oblique_deg <= NEARLY_DEG:
        return view
    turned = f"{axes.oblique_deg:.0f} degrees off the patient's axes"
    return f"oblique, {turned}" if axes.oblique_deg > OBLIQUE_DEG else f"nearly {view}, {turned}"
