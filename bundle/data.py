"""From a data folder to batches: manifest (or phantoms), items, a seeded dataset, loaders."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import ignite.distributed as idist
import numpy as np
import torch
from monai.data import CacheDataset, DistributedSampler
from monai.transforms import Compose, Lambda
from rich.progress import Progress, TaskID
from torch.utils.data import DataLoader, Dataset

from bundle.transforms import seeded
from prsmed.data.empty import EMPTY_PICTURES
from prsmed.data.manifest import MANIFEST_FILE, Manifest, read_manifest
from prsmed.data.phantoms import write_phantoms
from prsmed.data.preprocessing import Preprocessing
from prsmed.errors import RequestError
from prsmed.models.allocation import return_freed_memory
from prsmed.samples import (
    Item,
    add_text,
    ask_for_another,
    collate,
    foreign_targets,
    load_item,
    show_nothing,
    through_window,
)
from prsmed.text.encode import TextEncoder
from prsmed.text.templates import TemplateBank
from prsmed.types import MODALITIES, SLICE_AXES, SliceRef

logger = logging.getLogger(__name__)


def open_dataset(dataset_dir: str, *, phantoms_dir: str, phantoms: Mapping[str, int]) -> Manifest:
    """The manifest of `dataset_dir`; where that is `phantoms_dir` and nothing is there yet, phantoms are made first.

    Args:
        phantoms: `pictures`, `volumes` and `seed` of `write_phantoms`.

    Raises:
        DataError: another folder without a manifest: a typing error must not end in training on phantoms.
    """
    folder = Path(dataset_dir)
    if folder.resolve() == Path(phantoms_dir).resolve() and not (folder / MANIFEST_FILE).exists():
        if idist.get_rank() == 0:
            with Progress() as bar:
                task = bar.add_task(f"making phantoms in {folder}", total=None)
                write_phantoms(folder, **phantoms, progress=partial(_advance, bar, task))
        idist.barrier()
    manifest = read_manifest(folder)
    if manifest.refusals and idist.get_rank() == 0:
        first = manifest.refusals[0]
        logger.warning(
            "%s: %d rows refused, first: %s (%s)", folder, len(manifest.refusals), first.reason, first.remedy
        )
    return manifest


def _advance(bar: Progress, task: TaskID, done: int, total: int) -> None:
    bar.update(task, completed=done, total=total)


class AskDataset(Dataset):
    """Items of one split as samples; what is random in a sample depends on (seed, epoch, position) alone.

    Args:
        data: the items.
        manifest, preprocessing, text, bank, zone_rule: see `prsmed.samples`.
        split: which templates may be used.
        answers: whether the answer is part of the sequence (training) or not (asking).
        augmentation: dictionary transforms on `image` and `label`, or None.
        views: None: every epoch sees a picture augmented anew. A number: it sees one of this many fixed looks, the
            unchanged picture first, so that features of a frozen encoder can be kept (`bundle.features`).
        cache_rate: share of canonical images kept in memory.
        foreign_share: how many questions ask for a lesion that such a picture cannot show, and are answered with no.
        empty_share: how many questions are put about a picture that shows nothing at all, and are answered with no.
        windows: `share` of the samples that show a window of the picture only, and its `min_side` (`prsmed.windows`);
            None: none. The network cuts it from the encoder's maps.
    """

    def __init__(
        self,
        data: Sequence[Item],
        *,
        manifest: Manifest,
        preprocessing: Preprocessing,
        text: TextEncoder,
        bank: TemplateBank,
        zone_rule: str,
        split: str,
        answers: bool,
        augmentation: Compose | None = None,
        views: int | None = None,
        seed: int = 0,
        cache_rate: float = 1.0,
        foreign_share: float = 0.0,
        empty_share: float = 0.0,
        windows: Mapping[str, float] | None = None,
    ):
        self.data = list(data)
        self.foreign_share, self.empty_share, self.windows = foreign_share, empty_share, windows
        self.foreign = {modality: foreign_targets(self.data, modality) for modality in MODALITIES}
        load = Lambda(partial(load_item, manifest, preprocessing=preprocessing))
        self.loaded = CacheDataset(
            self.data, load, cache_rate=cache_rate, num_workers=1, progress=False, copy_cache=False
        )
        self.augmentation = augmentation
        self.views = views
        self.add_text = partial(add_text, bank=bank, text=text, split=split, answers=answers, zone_rule=zone_rule)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Fresh, but repeatable, randomness for an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, self.epoch, index])
        sample = {**self.loaded[index], "index": index}
        if self.views is not None:
            sample = self.look(index, (self.epoch + index) % self.views)
        elif self.augmentation is not None:
            sample = seeded(self.augmentation, seed=int(rng.integers(2**32)))(sample)
        if self.empty_share and rng.random() < self.empty_share:
            sample = show_nothing(sample, int(rng.integers(EMPTY_PICTURES)))
        elif self.windows:
            sample = through_window(sample, rng, **self.windows, mirror=not sample["laterality"])
        if self.foreign_share and rng.random() < self.foreign_share:
            sample = self._ask_for_another(sample, rng)
        return self.add_text(sample, rng=rng)

    def _ask_for_another(self, sample: Mapping[str, Any], rng: np.random.Generator) -> Mapping[str, Any]:
        """Half of these questions also call the picture what it is not."""
        foreign = self.foreign[sample["modality"]]
        if not foreign:
            return sample
        modality, target = foreign[int(rng.integers(len(foreign)))]
        return ask_for_another(sample, target=target, modality=modality if rng.random() < 0.5 else sample["modality"])

    def look(self, index: int, view: int) -> dict[str, Any]:
        """One of an item's fixed looks, without words; look 0 is unchanged. Targets of one picture share its looks."""
        sample = {**self.loaded[index], "index": index}
        if view == 0 or self.augmentation is None:
            return sample
        item = self.data[index]
        picture = crc32(f"{item.case.id}@{item.slice}".encode())
        seed = int(np.random.default_rng([self.seed, view, picture]).integers(2**32))
        return seeded(self.augmentation, seed=seed)(sample)


