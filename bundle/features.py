"""Encoding every picture once, before training with a frozen encoder starts."""

from __future__ import annotations

from collections.abc import Sequence

import ignite.distributed as idist
import torch
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from torch import nn

from bundle.data import AskDataset
from bundle.engines import bare
from prsmed.errors import RequestError
from prsmed.models.feature_cache import keep_maps


@torch.no_grad()
def encode_all(network: nn.Module, datasets: Sequence[AskDataset], *, folder: str | None, device: torch.device) -> None:
    """Freeze the encoder, keep its maps in `folder`, and encode every look of every picture that is not there yet.

    Each process encodes its share. A kill loses the picture at hand only: what was encoded is on disk.

    Args:
        datasets: what will be looked at.
        folder: of the `FeatureCache`; None: nothing is kept, the encoder runs at every step.

    Raises:
        RequestError: pictures are augmented anew in every epoch, so their maps would never be seen again.
    """
    if folder is None:
        return
    if any(dataset.augmentation is not None and dataset.views is None for dataset in datasets):
        raise RequestError("feature_cache keeps fixed looks only; set `views` to the number of looks per picture")
    encoder = bare(network).encoder
    keep_maps(encoder, folder)
    looks = [
        (dataset, index, view)
        for dataset in datasets
        for view in range(dataset.views or 1)
        for index in range(len(dataset))
    ]
    share = looks[idist.get_rank() :: idist.get_world_size()]
    columns = (SpinnerColumn(), TextColumn("encoding pictures"), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=idist.get_rank() > 0) as bar:
        for dataset, index, view in bar.track(share):
            sample = dataset.look(index, view)
            frame_BCHW = encoder.preprocess(sample["image"][None].to(device), [sample["geometry"].canonical_hw_px])
            encoder.cache.maps(encoder, frame_BCHW)
    idist.barrier()
