"""Groups that one consumer concatenates: the cost of one of them depends on the others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from prunus.criteria.kernel import require_scatters
from prunus.criteria.scores import CostsOrder, Criterion, GroupScore, ScoresJointly
from prunus.graph import Consumer, Group, Groups, Index, Member, trimmed
from prunus.statistics import Scatter, Statistics

__all__ = [
    "consumers_of",
    "families_of",
    "find_families",
    "has_samples",
    "joint_order",
    "score_family",
    "split",
]


def find_families(groups: Iterable[Group], statistics: Statistics) -> list[list[Group]]:
    """Partition groups into families: groups connected by a chain of common consumers.

    The branches of an Inception module are one family, as are the layers of a dense block; most
    groups are alone. Groups that select inputs own no channels and stay alone, as do groups of
    kernel statistics, which hold no scatter.
    """
    found: list[tuple[set[str], list[Group]]] = []
    for group in groups:
        modules = set() if group.selects or statistics.duals else _consumers(group, statistics)
        apart, members = [], [group]
        for names, family in found:
            if names & modules:
                modules |= names
                members = [*family, *members]
            else:
                apart.append((names, family))
        found = [*apart, (modules, members)]
    return [family for _, family in found]


def families_of(
    rule: Criterion, groups: Iterable[Group], statistics: Statistics
) -> list[list[Group]]:
    """Partition groups into those that a criterion scores together; each alone if it does not."""
    if isinstance(rule, ScoresJointly):
        return find_families(groups, statistics)
    return [[group] for group in groups]


def score_family(
    rule: Criterion,
    groups: Groups,
    family: Sequence[Group],
    statistics: Statistics,
    order: Tensor | None = None,
) -> dict[str, GroupScore]:
    """Score the groups of a family, along a given `order` if the criterion supports it.

    Raises:
        NotScoredError: a group has nothing that the criterion scores.
    """
    if len(family) > 1:
        assert isinstance(rule, ScoresJointly)  # or `families_of` would leave each group alone
        return rule.jointly(groups, family, statistics, order)
    (group,) = family
    if order is None or not isinstance(rule, CostsOrder):
        return {group.name: rule(groups, group, statistics)}
    return {group.name: GroupScore.of(rule.along(groups, group, statistics, order), order)}


def consumers_of(
    groups: Groups, family: Sequence[Group], statistics: Statistics
) -> list[tuple[Consumer, Scatter, Index]]:
    """Return the consumers of a family that have samples, with the features of all its units.

    A consumer has none if its input is too wide for a Gram matrix, or if it did not run (an
    auxiliary head that runs only in training). Features are rows of the scatter, shape (units, k):
    the units of the first group, then those of the second, and so on; padded with −1, entirely if a
    unit is not read there.

    Raises:
        ConfigError: the statistics are kernels (`sampling="dual"`), which hold no scatter.
    """
    require_scatters(statistics)
    units = sum(group.units for group in family)
    owned: dict[str, list[tuple[int, Index]]] = defaultdict(list)
    start = 0
    for group in family:
        for member in group.consumers:
            if has_samples(groups, member, statistics):
                features = statistics.features(member.module, member.index)
                owned[member.module].append((start, features))
        start += group.units
    consumers = []
    for module, parts in owned.items():
        wide = np.full((units, sum(features.shape[1] for _, features in parts)), -1)
        column = 0
        for first, features in parts:
            wide[first : first + len(features), column : column + features.shape[1]] = features
            column += features.shape[1]
        consumers.append((groups.consumers[module], statistics[module], trimmed(wide)))
    return consumers


def has_samples(groups: Groups, member: Member, statistics: Statistics) -> bool:
    """Return whether a member is a consumer that has samples."""
    return member.module in groups.consumers and statistics[member.module].samples > 0


def split(score: GroupScore, family: Sequence[Group]) -> dict[str, GroupScore]:
    """Return each group's part of a family's score, by name."""
    if len(family) == 1:
        return {family[0].name: score}
    steps = torch.empty_like(score.order)
    steps[score.order] = torch.arange(len(steps))
    sizes = [group.units for group in family]
    parts = zip(
        family, *(torch.split(x, sizes) for x in (score.values, score.costs, steps)), strict=True
    )
    return {
        group.name: GroupScore(values, torch.argsort(mine), costs, steps=mine)
        for group, values, costs, mine in parts
    }


def joint_order(scores: Sequence[GroupScore]) -> Tensor:
    """Return the order of a family's units that `split` took apart. Shape (units,)."""
    if len(scores) == 1:
        return scores[0].order
    steps = []
    for score in scores:
        assert score.steps is not None
        steps.append(score.steps)
    return torch.argsort(torch.cat(steps))


def _consumers(group: Group, statistics: Statistics) -> set[str]:
    return {m.module for m in group.consumers if m.module in statistics.groups.consumers}