class ForkingLoader(DataLoader):
    """Returns freed memory before its workers are forked.

    A page that was freed, but kept, is copied as soon as one side uses it again: a worker would soon hold gigabytes.
    """

    def __iter__(self) -> Any:
        if self.num_workers:
            return_freed_memory()
        return super().__iter__()


def build_loader(
    dataset: Dataset, *, batch_size: int, pad_id: int, shuffle: bool, seed: int = 0, num_workers: int = 0
) -> DataLoader:
    """Batches for this process; with several processes each sees its share (training shares are made even)."""
    rank, processes = idist.get_rank(), idist.get_world_size()
    sampler: Any = (
        DistributedSampler(dataset, even_divisible=True, num_replicas=processes, rank=rank, shuffle=True, seed=seed)
        if shuffle
        else range(len(dataset))[rank::processes]  # may be empty: an evaluation goes on where nothing is missing
    )
    return ForkingLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=partial(collate, pad_id=pad_id),
        pin_memory=torch.cuda.is_available(),
        # Its own generator: drawing worker seeds must not touch the random state that resume restores.
        generator=torch.Generator().manual_seed(seed),
    )


def read_requests(request_file: str | Path, image_dir: str | Path) -> list[dict[str, Any]]:
    """Questions from a file, because a question must never travel as a config string (MONAI rewrites `#`, runs `$`).

    The file is JSON: a list of `{"image": ..., "question": ..., "modality": ...}`, or JSON Lines of the same.
    Image paths are relative to `image_dir`. `slice` may be `{"axis": "axial", "index": 12}`.

    A bad entry is answered with its error, so that it does not stop the others; see `checked_request`.

    Raises:
        RequestError: the file cannot be read, or holds nothing.
    """
    path = Path(request_file)
    try:
        content = path.read_text(encoding="utf-8")
        entries = (
            json.loads(content)
            if content.lstrip().startswith("[")
            else [json.loads(line) for line in content.splitlines() if line.strip()]
        )
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: cannot be read as a list of requests ({error}); see docs/asking.md") from error
    if not entries:
        raise RequestError(f"{path}: holds no request; see docs/asking.md")
    return [{"request": entry, "image_dir": Path(image_dir)} for entry in entries]


def checked_request(entry: Any) -> dict[str, Any]:
    """`image`, `question`, `modality`, `series`, `frame` and `position` (a `SliceRef`) of an entry; None where missing.

    Raises:
        RequestError: the entry is not a request.
    """
    expected = (
        "expected texts `image` and `question`, and optionally the texts `modality`, `series`, a `slice`, a `frame`"
    )
    if not isinstance(entry, Mapping) or not all(isinstance(entry.get(key), str) for key in ("image", "question")):
        raise RequestError(f"got {entry!r}; {expected}")
    place, frame = entry.get("slice"), entry.get("frame")
    if frame is not None and type(frame) is not int:
        raise RequestError(f"{entry['image']}: got frame {frame!r}; expected a number, counted from 1")
    if place is None:
        position = None
    elif isinstance(place, Mapping) and place.get("axis") in SLICE_AXES and isinstance(place.get("index"), int):
        position = SliceRef(place["axis"], place["index"])
    else:
        raise RequestError(
            f'{entry["image"]}: got slice {place!r}; expected {{"axis": "axial", "index": 12}},'
            f" with an axis of {', '.join(SLICE_AXES)}"
        )
    texts = {key: entry.get(key) for key in ("image", "question", "modality", "series")}
    return {**texts, "frame": frame, "position": position}
