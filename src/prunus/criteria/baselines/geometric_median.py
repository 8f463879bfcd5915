"""Filters near the middle of their layer are redundant: the geometric median."""

from __future__ import annotations

import torch

from prunus.criteria.baselines.weights import makers, member_weight
from prunus.criteria.scores import CRITERIA, GroupScore
from prunus.graph import Group, Groups
from prunus.statistics import Statistics

__all__ = ["GeometricMedian"]


@CRITERIA.register("geometric_median")
class GeometricMedian:
    """g_i = Σ_j ‖F_i − F_j‖₂, the distance of a unit's filter to all others of its layer.

    [FPGM, eq. 4–6]: the filter with the least g is nearest the layer's geometric median, so the
    others can replace it. Coupled layers add up; units without a producer are scored by the weights
    that read them.
    """

    unit = "distance to the layer's other filters"
    comparable = False
    needs_statistics = False

    def __call__(self, groups: Groups, group: Group, statistics: Statistics) -> GroupScore:
        """Score one group."""
        values = torch.zeros(group.units, dtype=torch.float64)
        for member in makers(groups, group):
            filters = member_weight(groups, member)
            if filters is not None:
                exact = "donot_use_mm_for_euclid_dist"  # the fast form leaves rounding errors at 0
                values += torch.cdist(filters, filters, compute_mode=exact).sum(1)
        return GroupScore.of(values)
