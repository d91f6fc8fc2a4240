"""What several commands share: options and progress bars."""

from __future__ import annotations

from collections.abc import Callable

from rich.progress import Progress

from prsmed.errors import RequestError

DATASET_DIR = ("--dataset-dir", "--dataset_dir")  # the second as the bundle's own command spells it
DATASET_HELP = "A folder with manifest.jsonl, made by `prsmed data build`."

MODEL_HELP = "tiny, small or medisee (shipped), or a folder that training wrote (runs/NAME/best)."
MODE_HELP = (
    "Of MediSee: free (it may answer that the thing is not there) or forced (it always points, as in the paper)."
)


def advance(bar: Progress, description: str) -> Callable[[int, int], None]:
    """What moves a new task of a progress bar; it is shown from the first step on."""
    task = bar.add_task(description, total=None, visible=False)
    return lambda done, total: bar.update(task, completed=done, total=total, visible=True)


def usable_device(name: str) -> str:
    """The name of a device on which torch can make a tensor; RequestError says why not."""
    import torch

    try:
        torch.empty(0, device=name)
    except (AssertionError, RuntimeError) as error:  # torch without CUDA answers by an assertion
        reason = str(error).partition("\n")[0]
        raise RequestError(f"--device {name!r}: cannot be used here ({reason}); use cpu") from error
    return name
