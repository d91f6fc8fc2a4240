"""`torch.compile` in training, for the parts whose shapes vary little (docs/training.md)."""

from __future__ import annotations

import os
import shutil
import sys

import ignite.distributed as idist
from torch import nn

from prsmed.errors import RequestError


def compile_parts(network: nn.Module, *, enabled: bool, encoder: bool = True) -> None:
    """Compile the layers of the language model and the encoder in place, at their first step; `enabled` False: nothing.

    Parameters keep their names. `AskInferer` answers without what was compiled.

    Args:
        network: `PRSMed` or `MediSee`.
        encoder: False where its maps come from a cache, so that at most its last stage runs in a step.

    Raises:
        RequestError: no C++ compiler, several processes, or a network without these parts.
    """
    if not enabled:
        return
    if idist.get_world_size() > 1:
        raise RequestError("compile: is for one process; set it to false, or start without torchrun")
    if not hasattr(network, "language") or not hasattr(network, "encoder"):
        raise RequestError(f"compile: {type(network).__name__} has no language model to compile; set it to false")
    _find_compiler()
    for layer in network.language.model.model.layers:  # type: ignore[union-attr]
        layer.compile()  # all layers share one compiled form
    if encoder:
        network.encoder.compile()  # type: ignore[operator]


def _find_compiler() -> None:
    """Look where torch's inductor looks; its own error comes late, at the first step, and inside another one."""
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    command = os.environ.get("CXX", usual)
    if shutil.which(command) is None:
        raise RequestError(
            f"compile: no C++ compiler ({command}); install one, name it in CXX, or set compile to false"
        )
