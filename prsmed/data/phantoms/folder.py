"""A phantom data folder: pictures, volumes, masks, manifest; whole or not there at all."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from prsmed.data.manifest import write_manifest
from prsmed.data.phantoms.pictures import make_picture
from prsmed.data.phantoms.volumes import VOLUME_MODALITIES, make_volume
from prsmed.data.writers.nifti import write_nifti
from prsmed.errors import DataError
from prsmed.types import MODALITIES, Case, MaskRef, Target

TARGET_NAMES = {
    "ct": "lung nodule",
    "mri": "brain tumour",
    "x-ray": "lung opacity",
    "ultrasound": "breast lesion",
    "endoscopy": "polyp",
    "dermoscopy": "skin lesion",
}
_SPLIT_OF = ("train", "test", "val", *["train"] * 4, "test", *["train"] * 4)
"""Split of every twelve in a row of one modality: 75 % train, 17 % test, 8 % val; phantoms have no order to leak."""


def write_phantoms(
    folder: str | Path,
    *,
    pictures: int = 1600,
    volumes: int = 24,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a data folder of phantoms: images/, masks/, volumes/, manifest.jsonl and roots.json.

    Everything is made in a hidden folder beside `folder` and renamed at the end, so `folder` is never half full.
    Picture n has modality n modulo six and stays the same whatever `pictures` is; so does its split.

    Args:
        folder: where to; must not exist or be empty.
        pictures: number of pictures, over the six modalities in turn.
        volumes: number of volumes, CT and MRI in turn.
        seed: 0 or more; the same seed gives the same bytes with the same library versions.
        progress: called after each picture or volume with (made so far, to be made).

    Returns:
        `folder`, as a path.

    Raises:
        DataError: `folder` holds files already, or cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(
            f"{folder}: holds data already, phantoms need a new or empty folder; choose another or empty it"
        )
    partial = folder.absolute().with_name(f".{folder.absolute().name}.partial-{os.getpid()}")
    try:
        for name in ("images", "masks", "volumes"):
            (partial / name).mkdir(parents=True)
        cases = []
        for index in range(pictures + volumes):
            picture = index < pictures
            cases.append(
                _write_picture(partial, seed, index) if picture else _write_volume(partial, seed, index - pictures)
            )
            if progress:
                progress(index + 1, pictures + volumes)
        write_manifest(partial, cases, {".": "."}, [])
        os.replace(partial, folder)
    except OSError as error:
        raise DataError(f"{folder}: phantoms cannot be written ({error}); choose another output folder") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _write_picture(folder: Path, seed: int, index: int) -> Case:
    modality, turn = MODALITIES[index % len(MODALITIES)], index // len(MODALITIES)
    image, lesions, lungs = make_picture(modality, seed, index)
    name = f"{modality}_{index:05d}"
    Image.fromarray(image).save(folder / f"images/{name}.png")
    Image.fromarray(lesions.astype(np.uint8) * 255).save(folder / f"masks/{name}.png")
    targets = [Target("t1", TARGET_NAMES[modality], "lesion", masks=(MaskRef("png", f"masks/{name}.png"),))]
    if lungs is not None:
        Image.fromarray(lungs.astype(np.uint8) * 255).save(folder / f"masks/{name}_lungs.png")
        targets.append(Target("t2", "lungs", "organ", masks=(MaskRef("png", f"masks/{name}_lungs.png"),)))
    return _case(folder, f"images/{name}.png", modality, f"phantom_{modality}", turn, tuple(targets), seed)


def _write_volume(folder: Path, seed: int, index: int) -> Case:
    modality, turn = VOLUME_MODALITIES[index % len(VOLUME_MODALITIES)], index // len(VOLUME_MODALITIES)
    array_ijk, mask_ijk, affine_ijk_to_ras = make_volume(modality, seed, index)
    path, mask_path = (f"volumes/{modality}_{index:05d}{suffix}.nii.gz" for suffix in ("", "_mask"))
    for file, data in ((path, array_ijk), (mask_path, mask_ijk)):
        write_nifti(folder / file, data, affine_ijk_to_ras)
    target = Target("t1", TARGET_NAMES[modality], "lesion", masks=(MaskRef("nifti", mask_path, 1),))
    return _case(folder, path, modality, f"phantom_{modality}_volume", turn, (target,), seed)


def _case(
    folder: Path, image: str, modality: str, dataset: str, turn: int, targets: tuple[Target, ...], seed: int
) -> Case:
    """One manifest row; every phantom is a patient of its own."""
    case_id = f"{dataset}/{Path(image).name.split('.')[0]}"
    return Case(
        id=case_id,
        image=image,
        modality=modality,
        group=case_id,
        split=_SPLIT_OF[turn % len(_SPLIT_OF)],
        dataset=dataset,
        targets=targets,
        source={
            "licence": "Apache-2.0",
            "made_by": f"prsmed phantoms, seed {seed}",
            "sha256": _sha256(folder, [image]),
            "masks_sha256": _sha256(folder, [mask.path for target in targets for mask in target.masks]),
        },
    )


def _sha256(folder: Path, files: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update((folder / file).read_bytes())
    return digest.hexdigest()
