"""Pack the repository as a bundle of the MONAI Model Zoo's form, and check what was packed: `make bundle`.

The zip holds one folder with configs, code, docs, licences and the committed `tiny` weights: as the safetensors that
prsmed reads, and as models/model.pt, the state dictionary of `network_def` that the specification asks for. Weights of
other presets are named in large_files.yml. The checks run on the unpacked zip, in its own folder, without a network.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Annotated

import torch
import typer

import prsmed
from bundle.engines import ImageToMask
from prsmed.predictor import Predictor
from scripts.check_bundle import METADATA_SCHEMA

REPOSITORY = Path(__file__).resolve().parents[1]
PACKED = (
    "LICENSE",
    "README.md",
    "CHANGELOG.md",
    "Makefile",
    "constraints.txt",
    "large_files.yml",
    "pyproject.toml",
    "bundle/",
    "configs/",
    "docs/",
    "models/tiny/",
    "prsmed/",
    "scripts/",
)
_LARGEST_BYTES = 25 * 1024 * 1024  # of one file in the Model Zoo
_TIME = (1980, 1, 1, 0, 0, 0)  # the same content gives the same zip


def files_to_pack() -> list[str]:
    """What git tracks, or would track, of the packed folders."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PACKED]
    names = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout.split("\0")
    return sorted(name for name in set(names) if name and (REPOSITORY / name).is_file())


def write_state(path: Path) -> None:
    """The `tiny` weights as a plain state dictionary, which torch reads with weights_only=True."""
    network = ImageToMask(Predictor.load("tiny"))
    torch.save({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)


def pack(path: Path) -> int:
    """Write the zip; returns the number of its files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = files_to_pack()
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        state = Path(folder) / "model.pt"
        write_state(state)
        entries = {name: REPOSITORY / name for name in names} | {"models/model.pt": state}
        for name, file in sorted(entries.items()):
            content = file.read_bytes()
            if len(content) > _LARGEST_BYTES:
                raise SystemExit(f"{name}: {len(content)} bytes, at most {_LARGEST_BYTES}; name it in large_files.yml")
            archive.writestr(zipfile.ZipInfo(f"prsmed/{name}", _TIME), content, zipfile.ZIP_DEFLATED)
    return len(entries)


def check(path: Path) -> None:
    """Unpack the zip elsewhere; MONAI's own commands verify its metadata and its network there."""
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
        root = Path(folder) / "prsmed"
        schema = root / "eval/schema.json"
        schema.parent.mkdir()
        schema.write_text(json.dumps(METADATA_SCHEMA))  # verify_metadata would download it
        state = torch.load(root / "models/model.pt", weights_only=True)
        ImageToMask(Predictor.load(root / "models/tiny")).load_state_dict(state)
        metadata = ["--meta_file", "configs/metadata.json"]
        for arguments in (
            ["verify_metadata", *metadata, "--filepath", "eval/schema.json"],
            ["verify_net_in_out", "network_def", *metadata, "--config_file", "configs/inference.json"],
        ):
            subprocess.run([sys.executable, "-m", "monai.bundle", *arguments], cwd=root, check=True)


def main(out: Annotated[Path, typer.Option(help="Folder of the zip.")] = Path("dist")) -> None:
    """Pack and check."""
    path = out / f"prsmed_v{prsmed.__version__}.zip"
    count = pack(path)
    check(path)
    print(f"{path}: {count} files, {path.stat().st_size / 1e6:.1f} MB, verified")


if __name__ == "__main__":
    typer.run(main)
