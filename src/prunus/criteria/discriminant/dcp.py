"""Discrimination-aware channel pruning (DCP) in closed form, and its bootstrap on DI.

DCP repeatedly adds the channel whose weights have the largest gradient of
L = MSE(feature maps) + λ·CE(auxiliary head), and re-solves the weights of the chosen channels [DCP,
eq. 4–7, algorithm 2]. A reconstruction of ours, theory.md (31), does that on the statistics: the
auxiliary head becomes its ridge-regression twin, so L is quadratic, and both its targets are
stacked. With M = S + ρI, the full weights B = [W/√energy | √(λ/DI)·G] and weights V on the chosen
features alone,

    L(V) = tr((B−V)ᵀM(B−V)),  ∂L/∂V = −2E,  E = M(B−V),

where E is 0 on the chosen features once V is re-solved. `Pivots` maintain this, for a target MB
instead of D: block orthogonal matching pursuit [Block-OMP].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from prunus.core import ConfigError
from prunus.criteria.discriminant.cherry import select
from prunus.criteria.discriminant.elimination import ExactDI, eliminate, ridge_matrix
from prunus.criteria.discriminant.pivots import Floats, Pivots
from prunus.criteria.discriminant.stacked import StackedConsumer
from prunus.criteria.families import consumers_of
from prunus.criteria.scores import CRITERIA, GroupScore
from prunus.graph import Group, Groups, Index
from prunus.statistics import Statistics

__all__ = ["DCP", "Bootstrap", "SteepestPicker"]


class SteepestPicker(Pivots):
    """Picks by ‖∂L/∂W_P‖²_F/4, the gradient in the raw weights, instead of the gain.

    B is the gradient (up to −2) in weights that read standardised features; a raw feature's is
    σ times that. `scale` is σ, (F,).
    """

    def __init__(self, M: Tensor, target: Tensor, blocks: Index, scale: Tensor) -> None:
        super().__init__(M, target, blocks)
        self.variance = scale.square().cpu().numpy()

    def priorities(self, units: Index) -> Floats:
        """Return the current squared gradient of each of `units`."""
        slopes = np.append(self.variance[self.own], 0.0) * np.square(self.B).sum(1)
        squares: Floats = slopes[self.blocks[units]].sum(1)
        return squares


@CRITERIA.register("dcp")
class DCP(StackedConsumer):
    """DCP's channel selection: the units chosen last are removed first.

    The unit with the largest ‖∂L/∂W_c‖_F is added, the weights of the chosen units are re-solved,
    and so on, with L = MSE + λ·(auxiliary head) ([DCP]; in closed form on the statistics, a
    reconstruction of ours, see the module). The loss is `stacked`'s with μ = λ; the choice is by
    gradient and forward. A unit's cost is the rise of L when it is removed at its place in the
    order: a share of the consumer's output energy plus λ times a share of its DI, summed over
    consumers. Cost per consumer: O(F³ + F²·q).
    """

    unit = "share of output energy and discriminant information lost after repair"

    def __init__(self, lam: float = 1.0, ridge: float = 1e-3, rounds: int = 1024) -> None:
        """`lam` is λ, the auxiliary head's weight; `ridge` is ρ in mean eigenvalues of S."""
        if lam < 0:
            raise ConfigError(f"lam is {lam}, expected a number of at least 0")
        super().__init__(mu=lam, ridge=ridge, rounds=rounds)

    def ranked(self, groups: Groups, family: Sequence[Group], statistics: Statistics) -> GroupScore:
        """Return the score of all units of a family, group after group."""
        everything = np.arange(sum(group.units for group in family))
        pickers = self.pickers(groups, family, statistics, everything)
        return select(pickers, len(everything), self.rounds)

    def pickers(
        self, groups: Groups, family: Sequence[Group], statistics: Statistics, units: Index
    ) -> list[SteepestPicker]:
        """Return the state of a selection among `units`: one picker per consumer."""
        pickers = []
        for consumer, scatter, blocks in consumers_of(groups, family, statistics):
            _, B = self.coefficients(groups, statistics, consumer, scatter)
            M = ridge_matrix(scatter, self.ridge)
            pickers.append(SteepestPicker(M, M @ B, blocks[units], scatter.scale))
        return pickers


@CRITERIA.register("bootstrap")
class Bootstrap(DCP):
    """DCP's selection on a DI-pruned network [Kung-Hou, section 6.2.1].

    The first `share` of a group's units is removed by exact greedy ΔDI, the consumer is
    re-solved on the rest, and DCP orders the rest. Re-solved or not, the selection is the same:
    M_KK V_K = (MB)_K is the gradient that it starts from. Costs are DCP's along the whole order.
    """

    def __init__(
        self, share: float = 0.5, lam: float = 1.0, ridge: float = 1e-3, rounds: int = 1024
    ) -> None:
        """`share` of each group's units, in (0, 1), is removed by DI before DCP starts."""
        super().__init__(lam, ridge, rounds)
        if not 0 < share < 1:
            raise ConfigError(f"share is {share}, expected a number between 0 and 1")
        self.share = share

    def ranked(self, groups: Groups, family: Sequence[Group], statistics: Statistics) -> GroupScore:
        """Return the score of all units of a family, group after group."""
        by_di = ExactDI(ridge=self.ridge, rounds=self.rounds)
        first, start = [], 0
        for score, group in zip(
            by_di.jointly(groups, family, statistics).values(), family, strict=True
        ):
            first.append(start + score.order[: int(self.share * group.units)])
            start += group.units
        gone = torch.cat(first)
        left = np.setdiff1d(np.arange(start), gone.numpy())
        pickers = self.pickers(groups, family, statistics, left)
        order = torch.from_numpy(left)[select(pickers, left.size, self.rounds).order]
        order = torch.cat([gone, order])
        return eliminate(self.states(groups, family, statistics), start, self.rounds, order)
