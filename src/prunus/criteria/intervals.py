"""Jackknife replicates of scores: the costs along the same order without each block of images."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from prunus.core import ConfigError
from prunus.criteria.families import families_of, joint_order, score_family
from prunus.criteria.scores import CostsOrder, Criterion, GroupScore, needs_of
from prunus.graph import Groups
from prunus.statistics import Statistics

__all__ = ["add_replicates", "has_intervals"]


def has_intervals(rule: Criterion) -> bool:
    """Return whether a criterion's costs can be computed without each block of images.

    Gradients and traces are summed over all images at once; a criterion that reads them and cannot
    compute costs along a given order (`CostsOrder`) has no intervals.
    """
    return isinstance(rule, CostsOrder) or not {"gradients", "traces"} & needs_of(rule)


def add_replicates(
    groups: Groups, statistics: Statistics, rule: Criterion, scored: dict[str, GroupScore]
) -> dict[str, GroupScore]:
    """Return the scores with their `replicates` (K, units): costs without each of K blocks.

    The removal order is that of all images. A criterion that uses only weights has the same costs
    for all images.

    Raises:
        ConfigError: the statistics are one block, or the criterion reads gradients or traces,
            which are not kept in blocks.
    """
    if statistics.blocks < 2:
        raise ConfigError(
            f"intervals=True needs statistics in at least 2 blocks, found {statistics.blocks}: "
            "collect with blocks=8 and at least 8 images"
        )
    if not rule.needs_statistics:
        return {
            name: replace(one, replicates=one.costs.expand(statistics.blocks, -1).clone())
            for name, one in scored.items()
        }
    if not has_intervals(rule):
        raise ConfigError(
            f"criterion {type(rule).__name__} reads {' and '.join(sorted(needs_of(rule)))}, which "
            "are not kept in blocks, so it has no intervals: score with intervals=False"
        )
    kin = families_of(
        rule, (group for group in groups.values() if group.name in scored), statistics
    )
    found: dict[str, list[Tensor]] = {name: [] for name in scored}
    for block in range(statistics.blocks):  # one set of leave-one-out sums at a time
        left = statistics.leave_out(block)
        for family in kin:
            order = joint_order([scored[group.name] for group in family])
            for name, one in score_family(rule, groups, family, left, order).items():
                found[name].append(one.costs)
    return {name: replace(one, replicates=torch.stack(found[name])) for name, one in scored.items()}
