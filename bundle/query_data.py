"""Training data of MediSee: draws of a picture with a few of its questions, mixed from two groups at a fixed ratio."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple
from zlib import crc32

import ignite.distributed as idist
import numpy as np
import torch
from monai.data import CacheDataset
from monai.transforms import Compose, Lambda
from torch.utils.data import DataLoader, Dataset, Sampler

from bundle.data import ForkingLoader
from bundle.transforms import seeded
from prsmed.data.manifest import Manifest
from prsmed.data.preprocessing import Preprocessing
from prsmed.errors import RequestError
from prsmed.query_samples import GROUPS, collate_packed, load_picture, packed_sample, pictures_of
from prsmed.samples import Item
from prsmed.text.encode import TextEncoder


class Draw(NamedTuple):
    """A picture's number, the group its questions are taken from, and the number of the draw in its epoch."""

    picture: int
    group: str
    number: int


class QueryDataset(Dataset):
    """Pictures with their questions; a `Draw` is one packed sample, which depends on (seed, epoch, draw) alone.

    Args:
        data: items of own questions.
        manifest, preprocessing, text: see `prsmed.query_samples`.
        queries_per_picture: questions of one draw, about different targets as far as there are any.
        explained_share: of the questions about what is there: their answers' words are learned, too. The others end
            behind the candidates, so that a step has room for more questions.
        plain_queries: add the teachers of the similarity loss.
        augmentation, views, cache_rate: as of `bundle.data.AskDataset`. Pictures are never mirrored.
    """

    def __init__(
        self,
        data: Sequence[Item],
        *,
        manifest: Manifest,
        preprocessing: Preprocessing,
        text: TextEncoder,
        queries_per_picture: int = 3,
        explained_share: float = 1.0,
        plain_queries: bool = False,
        augmentation: Compose | None = None,
        views: int | None = None,
        seed: int = 0,
        cache_rate: float = 1.0,
    ):
        self.pictures = pictures_of(data)
        load = Lambda(partial(load_picture, manifest, preprocessing=preprocessing))
        self.loaded = CacheDataset(
            self.pictures, load, cache_rate=cache_rate, num_workers=1, progress=False, copy_cache=False
        )
        self.text, self.queries_per_picture, self.plain_queries = text, queries_per_picture, plain_queries
        self.explained_share = explained_share
        self.augmentation, self.views, self.seed, self.epoch = augmentation, views, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Fresh, but repeatable, randomness for an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, self.epoch, draw.number])
        if self.views is not None:
            sample = self.look(draw.picture, int(rng.integers(self.views)))
        elif self.augmentation is not None:
            sample = seeded(self.augmentation, seed=int(rng.integers(2**32)))(self.loaded[draw.picture])
        else:
            sample = self.loaded[draw.picture]
        chosen = _about_different_targets(self.pictures[draw.picture].groups[draw.group], self.queries_per_picture, rng)
        explained = (rng.random(len(chosen)) < self.explained_share).tolist()
        return packed_sample(sample, chosen, text=self.text, plain_queries=self.plain_queries, explained=explained)

    def look(self, index: int, view: int) -> dict[str, Any]:
        """One of a picture's fixed looks; look 0 is unchanged."""
        sample = self.loaded[index]
        if view == 0 or self.augmentation is None:
            return sample
        picture = crc32(self.pictures[index].items[0].picture.encode())
        seed = int(np.random.default_rng([self.seed, view, picture]).integers(2**32))
        return seeded(self.augmentation, seed=seed)(sample)


def _about_different_targets(items: Sequence[Item], count: int, rng: np.random.Generator) -> list[Item]:
    """Up to `count` items at random, one a target; of what is not there, as many as come."""
    chosen: dict[str, Item] = {}
    for index in rng.permutation(len(items)):
        item = items[int(index)]
        chosen.setdefault(item.target.id or item.key, item)
    return list(chosen.values())[:count]


class MixtureSampler(Sampler):
    """The draws of an epoch: each group has its exact share, each of its pictures is drawn about equally often.

    The order depends on (seed, epoch) alone, so a resumed run repeats it; each process takes its part.

    Args:
        dataset: whose pictures are drawn, and whose `epoch` counts.
        weights: of the groups; (7, 3) in the paper for naming and reasoning. A group without questions is left out.
        draws: of an epoch, over all processes; None: one a picture.

    Raises:
        RequestError: an unknown group, or nothing to draw.
    """

    def __init__(
        self, dataset: QueryDataset, *, weights: Mapping[str, float], draws: int | None = None, seed: int = 0
    ) -> None:
        if unknown := sorted(set(weights) - set(GROUPS)):
            raise RequestError(f"mixture: {', '.join(unknown)} unknown; the groups are {', '.join(GROUPS)}")
        members = {
            name: [index for index, picture in enumerate(dataset.pictures) if name in picture.groups] for name in GROUPS
        }
        self.members = {name: found for name, found in members.items() if found and weights.get(name, 0) > 0}
        if not self.members:
            raise RequestError("mixture: no group with a weight has a question; check weights and manifest.jsonl")
        self.weights = [float(weights[name]) for name in self.members]
        self.dataset, self.seed = dataset, seed
        self.draws = draws or len(dataset)

    def __len__(self) -> int:
        return self.draws // idist.get_world_size()

    def __iter__(self) -> Iterator[Draw]:
        rng = np.random.default_rng([self.seed, self.dataset.epoch])
        ends = np.round(np.cumsum(self.weights) / sum(self.weights) * self.draws).astype(int)
        drawn: list[tuple[int, str]] = []
        for (name, members), count in zip(self.members.items(), np.diff(ends, prepend=0), strict=True):
            passes = -(-int(count) // len(members))
            order = np.concatenate([rng.permutation(members) for _ in range(passes)] or [np.empty(0, dtype=int)])
            drawn += [(int(index), name) for index in order[:count]]
        mixed = [Draw(*drawn[index], number) for number, index in enumerate(rng.permutation(self.draws))]
        rank, processes = idist.get_rank(), idist.get_world_size()
        return iter(mixed[rank : len(self) * processes : processes])


def build_query_loader(
    dataset: QueryDataset,
    *,
    batch_size: int,
    text: TextEncoder,
    mixture: Mapping[str, float],
    draws_per_epoch: int | None = None,
    seed: int = 0,
    num_workers: int = 0,
) -> DataLoader:
    """Batches of packed samples for this process."""
    return ForkingLoader(
        dataset,
        batch_size=batch_size,
        sampler=MixtureSampler(dataset, weights=mixture, draws=draws_per_epoch, seed=seed),
        num_workers=num_workers,
        collate_fn=partial(collate_packed, text=text),
        drop_last=False,
        pin_memory=torch.cuda.is_available(),
        # Its own generator: drawing worker seeds must not touch the random state that resume restores.
        generator=torch.Generator().manual_seed(seed),
    )
