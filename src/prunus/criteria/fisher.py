"""One feature at a time: Fisher's ratio and the derivative of DI."""

from __future__ import annotations

import torch
from torch import Tensor

from prunus.criteria.elimination import Index, discriminant_inverse, readable
from prunus.criteria.scores import CRITERIA, GroupScore, positive
from prunus.graph import Group, Groups
from prunus.statistics import Statistics

__all__ = ["FDR", "DiLOSS"]


def _over_blocks(feature_values: Tensor, blocks: Index) -> Tensor:
    """Sum values of features (F,) over each unit's block (units, k), −1 counting nothing."""
    padded = torch.cat([feature_values.cpu(), torch.zeros(1, dtype=torch.float64)])
    return padded[torch.from_numpy(blocks)].sum(1)


@CRITERIA.register("fdr")
class FDR:
    """Fisher discriminant ratio of each feature alone, FDR_i = (S_B)_ii / (S_ii + ρ).

    Seed 000 eq. 5–6, with ρ = ridge·S_ii, so a constant feature gets 0. A unit of several
    features gets their sum; several consumers add up.
    """

    unit = "Fisher discriminant ratio"
    comparable = True
    needs_statistics = True

    def __init__(self, ridge: float = 1e-3) -> None:
        """`ridge` is ρ in units of the feature's own scatter."""
        self.ridge = positive("ridge", ridge)

    def __call__(self, groups: Groups, group: Group, statistics: Statistics) -> GroupScore:
        """Score one group."""
        values = torch.zeros(group.units, dtype=torch.float64)
        for _, scatter, blocks in readable(groups, group, statistics):
            between = scatter.standard_D.square().sum(1)
            ratio = between / (max(scatter.samples, 1.0) * (1 + self.ridge))
            values += _over_blocks(ratio, blocks)
        return GroupScore.of(values)


@CRITERIA.register("diloss")
class DiLOSS:
    """DiLOSS_i = 2ρ‖G_i‖², the derivative of DI in the scale of feature i.

    Seed 000 eq. 20–22, on standardised features. It is the seeds' criterion and the right
    sensitivity to noise, but as a removal loss it is poor: it falls to 0 with ρ, and two copies
    of a good feature both look dispensable at full value (science.md §1.1). A unit of several
    features gets their sum; several consumers add up.
    """

    unit = "DiLOSS, derivative of the discriminant information"
    comparable = True
    needs_statistics = True

    def __init__(self, ridge: float = 1e-3) -> None:
        """`ridge` is ρ in units of the mean eigenvalue of S."""
        self.ridge = positive("ridge", ridge)

    def __call__(self, groups: Groups, group: Group, statistics: Statistics) -> GroupScore:
        """Score one group."""
        values = torch.zeros(group.units, dtype=torch.float64)
        for _, scatter, blocks in readable(groups, group, statistics):
            _, G = discriminant_inverse(scatter, self.ridge)
            rho = self.ridge * max(scatter.samples, 1.0)
            values += _over_blocks(2 * rho * G.square().sum(1), blocks)
        return GroupScore.of(values)
