"""Reading published weights: a torch file into plain tensors, names into our modules' names, and strict loading."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import nn

from prsmed.errors import CheckpointError

Renames = tuple[tuple[str, str], ...]


def read_torch_file(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a `.pth`, `.pt` or `.bin` file; nothing in it is executed, and it is mapped, not copied.

    A dictionary that wraps the tensors under "model" or "state_dict" is unwrapped.

    Raises:
        CheckpointError: the file is missing, not a torch file of plain tensors, or holds something else beside them.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # what it refuses to run is a class of its own, in a module that is not imported here
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise CheckpointError(f"{path}: not a torch file of plain tensors ({reason}); get it again") from error
    for wrapper in ("model", "state_dict"):
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise CheckpointError(f"{path}: holds more than named tensors; export its state dict alone")
    return found


def part(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names start with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def renamed(name: str, renames: Renames) -> str:
    """`name` after every (pattern, replacement), in order."""
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def load_strictly(
    module: nn.Module,
    tensors: Mapping[str, torch.Tensor],
    *,
    source: str,
    renames: Renames = (),
    unused: Iterable[str] = (),
) -> None:
    """Copy `tensors` into `module`; every name and shape must fit both ways.

    Args:
        source: what the error calls the file.
        renames: from the file's names to the module's.
        unused: prefixes of names that the file has and the module never needs.

    Raises:
        CheckpointError: names what is missing as the module spells it, what is extra as the file does, other shapes.
    """
    ignored = tuple(unused)
    spelled = {renamed(name, renames): name for name in tensors if not (ignored and name.startswith(ignored))}
    expected = module.state_dict()
    # A batch norm's counter of past batches plays no part in evaluation, and some files leave it out.
    missing = sorted(set(expected) - set(spelled) - {name for name in expected if name.endswith("num_batches_tracked")})
    extra = sorted(spelled[name] for name in set(spelled) - set(expected))
    shapes = [
        f"{own} is {tuple(tensors[own].shape)}, expected {tuple(expected[name].shape)}"
        for name, own in spelled.items()
        if name in expected and tensors[own].shape != expected[name].shape
    ]
    if missing or extra or shapes:
        raise CheckpointError(
            f"{source} does not fit this network: missing {_some(missing)}, extra {_some(extra)},"
            f" other shape {_some(shapes)}; check that the file belongs to this model and this size"
        )
    module.load_state_dict({name: tensors[own] for name, own in spelled.items()}, strict=False)


def _some(names: list[str]) -> str:
    return (", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")) or "none"
