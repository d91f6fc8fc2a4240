"""The mixture of naming and reasoning draws, and what a draw holds."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from bundle.query_data import MixtureSampler, QueryDataset, build_query_loader
from prsmed.errors import RequestError
from prsmed.query_samples import query_items
from tests.unit.queries_set import write_query_set
from tests.unit.small_medisee import small_text

WEIGHTS = {"naming": 7, "reasoning": 3}


class _Dataset(SimpleNamespace):
    def __len__(self):
        return len(self.pictures)


def _dataset(count=10):
    return _Dataset(pictures=[SimpleNamespace(groups={"naming": (), "reasoning": ()})] * count, epoch=1)


def test_the_share_of_each_group_is_exact_in_every_epoch():
    dataset = _dataset()
    for epoch in range(1, 4):
        dataset.epoch = epoch
        draws = list(MixtureSampler(dataset, weights=WEIGHTS, draws=50))
        assert Counter(draw.group for draw in draws) == {"naming": 35, "reasoning": 15}
        # 35 draws of ten pictures: three or four of each
        times = Counter(draw.picture for draw in draws if draw.group == "naming")
        assert set(times.values()) <= {3, 4} and len(times) == 10
        assert [draw.number for draw in draws] == list(range(50))


def test_a_resumed_epoch_repeats_itself_and_the_next_one_differs():
    first, again = _dataset(), _dataset()
    first.epoch = again.epoch = 4
    sampler, resumed = (MixtureSampler(dataset, weights=WEIGHTS, seed=3) for dataset in (first, again))
    assert list(sampler) == list(resumed)
    before = list(sampler)
    first.epoch = 5
    assert list(sampler) != before


def test_processes_share_the_draws(monkeypatch):
    whole = list(MixtureSampler(_dataset(), weights=WEIGHTS, draws=9))
    parts = []
    for rank in range(2):
        monkeypatch.setattr("bundle.query_data.idist.get_world_size", lambda: 2)
        monkeypatch.setattr("bundle.query_data.idist.get_rank", lambda rank=rank: rank)
        parts.append(list(MixtureSampler(_dataset(), weights=WEIGHTS, draws=9)))
    assert [len(part) for part in parts] == [4, 4]  # as many for each, or one would wait for ever
    assert sorted(parts[0] + parts[1], key=lambda draw: draw.number) == whole[:8]


def test_a_group_without_questions_or_weight_is_left_out():
    only = _Dataset(pictures=[SimpleNamespace(groups={"naming": ()})] * 4, epoch=1)
    assert {draw.group for draw in MixtureSampler(only, weights=WEIGHTS)} == {"naming"}
    assert {draw.group for draw in MixtureSampler(_dataset(), weights={"reasoning": 1})} == {"reasoning"}
    with pytest.raises(RequestError, match="no group with a weight has a question"):
        MixtureSampler(only, weights={"reasoning": 1})
    with pytest.raises(RequestError, match="captions unknown"):
        MixtureSampler(only, weights={"captions": 1})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, preprocessing):
    manifest = write_query_set(tmp_path_factory.mktemp("queries"))
    items = query_items(manifest, "train", slices={"axis": "axial", "with_target": 1, "without_target": 0})
    return QueryDataset(items, manifest=manifest, preprocessing=preprocessing, text=small_text())


def test_a_draw_asks_about_different_targets_and_repeats(dataset):
    loader = build_query_loader(dataset, batch_size=2, text=small_text(), mixture=WEIGHTS, draws_per_epoch=10)
    dataset.set_epoch(2)
    first, again = list(loader), list(loader)
    for one, other in zip(first, again, strict=True):
        for name, value in one.items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(value, other[name], equal_nan=True)
    dataset.set_epoch(3)
    assert any(
        one["input_ids"].shape != other["input_ids"].shape or not torch.equal(one["input_ids"], other["input_ids"])
        for one, other in zip(first, loader, strict=True)
    )
    for batch in first:
        assert (batch["label"].flatten(1).amax(dim=1) == 1).all()
        assert batch["boxes_xyxy_norm"].isfinite().all()


def test_the_share_of_explained_answers(dataset, monkeypatch):
    text = small_text()
    options = {"batch_size": 2, "text": text, "mixture": WEIGHTS, "draws_per_epoch": 40}
    ends = {}
    for share in (1.0, 0.5, 0.0):
        monkeypatch.setattr(dataset, "explained_share", share)
        batches = list(build_query_loader(dataset, **options))
        ends[share] = sum(int((batch["target_ids"] == text.end_id).sum()) for batch in batches)
    assert ends[0.0] < ends[0.5] < ends[1.0]
