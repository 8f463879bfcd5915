"""Scores of single features: Fisher's ratio and the derivative of DI."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from prunus.criteria.discriminant.elimination import factored_inverse
from prunus.criteria.families import consumers_of
from prunus.criteria.gather import gather
from prunus.criteria.kernel import dual_score
from prunus.criteria.scores import CRITERIA, GroupScore, positive
from prunus.graph import Group, Groups
from prunus.statistics import Scatter, Statistics

__all__ = ["FDR", "DiLOSS", "fisher_ratio"]


def fisher_ratio(scatter: Scatter) -> Tensor:
    """Return (S_B)_ii / S_ii of each feature, in [0, 1]; 0 for a constant one. Shape (F,)."""
    return scatter.standard_D.square().sum(1) / max(scatter.samples, 1.0)


def _sum_features(
    groups: Groups, group: Group, statistics: Statistics, values: Callable[[Scatter], Tensor]
) -> GroupScore:
    """Score each unit by the sum of `values` (F,) over its features in every consumer."""
    total = torch.zeros(group.units, dtype=torch.float64)
    for _, scatter, blocks in consumers_of(groups, [group], statistics):
        total += gather(values(scatter), blocks).sum(1)
    return GroupScore.of(total)


@CRITERIA.register("fdr")
class FDR:
    """Fisher discriminant ratio of each feature alone, FDR_i = (S_B)_ii / (S_ii + ρ).

    [Kung-Hou, eq. 5–6], theory.md (25), with ρ = ridge·S_ii, so a constant feature gets 0. A unit
    with several features gets their sum; several consumers add up.
    """

    unit = "Fisher discriminant ratio"
    comparable = True
    needs_statistics = True

    def __init__(self, ridge: float = 1e-3) -> None:
        """`ridge` is ρ in units of the feature's own scatter."""
        self.ridge = positive("ridge", ridge)

    def __call__(self, groups: Groups, group: Group, statistics: Statistics) -> GroupScore:
        """Score one group."""

        def ratio(scatter: Scatter) -> Tensor:
            return fisher_ratio(scatter) / (1 + self.ridge)

        return _sum_features(groups, group, statistics, ratio)


@CRITERIA.register("diloss")
class DiLOSS:
    """DiLOSS_i = 2ρ‖G_i‖², the derivative of DI in the scale of feature i.

    [Kung-Hou, eq. 20–22], theory.md (16), on standardised features. It is X-Learning's criterion
    and the right sensitivity to noise, theory.md (17), but it is a poor removal loss: it falls to 0
    with ρ, and two copies of a good feature both keep their full value. A unit with several
    features gets their sum; several consumers add up. With kernel statistics (`sampling="dual"`) it
    is the mean over their batches.
    """

    unit = "DiLOSS, derivative of the discriminant information"
    comparable = True
    needs_statistics = True

    def __init__(self, ridge: float = 1e-3) -> None:
        """`ridge` is ρ in units of the mean eigenvalue of S."""
        self.ridge = positive("ridge", ridge)

    def __call__(self, groups: Groups, group: Group, statistics: Statistics) -> GroupScore:
        """Score one group."""
        if statistics.duals:
            return dual_score(group, statistics, lambda dual: dual.slope / max(dual.batches, 1))

        def derivative(scatter: Scatter) -> Tensor:
            _, G = factored_inverse(scatter, self.ridge)
            rho = self.ridge * max(scatter.samples, 1.0)
            return 2 * rho * G.square().sum(1)

        return _sum_features(groups, group, statistics, derivative)
