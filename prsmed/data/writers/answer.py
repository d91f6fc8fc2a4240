"""An answer on disk: the record as JSON, the masks on the grid of the image, overlays to look at, DICOM on request."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from prsmed.data.writers.nifti import write_mask_like
from prsmed.data.writers.picture import contact_sheet, draw_overlay, write_mask, write_overlay, write_picture
from prsmed.errors import DataError
from prsmed.types import Answer, SourceImage

_OURS = ("mask.png", "overlay.png", "mask.nii.gz", "slices.png", "mask.dcm", "report.dcm")


def write_answer(
    folder: Path, answer: Answer, picture_HWC: np.ndarray, *, files: Mapping[str, str] | None = None
) -> None:
    """Write mask.png, overlay.png and, last of all, answer.json into `folder`.

    What an earlier answer wrote there and this one does not have is removed: nothing is to speak for another question.

    Args:
        picture_HWC: uint8 (H, W, 1 or 3), what was asked about, on the masks' grid.
        files: what else was written there, for the record.

    Raises:
        DataError: the folder cannot be written.
    """
    thing = answer.objects[0]
    record = {**answer.to_json(), "files": {"mask": "mask.png", "overlay": "overlay.png", **(files or {})}}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in _written_before(folder) - set(record["files"].values()):
            (folder / name).unlink(missing_ok=True)
        write_mask(folder / "mask.png", thing.mask)
        write_overlay(
            folder / "overlay.png",
            picture_HWC,
            mask_HW=thing.mask,
            box_xyxy_px=thing.box_xyxy_px,
            caption=[
                f"Q: {answer.question}",
                f"A: {answer.text}",
                *(f"! {item}" for item in answer.contradictions),
                *(f"note: {item}" for item in answer.warnings),
            ],
        )
        (folder / "answer.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"{folder}: the answer cannot be written ({error}); choose another output folder") from error


def forget_answer(folder: Path) -> None:
    """Remove what an earlier answer wrote into a folder.

    Raises:
        DataError: it cannot be removed.
    """
    try:
        for name in (*_written_before(folder), "answer.json"):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"{folder}: an earlier answer cannot be removed ({error}); choose another output folder"
        ) from error


def _written_before(folder: Path) -> set[str]:
    """Those of our files that an earlier answer in this folder says it wrote; a user's own files are none of them."""
    try:
        files = json.loads((folder / "answer.json").read_text(encoding="utf-8"))["files"].values()
        return {name for name in files if name in _OURS}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return set()


def write_volume(
    folder: Path, mask_ijk: np.ndarray, image: SourceImage, *, slices: Sequence[tuple[str, np.ndarray, np.ndarray]]
) -> dict[str, str]:
    """Write a volume's mask as mask.nii.gz with the header of its image, and slices.png, a sheet of overlays.

    Args:
        mask_ijk: bool, on the stored grid.
        slices: what to show: caption, picture (uint8, H W 3), mask (bool, H W).

    Returns:
        what was written, for `write_answer`.

    Raises:
        DataError: the folder cannot be written.
    """
    overlays = [draw_overlay(picture, mask_HW=mask, caption=[caption]) for caption, picture, mask in slices]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_mask_like(folder / "mask.nii.gz", mask_ijk, image)
        write_picture(folder / "slices.png", contact_sheet(overlays))
    except OSError as error:
        raise DataError(f"{folder}: the mask cannot be written ({error}); choose another output folder") from error
    return {"volume_mask": "mask.nii.gz", "slices": "slices.png"}


def write_dicom(
    folder: Path,
    answer: Answer,
    mask: np.ndarray,
    image: SourceImage,
    *,
    target: str,
    kind: str,
    side: str | None = None,
) -> dict[str, str]:
    """Write report.dcm (SR) and, unless the mask is empty, mask.dcm (SEG), both about the source series.

    Args:
        mask: bool, (I, J, K) on the stored grid of a volume, or (H, W) of a picture.
        target, kind: what was asked for.
        side: of the patient, where only one was asked about.

    Returns:
        what was written, for `write_answer`.

    Raises:
        DataError: the image is not DICOM, or the folder cannot be written.
    """
    # Slow to import, and only asked for where the images are DICOM.
    from prsmed.data.writers.dicom_seg import write_dicom_seg
    from prsmed.data.writers.dicom_sr import write_dicom_sr

    seg_path = write_dicom_seg(folder / "mask.dcm", mask, image, target=target, kind=kind, model=answer.model)
    statistics, key = answer.volume_statistics, answer.key_slice
    is_one_slice = image.is_volume and statistics is None and key is not None
    notes = [f"only the {key.axis} slice {key.index}, counted from 0, was asked about"] if is_one_slice and key else []
    notes += [statistics["summary"]] if statistics else []
    findings = answer.objects[0].findings
    if answer.modality == "x-ray":  # it is magnified, and no sentence states a size either
        findings = [replace(finding, area_mm2=None) for finding in findings]
    write_dicom_sr(
        folder / "report.dcm",
        image,
        findings=findings,
        target=target,
        kind=kind,
        sentence=answer.text,
        question=answer.question,
        contradictions=answer.contradictions,
        warnings=[*notes, *answer.warnings],
        states_absence=not (answer.objects[0].present or is_one_slice or answer.contradictions),
        side=side,
        model=answer.model,
        key_slice=answer.key_slice,
        volume_ml=statistics["volume_ml"] if statistics else None,
        seg_path=seg_path,
    )
    return {"dicom_sr": "report.dcm", **({"dicom_seg": "mask.dcm"} if seg_path else {})}
