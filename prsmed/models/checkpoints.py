"""Model folders: `model.json` names the weights (safetensors, sha256), the tokenizer and all that inference needs.

A folder is written so that a kill at any moment leaves the previous model or the new one: new files get names of
their own, and replacing `model.json` is the one step that makes them count.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from prsmed.data.writers.atomic import write_atomically
from prsmed.errors import CheckpointError

INFO_FILE = "model.json"
_SOURCE_ROOT = Path(__file__).resolve().parents[2]
_SEARCHED = (_SOURCE_ROOT / "models", Path(__file__).resolve().parents[1] / "weights")


class BaseWeights:
    """Published weights that a network stands on; a checkpoint holds what was trained, and says on which base.

    Attributes:
        identities: name, sha256 and licence of each base file.
        names: tensors of the network that come from them.
        trained: those of them that were changed since, and belong into the checkpoint.
    """

    def __init__(self, identities: Sequence[Mapping[str, Any]], names: Iterable[str]):
        self.identities = [dict(identity) for identity in identities]
        self.names = frozenset(names)
        self.trained: set[str] = set()


def set_base(network: nn.Module, identities: Sequence[Mapping[str, Any]], names: Iterable[str]) -> None:
    """Declare and freeze the tensors of a network that come from published weights."""
    base = BaseWeights(identities, names)
    network.base = base  # type: ignore[assignment]
    for name, parameter in network.named_parameters():
        if name in base.names:
            parameter.requires_grad_(False)


def base_of(network: nn.Module) -> BaseWeights:
    """What a network stands on; an empty base where all of it was trained here."""
    return getattr(network, "base", None) or BaseWeights((), ())


def model_folder(name: str | Path) -> Path:
    """A model folder by path, or by the name of one that comes with the project.

    Raises:
        CheckpointError: where neither exists; names what was looked for.
    """
    if Path(name).is_dir():
        return Path(name)
    for parent in _SEARCHED:
        if os.sep not in str(name) and (parent / name).is_dir():
            return parent / name
    shipped = sorted(path.parent.name for parent in _SEARCHED for path in parent.glob(f"*/{INFO_FILE}"))
    known = ", ".join(shipped) or "the shipped models (none here)"
    raise CheckpointError(
        f"no model {str(name)!r}: it is neither a folder nor one of {known};"
        " give the folder that training wrote, such as runs/NAME/best"
    )


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def save_model(
    folder: Path,
    model: nn.Module,
    info: dict[str, Any],
    *,
    tokenizer_file: Path,
    training_state: dict[str, Any] | None = None,
    half: bool = False,
) -> None:
    """Write weights, tokenizer and `info` as a model folder, in one atomic step.

    Weights of the network's base that were not trained are left out.

    Args:
        info: task, preset, preprocessing and so on; `base`, `weights`, `tokenizer` and `training_state` are added here.
        training_state: tensors and plain numbers needed for exact resume.
        half: store floating point weights as float16.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = _tensors_to_keep(model, half=half)
    entry = {**info, "base": base_of(model).identities or None}
    entry["weights"] = _add(folder, "model", ".safetensors", lambda path: save_file(tensors, path))
    entry["tokenizer"] = _add(folder, "tokenizer", ".json", lambda path: shutil.copyfile(tokenizer_file, path))
    if training_state is not None:
        entry["training_state"] = _add(folder, "training_state", ".pt", lambda path: torch.save(training_state, path))
    write_atomically(folder / INFO_FILE, json.dumps(entry, indent=2, ensure_ascii=False) + "\n")
    keep = {INFO_FILE} | {entry[key]["file"] for key in ("weights", "tokenizer", "training_state") if key in entry}
    ours = ("model-", "tokenizer-", "training_state-", f".{INFO_FILE}.")
    for path in folder.iterdir():
        if path.name not in keep and path.name.startswith(ours):
            path.unlink()


