"""Train, validation and test sides for cases that have none: whole groups, balanced by data set and modality."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from prsmed.errors import RequestError
from prsmed.types import SPLITS, Case

Stratum = tuple[str, str]


def assign_splits(
    cases: Sequence[Case], fractions: tuple[float, float, float] = (0.7, 0.1, 0.2), seed: int = 0
) -> list[Case]:
    """Give every case without a split one; cases that have one keep it.

    A group goes to one side as a whole, to the side where its (data set, modality) is furthest below its share, and to
    the side its other rows already name where there is one. Every modality with at least three groups ends with one in
    each split, as far as given splits allow. The result depends on the cases and the seed, not on their order.

    Args:
        cases: any cases.
        fractions: shares of train, val and test, counted in cases; they sum to 1.
        seed: another seed is another draw.

    Returns:
        The cases in their order, each with a split.

    Raises:
        RequestError: fractions that are negative or do not sum to 1.
    """
    if len(fractions) != len(SPLITS) or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise RequestError(f"split fractions are {fractions}; give three shares (train, val, test) that sum to 1")
    shares = dict(zip(SPLITS, fractions, strict=True))
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        groups[case.group].append(case)
    given = {group: _given_split(rows) for group, rows in groups.items()}
    split_of = {group: split for group, split in given.items() if split}
    undecided = sorted((group for group in groups if not given[group]), key=lambda group: _draw(group, groups, seed))
    _fill_strata(groups, undecided, split_of, shares)
    _reach_every_split(groups, undecided, split_of, shares)
    return [case if case.split else replace(case, split=split_of[case.group]) for case in cases]


def _given_split(rows: Sequence[Case]) -> str | None:
    counts = Counter(case.split for case in rows if case.split)
    return max(SPLITS, key=lambda split: counts[split]) if counts else None


def _draw(group: str, groups: Mapping[str, Sequence[Case]], seed: int) -> tuple[int, str]:
    """Large groups first, so that small ones can even out the shares; equal sizes in an order drawn from the seed."""
    return -len(groups[group]), hashlib.sha256(f"{seed}|{group}".encode("utf-8", "backslashreplace")).hexdigest()


def _stratum(rows: Sequence[Case]) -> Stratum:
    """The (data set, modality) most of a group's rows belong to."""
    counts = Counter((case.dataset, case.modality or "") for case in rows)
    return min(counts, key=lambda stratum: (-counts[stratum], stratum))


def _fill_strata(
    groups: Mapping[str, Sequence[Case]],
    undecided: Sequence[str],
    split_of: dict[str, str],
    shares: Mapping[str, float],
) -> None:
    """Decide each group in turn for the split that lacks most cases of its stratum."""
    stratum_of = {group: _stratum(rows) for group, rows in groups.items()}
    total: Counter[Stratum] = Counter()
    filled: Counter[tuple[Stratum, str]] = Counter()
    for group, rows in groups.items():
        total[stratum_of[group]] += len(rows)
        if group in split_of:
            filled[stratum_of[group], split_of[group]] += len(rows)
    for group in undecided:
        stratum = stratum_of[group]
        missing = {split: share * total[stratum] - filled[stratum, split] for split, share in shares.items() if share}
        split_of[group] = max(missing, key=lambda split: missing[split])
        filled[stratum, split_of[group]] += len(groups[group])


def _reach_every_split(
    groups: Mapping[str, Sequence[Case]],
    undecided: Sequence[str],
    split_of: dict[str, str],
    shares: Mapping[str, float],
) -> None:
    """Move the smallest free group of a modality into each split that has none of it."""
    members: dict[str, list[str]] = defaultdict(list)
    for group, rows in groups.items():
        for modality in {case.modality or "" for case in rows}:
            members[modality].append(group)
    smallest_first = list(reversed(undecided))
    for modality in sorted(members):
        if len(members[modality]) < len(SPLITS):
            continue
        for split in (split for split, share in shares.items() if share):
            counts = Counter(split_of[group] for group in members[modality])
            if counts[split]:
                continue
            # a split keeps its last group, or the next modality's gap would open here
            movable = [g for g in smallest_first if g in members[modality] and counts[split_of[g]] > 1]
            if movable:
                split_of[max(movable, key=lambda group: counts[split_of[group]])] = split
