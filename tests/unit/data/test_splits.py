"""Splits: whole groups on one side, shares kept, given splits untouched, order without effect."""

from collections import Counter

import pytest

from prsmed.data.splits import assign_splits
from prsmed.errors import RequestError
from prsmed.types import SPLITS, Case


def _cases(dataset, modality, groups, rows_per_group, splits=None):
    return [
        Case(
            id=f"{dataset}/{group}/{row}",
            image="a.png",
            modality=modality,
            group=f"{dataset}/{group}",
            dataset=dataset,
            split=(splits or {}).get((group, row)),
        )
        for group in range(groups)
        for row in range(rows_per_group)
    ]


def _sides(cases):
    sides = {}
    for case in cases:
        sides.setdefault(case.group, set()).add(case.split)
    return sides


def test_groups_stay_whole_and_every_stratum_gets_its_shares():
    cases = _cases("one", "ct", 50, 2) + _cases("two", "mri", 20, 5)
    result = assign_splits(cases)
    assert [case.id for case in result] == [case.id for case in cases]
    assert all(len(sides) == 1 for sides in _sides(result).values())
    for dataset, total, group in (("one", 100, 2), ("two", 100, 5)):
        counts = Counter(case.split for case in result if case.dataset == dataset)
        for split, share in zip(SPLITS, (0.7, 0.1, 0.2), strict=True):
            assert abs(counts[split] - share * total) <= group


def test_order_does_not_matter_and_the_seed_does():
    cases = _cases("one", "ct", 40, 1)
    forward = {case.id: case.split for case in assign_splits(cases)}
    assert {case.id: case.split for case in assign_splits(cases[::-1])} == forward
    assert {case.id: case.split for case in assign_splits(cases, seed=1)} != forward


@pytest.mark.parametrize("rows_per_group", [1, 7])
def test_three_groups_of_a_modality_reach_three_splits(rows_per_group):
    result = assign_splits(_cases("big", "ct", 30, 1) + _cases("small", "mri", 3, rows_per_group))
    assert {case.split for case in result if case.modality == "mri"} == set(SPLITS)


def test_many_data_sets_of_one_group_still_reach_every_split():
    cases = [case for index in range(5) for case in _cases(f"set{index}", "ct", 1, 3)]
    assert {case.split for case in assign_splits(cases)} == set(SPLITS)


def test_given_splits_stay_and_bind_their_group():
    given = {(0, 0): "test", (1, 1): "val"}
    result = assign_splits(_cases("one", "ct", 10, 3, given))
    sides = _sides(result)
    assert sides["one/0"] == {"test"} and sides["one/1"] == {"val"}


def test_a_side_without_a_share_stays_empty():
    assert {case.split for case in assign_splits(_cases("one", "ct", 9, 1), (0, 0, 1))} == {"test"}


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.9, 0.9, -0.8), (0.5, 0.1, 0.1)])
def test_bad_fractions(fractions):
    with pytest.raises(RequestError, match="sum to 1"):
        assign_splits([], fractions)
