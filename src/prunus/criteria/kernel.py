"""Scores from kernel statistics (`sampling="dual"`), one number per channel."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from prunus.core import ConfigError
from prunus.criteria.gather import gather
from prunus.criteria.scores import GroupScore
from prunus.graph import Group
from prunus.statistics import Dual, Statistics

__all__ = ["dual_score", "require_scatters"]


def dual_score(group: Group, statistics: Statistics, pick: Callable[[Dual], Tensor]) -> GroupScore:
    """Score each unit by the sum of `pick` (C,) over its channels in every consumer.

    Exact if a unit is one channel of a consumer; costs of several are added as if they were
    independent.
    """
    duals = statistics.duals
    total = torch.zeros(group.units, dtype=torch.float64)
    for member in group.consumers:
        if member.module in duals:
            blocks = statistics.features(member.module, member.index)
            total += gather(pick(duals[member.module]).double(), blocks).sum(1)
    return GroupScore.of(total)


def require_scatters(statistics: Statistics) -> None:
    """Raise if statistics hold kernels instead of scatters.

    Raises:
        ConfigError: they were collected with `sampling="dual"`.
    """
    if statistics.duals:
        raise ConfigError(
            "statistics of sampling='dual' hold kernels, not the scatters that this criterion "
            "needs: use criterion 'di' or 'diloss', or collect with sampling='patch' or 'pixel'"
        )
