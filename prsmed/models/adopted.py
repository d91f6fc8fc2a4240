"""Bases that a user brings: published weights that this project cannot fetch, and any base by its name.

They are put into the cache by `scripts/convert_llava.py` and `scripts/adopt_sam.py`, with the hashes of what came in;
a checkpoint trained on one belongs to those hashes.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from prsmed.errors import CheckpointError
from prsmed.models.bases import BASE_FILE, base_folder, base_identity, base_named, cache_folder
from prsmed.models.checkpoints import sha256_of
from prsmed.models.encoders import LiteMedSAMEncoder, MedSAMEncoder, SamViTEncoder, SegmentationEncoder, TinyViTEncoder
from prsmed.models.pretrained import read_torch_file
from prsmed.models.sam import SamPrompting


@dataclass(frozen=True)
class Adopted:
    """A base that a user brings.

    Attributes:
        title, licence: as its publishers state them.
        file: the published file of a SAM; "" for a folder in Hugging Face's layout.
    """

    title: str
    licence: str
    file: str = ""

    def remedy(self, name: str) -> str:
        """What puts it into the cache."""
        if self.file:
            return f"download {self.file} and run `python -m scripts.adopt_sam {name} {self.file}`"
        return f"download the checkpoint and run `python -m scripts.convert_llava FOLDER {name}`"


ADOPTED = {
    "llava_med_7b": Adopted("LLaVA-Med v1.5 Mistral-7B", "Apache-2.0"),
    "llava_1_5_7b": Adopted("LLaVA-1.5 7B", "Llama 2 Community License"),
    "llava_1_6_mistral_7b": Adopted("LLaVA-1.6 Mistral-7B", "Apache-2.0"),
    "tinysam": Adopted("TinySAM", "Apache-2.0", "tinysam_42.3.pth"),
    "mobile_sam": Adopted("MobileSAM", "Apache-2.0", "mobile_sam.pt"),
    "medsam": Adopted("MedSAM ViT-B", "Apache-2.0", "medsam_vit_b.pth"),
    "sam_vit_b": Adopted("SAM ViT-B", "Apache-2.0", "sam_vit_b_01ec64.pth"),
}

ENCODERS: dict[str, type[SegmentationEncoder]] = {
    "lite_medsam": LiteMedSAMEncoder,
    "tinysam": TinyViTEncoder,
    "mobile_sam": TinyViTEncoder,
    "medsam": MedSAMEncoder,
    "sam_vit_b": SamViTEncoder,
}
"""The image encoder of each base in segment-anything's layout."""


def any_base_folder(name: str) -> Path:
    """The checked folder of a fetched or an adopted base.

    Raises:
        CheckpointError: it is not there or is damaged; says what to run.
    """
    return _adopted_folder(name, cache_folder()) if name in ADOPTED else base_folder(name)


def any_base_file(name: str) -> Path:
    """The published file of a base in segment-anything's layout; errors as of `any_base_folder`."""
    return any_base_folder(name) / (ADOPTED[name] if name in ADOPTED else base_named(name)).file


def any_base_identity(name: str) -> dict[str, str]:
    """What a checkpoint records of its base: name, sha256 of what was published, licence."""
    if name not in ADOPTED:
        return base_identity(name)
    record = json.loads((any_base_folder(name) / BASE_FILE).read_text(encoding="utf-8"))
    return {"name": name, "sha256": record["source"]["sha256"], "licence": ADOPTED[name].licence}


def adopt_sam(name: str, file: Path, folder: Path | None = None) -> Path:
    """Check a segment-anything file of a known kind, tensor by tensor, and copy it into the cache.

    Raises:
        CheckpointError: no base of this kind has this name, or a tensor is missing, extra or of another shape.
    """
    if name not in ADOPTED or name not in ENCODERS:
        known = ", ".join(base for base in ADOPTED if base in ENCODERS)
        raise CheckpointError(f"no SAM is called {name!r}; choose one of {known}")
    tensors = read_torch_file(file)
    encoder, prompting = ENCODERS[name](size_px=1024), SamPrompting(frame_px=1024)
    encoder.load_segment_anything(tensors, source=str(file))
    prompting.load_segment_anything(tensors, source=str(file))
    out = folder or cache_folder() / "bases" / name
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    copied = part / ADOPTED[name].file
    shutil.copyfile(file, copied)
    digest = sha256_of(copied)
    record = {"source": {"sha256": digest, "file": file.name}, "files": {copied.name: digest}}
    (part / BASE_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    part.rename(out)
    return out


@cache  # fifteen gigabytes are hashed once a process, not at every question where they lie
def _adopted_folder(name: str, parent: Path) -> Path:
    base, folder = ADOPTED[name], parent / "bases" / name
    try:
        files = json.loads((folder / BASE_FILE).read_text(encoding="utf-8"))["files"]
    except OSError:
        raise CheckpointError(f"{base.title}: not in {folder.parent}; {base.remedy(name)}") from None
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{folder / BASE_FILE}: cannot be read ({error!r}); {base.remedy(name)}") from error
    for file, digest in files.items():
        path = folder / Path(file).name
        if not path.is_file() or sha256_of(path) != digest:
            raise CheckpointError(f"{path}: missing or damaged; {base.remedy(name)}")
    return folder
