"""Block pivoting: one algebra for removing and for picking units, theory.md (19).

Let A (F×F) be positive definite and B (F×q). Pivoting on the features P costs (or gains)

    cost_P = tr( B_Pᵀ [A_PP]⁻¹ B_P ),

and leaves A −= R [A_PP]⁻¹ Rᵀ and B −= R [A_PP]⁻¹ B_P with R = A_·P. With A = M⁻¹ = (S + ρI)⁻¹
and B any coefficients that read the features, P is *removed* and the others re-solved; with
A = M and B = D, P is *picked*. With the Cholesky factor A_PP = LLᵀ, b = L⁻¹B_P gives the marginal
cost ‖b_i‖² of each feature in turn: a whole order takes one factorisation.

Blocks of A are kept up to date for every unit; columns of A are computed when their unit is pivoted
on: A_now = A − HᵀH, where H holds the rows L⁻¹Rᵀ of all pivots so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cholesky, qr, solve_triangular
from torch import Tensor

from prunus.core import ConfigError
from prunus.graph import Index

Floats = NDArray[np.float64]

__all__ = ["Floats", "Pivots", "by_unit", "indefinite", "lower_solve", "run_greedily"]


class Pivots:
    """One consumer's A and B, and the features of each unit.

    `blocks` has shape (units, k), padded with −1 where a unit owns fewer features. Features that no
    unit owns are left out; `own` (n,) lists the others.

    Memory: 16·F² bytes. Pivoting on all units costs O(F³ + F²·q).
    """

    def __init__(self, A: Tensor, B: Tensor, blocks: Index) -> None:
        self.own = np.unique(blocks[blocks >= 0])
        n = len(self.own)
        place = np.full(len(A) + 1, n)  # the last is the padding's; n is its row of zeros
        place[self.own] = np.arange(n)
        self.blocks = place[blocks]
        self.A = A.cpu().numpy()[np.ix_(self.own, self.own)]
        rows = B.cpu().numpy()[self.own]
        if rows.shape[1] > n:  # only BBᵀ of B matters
            rows = qr(rows.T, mode="economic")[1].T
        self.B = np.concatenate([rows, np.zeros((1, rows.shape[1]))])
        self.H = np.zeros((n, n + 1))
        self.taken = 0
        self.left = np.ones(n, dtype=bool)
        padded = np.pad(self.A, (0, 1))
        self.inner = padded[self.blocks[:, :, None], self.blocks[:, None, :]]  # A_PP of each unit
        pads = np.nonzero(self.blocks == n)
        self.inner[pads[0], pads[1], pads[1]] = 1

    def costs(self, units: Index) -> Floats:
        """Return cost_P of each of `units`, as if it were pivoted on next."""
        inner, B = self.inner[units], self.B[self.blocks[units]]  # (u, k, k), (u, k, q)
        costs: Floats
        if inner.shape[1] == 1:
            costs = np.square(B).sum((1, 2)) / inner[:, 0, 0]
        else:
            costs = np.trace(np.linalg.solve(inner, B @ B.transpose(0, 2, 1)), axis1=1, axis2=2)
        return costs

    def priorities(self, units: Index) -> Floats:
        """Return the priorities of units: `costs`, unless a subclass overrides them."""
        return self.costs(units)

    def along(self, units: Index) -> Floats:
        """Return the marginal cost of each of `units`, pivoted on one after the other."""
        P, owner = self._features(units)
        columns = self._columns(P)
        b = lower_solve(self._factor(columns[P]), self.B[P])
        return by_unit(owner, b, len(units))

    def take(self, units: Index) -> Floats:
        """Pivot on `units` and return `along(units)`."""
        P, owner = self._features(units)
        columns = self._columns(P)
        L = self._factor(columns[P])
        b = lower_solve(L, self.B[P])
        half = np.zeros((len(P), len(columns) + 1))  # L⁻¹Rᵀ and the padding's zero
        half[:, :-1] = lower_solve(L, columns.T)
        outer = half.T[self.blocks]  # (units, k, |P|)
        self.inner -= outer @ outer.transpose(0, 2, 1)
        self.B -= half.T @ b
        self.H[self.taken : self.taken + len(P)] = half
        self.taken += len(P)
        self.left[P] = False
        if 2 * self.left.sum() <= len(self.left):
            self._compact()
        return by_unit(owner, b, len(units))

    def _features(self, units: Index) -> tuple[Index, Index]:
        """Return the features of `units`, in order, and which of `units` owns each."""
        blocks = self.blocks[units]
        there = blocks < len(self.own)
        return blocks[there], np.nonzero(there)[0]

    def _columns(self, P: Index) -> Floats:
        """Return the columns P of A as it is now, (n, |P|)."""
        H = self.H[: self.taken]
        columns: Floats = self.A[:, P] - H[:, :-1].T @ H[:, P]
        return columns

    def _factor(self, block: Floats) -> Floats:
        """Return L of block = LLᵀ."""
        if not len(block):
            return block
        if len(block) == 1 and block[0, 0] > 0:  # SciPy's checks take longer than the factorisation
            return np.sqrt(block)
        try:
            L: Floats = cholesky(block, lower=True)
        except LinAlgError as error:
            raise indefinite(len(self.own)) from error
        return L

    def _compact(self) -> None:
        """Drop the rows that were pivoted on, so that later pivots are cheaper."""
        n, left = len(self.own), np.nonzero(self.left)[0]
        H = self.H[: self.taken, left]
        self.A = self.A[np.ix_(left, left)] - H.T @ H
        self.B = self.B[np.append(left, n)]
        place = np.full(n + 1, len(left))
        place[left] = np.arange(len(left))
        self.blocks, self.own = place[self.blocks], self.own[left]
        self.H, self.taken = np.zeros((len(left), len(left) + 1)), 0
        self.left = np.ones(len(left), dtype=bool)


def indefinite(features: int) -> ConfigError:
    """Return the error to raise if M has no Cholesky factor."""
    return ConfigError(
        f"M = S + ρI over {features} features is not positive definite in float64: the ridge is "
        "too small for them, expected at least about 1e-8"
    )


class Eliminating(Protocol):
    """The state of an elimination of one consumer, in either form."""

    def priorities(self, units: Index) -> Floats:
        """Return the priority of each of `units`, to be pivoted on next."""
        ...

    def take(self, units: Index) -> Floats:
        """Pivot on `units`, one after the other; return the marginal cost of each."""
        ...


def run_greedily(
    states: Sequence[Eliminating], units: int, rounds: int, largest: bool
) -> tuple[Floats, list[int]]:
    """Repeatedly pivot on the unit with the least (or `largest`) priority, over all `states`.

    Returns the marginal cost of each unit (units,) and the order. The priorities are evaluated at
    most `rounds` times; with fewer rounds than units, ⌈left/rounds left⌉ are pivoted on at once.
    """
    left = np.arange(units)
    order: list[int] = []
    costs = np.zeros(units)
    for rounds_left in range(rounds, 0, -1):
        if not left.size:
            break
        priorities = np.zeros(left.size) + sum(state.priorities(left) for state in states)
        chunk = -(-left.size // rounds_left) if rounds < units else 1
        first = np.argsort(-priorities if largest else priorities, kind="stable")[:chunk]
        costs[left[first]] = sum(state.take(left[first]) for state in states)
        order.extend(left[first].tolist())
        left = np.delete(left, first)
    return costs, order


def by_unit(owner: Index, b: Floats, units: int) -> Floats:
    """Sum ‖b_i‖² over the features of each unit."""
    costs = np.zeros(units)
    np.add.at(costs, owner, np.square(b).sum(1))
    return costs


def lower_solve(L: Floats, right: Floats) -> Floats:
    """Return L⁻¹·right for a lower triangular L."""
    if not len(L):
        return right
    if len(L) == 1:
        return right / L
    solved: Floats = solve_triangular(L, right, lower=True, check_finite=False)
    return solved
