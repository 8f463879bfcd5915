"""Exact elimination: the cost of a removal after the rest has compensated for it.

Let M = S + ρI over a consumer's input features and B (F×q) any coefficients that read them:
the ridge classifier G = M⁻¹D, or the consumer's own weights Wᵀ. Removing the features P and
re-solving the others loses exactly

    cost_P = tr( B_Pᵀ [(M⁻¹)_PP]⁻¹ B_P ),

a pivot on P of A = M⁻¹ and B (see `pivots`); theory.md (18), (28).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from prunus.criteria.discriminant.factored import FactoredInverse, FactoredPivots, pivots_of
from prunus.criteria.discriminant.pivots import Pivots, indefinite, run_greedily
from prunus.criteria.families import consumers_of, split
from prunus.criteria.kernel import dual_score
from prunus.criteria.scores import CRITERIA, GroupScore, positive
from prunus.graph import Consumer, Group, Groups, Index
from prunus.statistics import Scatter, Statistics

__all__ = [
    "Elimination",
    "ExactDI",
    "Index",
    "discriminant_inverse",
    "eliminate",
    "factored_inverse",
    "information_share",
    "ridge_matrix",
]


#: M⁻¹, whole or in factored form.
Inverse = TypeVar("Inverse", Tensor, FactoredInverse, Tensor | FactoredInverse)


def ridge_matrix(scatter: Scatter, ridge: float) -> Tensor:
    """Return M = S/σσᵀ + ρI of the standardised features, ρ = ridge·N. Shape (F, F), float64.

    Standardised, tr(S)/F = N, so ρ is `ridge` times the mean eigenvalue.
    """
    samples = max(scatter.samples, 1.0)
    M = samples * scatter.correlation
    M.diagonal().add_(ridge * samples)
    return M


def discriminant_inverse(
    scatter: Scatter, ridge: float, D: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return M⁻¹ and G = M⁻¹D for standardised features, M = S/σσᵀ + ρI, ρ = ridge·N.

    D (F, q) is the scatter's own, standardised, unless another is given. Constant features get
    variance 0 and G = 0. Shapes (F, F) and (F, q), float64.

    Raises:
        ConfigError: M is not positive definite in float64.
    """
    factor, failed = torch.linalg.cholesky_ex(ridge_matrix(scatter, ridge))
    if failed:
        raise indefinite(scatter.features)
    D = scatter.standard_D if D is None else D
    return torch.cholesky_inverse(factor), torch.cholesky_solve(D, factor)


def factored_inverse(
    scatter: Scatter, ridge: float, D: Tensor | None = None
) -> tuple[Tensor | FactoredInverse, Tensor]:
    """Return `discriminant_inverse`, M⁻¹ in factored form where the scatter has a `factor`.

    With far fewer samples than features, and for a sketch, that costs O(F·r²) instead of O(F³).
    """
    if scatter.factor is None:
        return discriminant_inverse(scatter, ridge, D)
    inverse = FactoredInverse.of(scatter.factor, ridge * max(scatter.samples, 1.0))
    return inverse, inverse @ (scatter.standard_D if D is None else D)


def information_share(D: Tensor, inverse: Inverse, G: Tensor) -> tuple[Inverse, Tensor]:
    """Return M⁻¹ and G/√DI, DI = tr(DᵀG): with them costs are shares of DI."""
    return inverse, G / (D * G).sum().clamp(min=1e-12).sqrt()


def eliminate(
    states: Sequence[Pivots | FactoredPivots], units: int, rounds: int, order: Tensor | None = None
) -> GroupScore:
    """Repeatedly remove the cheapest unit, with costs summed over `states`.

    The costs are evaluated at most `rounds` times: up to that many units the greedy order is exact,
    above it ⌈left/rounds left⌉ units are removed at once. With `order` (units,) that order is
    followed instead. Costs are the marginal ones along the order in either case, so the sum over
    the first n is exactly what removing these n loses.
    """
    if order is None:
        costs, chosen = run_greedily(states, units, rounds, largest=False)
        order = torch.tensor(chosen)
    else:
        given = order.cpu().numpy()
        costs = np.zeros(units)
        costs[given] = sum(state.along(given) for state in states)
    return GroupScore.of(torch.from_numpy(costs), order)


