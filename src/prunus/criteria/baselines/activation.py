"""The size and the variance of the activations that a unit's consumers read."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from prunus.criteria.families import consumers_of
from prunus.criteria.gather import gather
from prunus.criteria.scores import CRITERIA, GroupScore
from prunus.graph import Group, Groups
from prunus.statistics import Scatter, Statistics

__all__ = ["ActivationMean", "ActivationVariance"]


def _mean_of_features(
    groups: Groups, group: Group, statistics: Statistics, values: Callable[[Scatter], Tensor]
) -> GroupScore:
    """Score each unit by the mean of `values` (F,) over its features, then over its consumers."""
    total = torch.zeros(group.units, dtype=torch.float64)
    consumers = torch.zeros(group.units, dtype=torch.float64)
    for _, scatter, blocks in consumers_of(groups, [group], statistics):
        owned = torch.from_numpy((blocks >= 0).sum(1))
        total += gather(values(scatter), blocks).sum(1) / owned.clamp(min=1)
        consumers += owned > 0
    return GroupScore.of(total / consumers.clamp(min=1))


@CRITERIA.register("activation_mean")
class ActivationMean:
    """|μ_i| = |Σ_n x_in|/N of what the consumers read; after a ReLU this is the mean activation.

    Θ_MA of [Taylor, section 2.2]. A unit with several features (taps, flattened positions) gets
    their mean, averaged over its consumers.
    """

    unit = "mean activation"
    comparable = False
    needs_statistics = True

    def __call__(self, groups: Groups, group: Group, statistics: Statistics) -> GroupScore:
        """Score one group."""
        return _mean_of_features(groups, group, statistics, lambda scatter: scatter.mean.abs())


@CRITERIA.register("activation_variance")
class ActivationVariance:
    """σ_i² = S_ii/N of what the consumers read: a constant feature can be replaced by a bias.

    [Polyak-Wolf, section 3] (their inbound pruning keeps the channels of the largest variance). A
    unit with several features (taps, flattened positions) gets their mean, averaged over its
    consumers.
    """

    unit = "variance of the activation"
    comparable = False
    needs_statistics = True

    def __call__(self, groups: Groups, group: Group, statistics: Statistics) -> GroupScore:
        """Score one group."""

        def variance(scatter: Scatter) -> Tensor:
            return scatter.variance / max(scatter.samples, 1.0)

        return _mean_of_features(groups, group, statistics, variance)
