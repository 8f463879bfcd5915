"""Other measures from the discriminant matrix: RidgeLSE, trace FDR, determinant FDR."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from prunus.criteria.discriminant.elimination import (
    Elimination,
    discriminant_inverse,
    factored_inverse,
    information_share,
)
from prunus.criteria.discriminant.pivots import Pivots
from prunus.criteria.families import consumers_of
from prunus.criteria.scores import CRITERIA, GroupScore, positive
from prunus.graph import Consumer, Group, Groups
from prunus.statistics import Scatter, Statistics

__all__ = ["DFDR", "TFDR", "RidgeLSE", "dfdr"]

#: Floor of the eigenvalues of the discriminant matrix: the resolution of float32 activations.
FLOOR = 1e-12


@CRITERIA.register("ridge_lse")
class RidgeLSE(Elimination):
    """Rise of the ridge regression's loss when a unit is removed, as a share of tr(YYᵀ), greedily.

    RidgeLSE = min_W ‖WᵀX − Y‖²_F + ρ‖W‖²_F = C − DI with C = tr(YYᵀ) ([Kung-Hou, eq. 11–12]
    for classes, 13–15 for continuous targets; theory.md (7)), so its rise is ΔDI. Unlike with `di`,
    a layer that explains little of the teacher has little to lose: values of all layers share the
    scale C.
    """

    unit = "rise of the ridge regression's loss, as a share of the teacher"

    def coefficients(
        self, groups: Groups, statistics: Statistics, consumer: Consumer, scatter: Scatter
    ) -> tuple[Tensor, Tensor]:
        """Return M⁻¹ and G/√tr(YYᵀ)."""
        inverse, G = discriminant_inverse(scatter, self.ridge)
        return inverse, G / max(scatter.trace_YY, 1e-12) ** 0.5


@CRITERIA.register("tfdr")
class TFDR:
    """Loss of the trace Fisher ratio TFDR = tr([S + ρI]⁻¹S_B) = DI, for each unit alone.

    [Kung-Hou, eq. 8]; the loss is the DI(I) − DI(W_drop) of [Kung-slides], exact for one unit,
    theory.md (18). It is the first round of `di` alone: of two copies of a good feature both look
    dispensable. Values are fractions of the consumers' DI.
    """

    unit = "share of the discriminant information lost, one unit alone"
    comparable = True
    needs_statistics = True

    def __init__(self, ridge: float = 1e-3) -> None:
        """`ridge` is ρ in units of the mean eigenvalue of S."""
        self.ridge = positive("ridge", ridge)

    def __call__(self, groups: Groups, group: Group, statistics: Statistics) -> GroupScore:
        """Score one group."""
        costs = torch.zeros(group.units, dtype=torch.float64)
        for _, scatter, blocks in consumers_of(groups, [group], statistics):
            state = discriminant_inverse(scatter, self.ridge)
            pivots = Pivots(*information_share(scatter.standard_D, *state), blocks)
            costs += torch.from_numpy(pivots.costs(np.arange(group.units)))
        return GroupScore.of(costs.clamp(min=0))


@CRITERIA.register("dfdr")
class DFDR:
    """Loss of the logarithm of the determinant Fisher ratio [Rao], for each unit alone.

    DFDR = det([S + ρI]⁻¹S_B) [Kung-Hou, eq. 7], cost_P = ln DFDR − ln DFDR without P. S_B has
    rank L−1, so with more features than that the determinant is 0; here it is the product of
    the min(F, L−1) largest eigenvalues (a reconstruction of ours), each at least 10⁻¹².

    As [Kung-Hou, section 3.1.3] warns, removal may raise DFDR if F < L: such units come first, the
    most harmful first, at cost 0. With F ≥ L + |P| the number of factors stays the same and the
    cost is never negative. Cost per consumer: O(F³ + units·q³).
    """

    unit = "logarithm of the determinant Fisher ratio lost"
    comparable = True
    needs_statistics = True

    def __init__(self, ridge: float = 1e-3) -> None:
        """`ridge` is ρ in units of the mean eigenvalue of S."""
        self.ridge = positive("ridge", ridge)

    def __call__(self, groups: Groups, group: Group, statistics: Statistics) -> GroupScore:
        """Score one group."""
        lost = torch.zeros(group.units, dtype=torch.float64)
        for _, scatter, blocks in consumers_of(groups, [group], statistics):
            inverse, G = discriminant_inverse(scatter, self.ridge)
            A = scatter.standard_D.T @ G  # DᵀM⁻¹D, (q, q): the eigenvalues of M⁻¹S_B
            owned = torch.from_numpy(blocks).to(A.device)
            there = owned >= 0
            P = owned.clamp(min=0)
            pivots = inverse[P[:, :, None], P[:, None, :]]
            both = there[:, :, None] & there[:, None, :]
            eye = torch.eye(P.shape[1], dtype=A.dtype, device=A.device)
            B = G[P] * there[:, :, None]  # (units, k, q)
            taken = B.transpose(1, 2) @ torch.linalg.solve(torch.where(both, pivots, eye), B)
            alive = ~scatter.constant
            gone = (alive[P] & there).sum(1)
            rank = _rank(scatter)
            whole = _log_determinant(A[None], (alive.sum()[None]).clamp(max=rank))
            left = _log_determinant(A - taken, (alive.sum() - gone).clamp(max=rank))
            lost += (whole - left).cpu()
        return GroupScore.of(lost.clamp(min=0), torch.argsort(lost, stable=True))


def dfdr(scatter: Scatter, ridge: float = 1e-3) -> float:
    """Return ln DFDR of a layer: Σ ln v over the min(F, L−1) largest eigenvalues v of M⁻¹S_B.

    [Kung-Hou, eq. 7], theory.md (27), as in `DFDR`. Constant features do not count as features.
    """
    _, G = factored_inverse(scatter, ridge)
    factors = (~scatter.constant).sum()[None].clamp(max=_rank(scatter))
    return float(_log_determinant((scatter.standard_D.T @ G)[None], factors)[0])


def _rank(scatter: Scatter) -> int:
    """Return the greatest rank of S_B: L−1 for L classes that occur, q for q targets."""
    if not scatter.discrete:
        return len(scatter.teacher_total)
    return max(int((scatter.teacher_total > 0).sum()) - 1, 0)


def _log_determinant(A: Tensor, factors: Tensor) -> Tensor:
    """Return Σ ln of the `factors` (n,) largest eigenvalues of each of A (n, q, q)."""
    values = torch.linalg.eigvalsh(A).flip(-1).clamp(min=FLOOR).log()
    places = torch.arange(values.shape[-1], device=A.device)
    return torch.where(places < factors[:, None], values, 0.0).sum(-1)
