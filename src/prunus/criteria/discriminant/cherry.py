"""Cherry picking: forward selection, the counterpart of greedy elimination."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prunus.criteria.discriminant.elimination import (
    Elimination,
    discriminant_inverse,
    information_share,
    ridge_matrix,
)
from prunus.criteria.discriminant.pivots import Pivots, run_greedily
from prunus.criteria.families import consumers_of
from prunus.criteria.scores import CRITERIA, GroupScore
from prunus.graph import Consumer, Group, Groups
from prunus.statistics import Scatter, Statistics

__all__ = ["CherryPicking", "select"]


def select(states: Sequence[Pivots], units: int, rounds: int) -> GroupScore:
    """Repeatedly pick the unit with the largest gain, summed over `states`.

    With A the features picked so far, picking P too gains tr(E_Pᵀ C_PP⁻¹ E_P) of DI, where
    C = M − M_·A M_AA⁻¹ M_A· and E = D − M_·A M_AA⁻¹ D_A: pivots on M and D. The gains are evaluated
    at most `rounds` times, as in `eliminate`. The removal order is the reverse of the picking
    order; costs are gains at picking, so that the units left are worth the sum of their costs.
    """
    costs, order = run_greedily(states, units, rounds, largest=True)
    return GroupScore.of(torch.from_numpy(costs), torch.tensor(order[::-1]))


@CRITERIA.register("cherry")
class CherryPicking(Elimination):
    """Cherry picking: pick the units that gain most discriminant information, one by one.

    Forward selection by DI, for high compression [Kung-slides, "DI-based Cherry Picking"]; the
    rank-one form is a reconstruction of ours, theory.md (22). If few units are kept, the picking
    order is better than the elimination order, which depends on all the decisions before. Values
    are fractions of the consumers' DI; along the order they add up to it, like those of `di`. Cost
    per consumer: O(F³ + F²·q).
    """

    unit = "share of the discriminant information gained when picked"

    def ranked(self, groups: Groups, family: Sequence[Group], statistics: Statistics) -> GroupScore:
        """Return the score of all units of a family, group after group."""
        states = []
        for _, scatter, blocks in consumers_of(groups, family, statistics):
            M, D = ridge_matrix(scatter, self.ridge), scatter.standard_D
            total = float((D * torch.linalg.solve(M, D)).sum())
            states.append(Pivots(M, D / max(total, 1e-12) ** 0.5, blocks))
        return select(states, sum(group.units for group in family), self.rounds)

    def coefficients(
        self, groups: Groups, statistics: Statistics, consumer: Consumer, scatter: Scatter
    ) -> tuple[Tensor, Tensor]:
        """Return M⁻¹ and G/√DI."""
        return information_share(scatter.standard_D, *discriminant_inverse(scatter, self.ridge))