def read_info(folder: Path) -> dict[str, Any]:
    """`model.json` of a model folder."""
    try:
        info = json.loads((folder / INFO_FILE).read_text(encoding="utf-8"))
        for key in ("task", "preset"):
            info[key]
        for key in ("weights", "tokenizer"):
            info[key]["file"], info[key]["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder / INFO_FILE}: cannot be read as a model description ({error!r}); use a folder that training wrote"
        ) from error
    return info


def load_weights(folder: Path, model: nn.Module) -> None:
    """Load a model folder's weights into `model`, checked by hash and by every name and shape.

    Raises:
        CheckpointError: a file is missing, its hash differs, a tensor is missing, extra or of another shape, or the
            weights were trained on another base.
    """
    path = verified_file(folder, "weights")
    base = base_of(model)
    _check_base(path, read_info(folder).get("base") or [], base)
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: not a readable safetensors file ({error}); restore it or train again"
        ) from error
    expected = model.state_dict()
    kept = set(_tensors_once(model))
    missing, extra = sorted(kept - set(tensors) - base.names), sorted(set(tensors) - set(expected))
    shapes = [name for name in tensors if name in expected and tensors[name].shape != expected[name].shape]
    if missing or extra or shapes:
        raise CheckpointError(
            f"{path} does not fit this network: missing {missing[:3]}, extra {extra[:3]}, other shape {shapes[:3]};"
            " its model.json names the preset it was trained with"
        )
    model.load_state_dict(tensors, strict=False)
    base.trained |= base.names & set(tensors)


def _check_base(path: Path, stated: Sequence[Mapping[str, Any]], base: BaseWeights) -> None:
    trained_on = {identity["name"]: identity["sha256"] for identity in stated}
    here = {identity["name"]: identity["sha256"] for identity in base.identities}
    if trained_on != here:
        raise CheckpointError(
            f"{path}: trained on the base {trained_on or 'none'}, but here the base is {here or 'none'};"
            " adapters work on their own base only: fetch that one with `prsmed weights fetch`"
        )


def load_training_state(folder: Path) -> dict[str, Any]:
    """What `save_model` stored for resuming; plain data only, nothing in the file is executed."""
    return torch.load(verified_file(folder, "training_state"), weights_only=True)


def verified_file(folder: Path, key: str) -> Path:
    """The file that `model.json` names under `key`, its hash checked."""
    info = read_info(folder)
    if key not in info:
        raise CheckpointError(f"{folder / INFO_FILE}: has no {key}; it cannot be used for this")
    path = folder / Path(info[key]["file"]).name
    if not path.is_file():
        raise CheckpointError(f"{path}: missing, though {INFO_FILE} names it; restore the file or train again")
    if sha256_of(path) != info[key]["sha256"]:
        raise CheckpointError(f"{path}: sha256 differs from {INFO_FILE}; the file is damaged or was exchanged")
    return path


def _add(folder: Path, stem: str, suffix: str, write: Callable[[Path], Any]) -> dict[str, str]:
    handle, name = tempfile.mkstemp(prefix=f"{stem}-", suffix=f"{suffix}.part", dir=folder)
    os.close(handle)
    part = Path(name)
    write(part)
    _flush_to_disk(part)
    digest = sha256_of(part)
    path = folder / f"{stem}-{digest[:12]}{suffix}"
    part.chmod(0o644)
    os.replace(part, path)
    return {"file": path.name, "sha256": digest}


def _flush_to_disk(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _tensors_to_keep(model: nn.Module, *, half: bool) -> dict[str, torch.Tensor]:
    base = base_of(model)
    learning = {name.rpartition(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    base.trained |= {name for name in base.names if name.rpartition(".")[0] in learning}
    left_out = base.names - base.trained
    return {name: tensor for name, tensor in _tensors_once(model, half=half).items() if name not in left_out}


def _tensors_once(model: nn.Module, *, half: bool = False) -> dict[str, torch.Tensor]:
    """The state dict without second names of shared tensors (tied embeddings)."""
    seen: set[int] = set()
    tensors = {}
    for name, tensor in model.state_dict().items():
        if tensor.numel() and tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())
        stored = tensor.detach().cpu().contiguous()
        tensors[name] = stored.half() if half and stored.is_floating_point() else stored
    return tensors
