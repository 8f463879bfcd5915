"""Exact elimination: what removal costs once the rest has made up for it (science.md §1.2–1.4).

Let M = S + ρI over a consumer's input features and B (F×q) any coefficients that read them:
the discriminant matrix G = M⁻¹D, or the consumer's own weights Wᵀ. Removing the features P and
re-solving the others loses exactly

    cost_P = tr( B_Pᵀ [(M⁻¹)_PP]⁻¹ B_P ),

and what is left has M⁻¹ −= R [(M⁻¹)_PP]⁻¹ Rᵀ with R = (M⁻¹)_·P, and B −= R [(M⁻¹)_PP]⁻¹ B_P.
Only K = B Bᵀ enters the cost, so the state is two F×F matrices whatever q.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunus.core.errors import ConfigError
from prunus.criteria.scores import CRITERIA, GroupScore, positive
from prunus.graph import Consumer, Group, Groups
from prunus.statistics import Scatter, Statistics

Index = NDArray[np.int64]

__all__ = ["ExactDI", "Reader", "StackedConsumer", "discriminant_inverse", "eliminate", "readable"]


def discriminant_inverse(scatter: Scatter, ridge: float) -> tuple[Tensor, Tensor]:
    """Return M⁻¹ and G = M⁻¹D for standardised features, M = S/σσᵀ + ρI, ρ = ridge·N.

    Standardised, tr(S)/F = N, so ρ is `ridge` times the mean eigenvalue. Constant features get
    variance 0 and G = 0. Shapes (F, F) and (F, L), float64.
    """
    samples = max(scatter.samples, 1.0)
    M = samples * scatter.correlation
    M.diagonal().add_(ridge * samples)
    factor = torch.linalg.cholesky(M)
    inverse = torch.cholesky_inverse(factor)
    return inverse, torch.cholesky_solve(scatter.standard_D, factor)


class Reader:
    """One consumer's side of an elimination: M⁻¹, K = B Bᵀ, and the features of each unit.

    `blocks` has shape (units, k), padded with −1 where a unit owns fewer features.
    """

    def __init__(self, inverse: Tensor, K: Tensor, blocks: Index) -> None:
        self.inverse = inverse.cpu().numpy().copy()
        self.K = K.cpu().numpy().copy()
        self.blocks = blocks
        self.left = np.ones(len(self.K), dtype=bool)

    def costs(self, units: Index) -> NDArray[np.float64]:
        """Return cost_P of each of `units`, as if it were removed next."""
        blocks = self.blocks[units]
        if blocks.shape[1] == 1:
            f = blocks[:, 0]
            return np.where(f >= 0, self.K[f, f] / self.inverse[f, f], 0.0)
        rows, columns = blocks[:, :, None], blocks[:, None, :]
        there = (rows >= 0) & (columns >= 0)
        pivots = np.where(there, self.inverse[rows, columns], np.eye(blocks.shape[1]))
        taken = np.where(there, self.K[rows, columns], 0.0)
        costs: NDArray[np.float64] = np.trace(np.linalg.solve(pivots, taken), axis1=1, axis2=2)
        return costs

    def remove(self, units: Index) -> None:
        """Take the features of `units` out: a downdate of rank |P|, O(F²·|P|)."""
        P = self.blocks[units].ravel()
        P = P[P >= 0]
        if not P.size:
            return
        R = self.inverse[:, P]
        T = np.linalg.solve(self.inverse[np.ix_(P, P)], R.T).T  # R [(M⁻¹)_PP]⁻¹, (F, |P|)
        cross = self.K[:, P] @ T.T
        self.K += T @ self.K[np.ix_(P, P)] @ T.T - cross - cross.T
        self.inverse -= T @ R.T
        self.left[P] = False
        if 2 * self.left.sum() <= len(self.left):
            self._compact()

    def _compact(self) -> None:
        """Drop the rows of removed features, so that later downdates are cheaper."""
        renamed = np.append(np.where(self.left, np.cumsum(self.left) - 1, -1), -1)
        self.blocks = renamed[self.blocks]
        self.inverse = self.inverse[np.ix_(self.left, self.left)]
        self.K = self.K[np.ix_(self.left, self.left)]
        self.left = np.ones(len(self.K), dtype=bool)


def eliminate(readers: list[Reader], units: int, rounds: int) -> GroupScore:
    """Remove the cheapest unit again and again, summing costs over `readers`.

    At most `rounds` times are the costs evaluated anew: up to that many units the greedy order
    is exact, above it ⌈left/rounds left⌉ units go at once.
    """
    left = np.arange(units)
    order: list[int] = []
    values = np.zeros(units)
    for rounds_left in range(rounds, 0, -1):
        if not left.size:
            break
        costs = np.maximum(sum(reader.costs(left) for reader in readers), 0.0)
        chunk = -(-left.size // rounds_left) if rounds < units else 1
        first = np.argsort(costs, kind="stable")[:chunk]
        values[left[first]] = costs[first]
        order.extend(left[first].tolist())
        for reader in readers:
            reader.remove(left[first])
        left = np.delete(left, first)
    return GroupScore.of(torch.from_numpy(values), torch.tensor(order))


def readable(
    groups: Groups, group: Group, statistics: Statistics
) -> list[tuple[Consumer, Scatter, Index]]:
    """Return the consumers of a group that have samples, with the features of its units.

    A consumer has none where its input is too wide for a Gram matrix, and where it did not run
    (an auxiliary head that runs in training only).
    """
    return [
        (
            groups.consumers[m.module],
            statistics[m.module],
            groups.consumers[m.module].blocks(m.index),
        )
        for m in group.consumers
        if m.module in groups.consumers and statistics[m.module].samples > 0
    ]


@CRITERIA.register("di")
class ExactDI:
    """Exact loss of discriminant information, ΔDI_P = tr(G_Pᵀ[(M⁻¹)_PP]⁻¹G_P), greedily.

    DI = tr(M⁻¹S_B) is the share of the class labels that a ridge classifier on these features
    explains (at most L−1). Values are fractions of the consumers' DI. The greedy order removes
    the unit that costs least, downdates M⁻¹ and G, and goes on (seed 001, DI(I) − DI(W_drop);
    science.md §1.2–1.3). Cost a consumer: O(F³).
    """

    unit = "share of the discriminant information lost"
    comparable = True
    needs_statistics = True

    def __init__(self, ridge: float = 1e-3, rounds: int = 1024) -> None:
        """`ridge` is ρ in units of the mean eigenvalue of S."""
        self.ridge, self.rounds = positive("ridge", ridge), int(positive("rounds", rounds))

    def __call__(self, groups: Groups, group: Group, statistics: Statistics) -> GroupScore:
        """Score one group."""
        readers = []
        for _, scatter, blocks in readable(groups, group, statistics):
            inverse, G = discriminant_inverse(scatter, self.ridge)
            total = float((scatter.standard_D * G).sum())
            readers.append(Reader(inverse, G @ G.T / max(total, 1e-12), blocks))
        return eliminate(readers, group.units, self.rounds)


@CRITERIA.register("stacked")
class StackedConsumer:
    """Loss of the real consumer and of a virtual classifier: OBS on [W ; √μ·Gᵀ].

    cost_P = tr(W_P[(M⁻¹)_PP]⁻¹W_Pᵀ)/tr(W S Wᵀ) + μ·ΔDI_P/DI: the share of the consumer's output
    energy that is lost after the best linear compensation, plus μ times the share of DI
    (science.md §1.4). The compensation that `surgery` applies is the one this score assumes.
    A convolution's taps count as outputs of a 1×1 one. Cost a consumer: O(F³ + F²·q).
    """

    unit = "share of the consumer's output energy lost after repair"
    comparable = True
    needs_statistics = True

    def __init__(self, mu: float = 0.1, ridge: float = 1e-3, rounds: int = 1024) -> None:
        """`mu` weighs discrimination against reconstruction; 0 is optimal brain surgery."""
        if mu < 0:
            raise ConfigError(f"mu is {mu}, expected a number of at least 0")
        self.mu, self.ridge = mu, positive("ridge", ridge)
        self.rounds = int(positive("rounds", rounds))

    def __call__(self, groups: Groups, group: Group, statistics: Statistics) -> GroupScore:
        """Score one group."""
        readers = []
        for consumer, scatter, blocks in readable(groups, group, statistics):
            inverse, G = discriminant_inverse(scatter, self.ridge)
            W = groups.weight(consumer.module).to(G.device) * scatter.scale[:, None]
            W[scatter.constant] = 0  # what a constant gives, a bias can give
            K = W @ W.T
            energy = scatter.samples * (K * scatter.correlation).sum()
            K = K / energy.clamp(min=1e-30)
            information = (scatter.standard_D * G).sum().clamp(min=1e-12)
            readers.append(Reader(inverse, K + self.mu * (G @ G.T) / information, blocks))
        return eliminate(readers, group.units, self.rounds)