class Elimination(ABC):
    """A criterion with greedy removal and exact costs; `coefficients` defines M⁻¹ and B."""

    unit: str
    comparable = True
    needs_statistics = True

    def __init__(self, ridge: float = 1e-3, rounds: int = 1024) -> None:
        """`ridge` is ρ in units of the mean eigenvalue of S; `rounds` as in `eliminate`."""
        self.ridge, self.rounds = positive("ridge", ridge), int(positive("rounds", rounds))

    def __call__(self, groups: Groups, group: Group, statistics: Statistics) -> GroupScore:
        """Score one group, as if the others that its consumers read were kept."""
        return self.jointly(groups, [group], statistics)[group.name]

    def along(self, groups: Groups, group: Group, statistics: Statistics, order: Tensor) -> Tensor:
        """Return the marginal costs (units,) of removing units in `order`."""
        return self.jointly(groups, [group], statistics, order)[group.name].costs

    def jointly(
        self,
        groups: Groups,
        family: Sequence[Group],
        statistics: Statistics,
        order: Tensor | None = None,
    ) -> dict[str, GroupScore]:
        """Score groups that common consumers read in one elimination over all their units.

        Each group alone may look dispensable, because the others carry the same information; here
        what is removed is removed for all of them. `order` covers the units of all groups, group
        after group.
        """
        if order is None:
            return split(self.ranked(groups, family, statistics), family)
        states = self.states(groups, family, statistics)
        return split(eliminate(states, len(order), self.rounds, order), family)

    def ranked(self, groups: Groups, family: Sequence[Group], statistics: Statistics) -> GroupScore:
        """Return the score of all units of a family, group after group."""
        units = sum(group.units for group in family)
        return eliminate(self.states(groups, family, statistics), units, self.rounds)

    def states(
        self, groups: Groups, family: Sequence[Group], statistics: Statistics
    ) -> list[Pivots | FactoredPivots]:
        """Return the state of an elimination of a family: `Pivots` of each consumer."""
        return [
            pivots_of(*self.coefficients(groups, statistics, consumer, scatter), blocks)
            for consumer, scatter, blocks in consumers_of(groups, family, statistics)
        ]

    @abstractmethod
    def coefficients(
        self, groups: Groups, statistics: Statistics, consumer: Consumer, scatter: Scatter
    ) -> tuple[Tensor | FactoredInverse, Tensor]:
        """Return M⁻¹ (F, F), or its factors, and B (F, q) of one consumer."""


@CRITERIA.register("di")
class ExactDI(Elimination):
    """Exact loss of discriminant information, ΔDI_P = tr(G_Pᵀ[(M⁻¹)_PP]⁻¹G_P), greedily.

    DI = tr(M⁻¹S_B) is the share of the class labels that a ridge classifier on these features
    explains (at most L−1). Values are fractions of the consumers' DI. The greedy order removes the
    cheapest unit, downdates M⁻¹ and G, and repeats ([Kung-slides], DI(I) − DI(W_drop); theory.md
    (18), (21)). Cost per consumer: O(F³).

    Statistics of `sampling="dual"` hold the ΔDI of each channel alone: their order is not greedy.
    """

    unit = "share of the discriminant information lost"

    def __call__(self, groups: Groups, group: Group, statistics: Statistics) -> GroupScore:
        """Score one group."""
        if statistics.duals:
            return dual_score(
                group, statistics, lambda dual: dual.removal / max(dual.information, 1e-12)
            )
        return super().__call__(groups, group, statistics)

    def along(self, groups: Groups, group: Group, statistics: Statistics, order: Tensor) -> Tensor:
        """Return the marginal costs (units,) of removing units in `order`."""
        if statistics.duals:
            return self(groups, group, statistics).costs
        return super().along(groups, group, statistics, order)

    def coefficients(
        self, groups: Groups, statistics: Statistics, consumer: Consumer, scatter: Scatter
    ) -> tuple[Tensor | FactoredInverse, Tensor]:
        """Return M⁻¹ and G/√DI."""
        return information_share(scatter.standard_D, *factored_inverse(scatter, self.ridge))
