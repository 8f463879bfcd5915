"""Elimination in factored form: M⁻¹ as a diagonal less a product of few columns, theory.md (92).

With S/σσᵀ = ZZᵀ + diag(e), Z (F×r), of few samples or of a sketch, and d = e + ρ, M = diag(d) + ZZᵀ
and

    M⁻¹ = diag(1/d) − U C Uᵀ,  U = diag(1/d) Z,  C = (I + ZᵀU)⁻¹ (r×r).

Pivoting on the features P leaves that form: with X = U_P C, A_PP = LLᵀ, Y = L⁻¹X and b = L⁻¹B_P,
C += YᵀY, and B = B₀ + U V changes in V += Yᵀb alone. So a pivot costs O(r) for each feature and
output that is left instead of O(F), and no matrix of F×F is formed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import LinAlgError, cholesky
from torch import Tensor

from prunus.criteria.discriminant.pivots import Floats, Pivots, by_unit, indefinite, lower_solve
from prunus.graph import Index
from prunus.statistics import Factor

__all__ = ["FactoredInverse", "FactoredPivots", "pivots_of"]

#: Features of a given order that are pivoted on at once.
STEP = 128


@dataclass(frozen=True, eq=False)
class FactoredInverse:
    """M⁻¹ = diag(a) − U C Uᵀ of standardised features.

    Attributes:
        a: 1/d. Shape (F,).
        U: shape (F, r).
        C: shape (r, r).
    """

    a: Tensor
    U: Tensor
    C: Tensor

    @classmethod
    def of(cls, factor: Factor, rho: float) -> FactoredInverse:
        """Return (S/σσᵀ + ρI)⁻¹.

        Raises:
            ConfigError: M is not positive definite in float64.
        """
        Z = factor.rows.T
        a = 1 / (factor.rest + rho)
        U = a[:, None] * Z
        inner = Z.T @ U
        inner.diagonal().add_(1)
        root, failed = torch.linalg.cholesky_ex(inner)
        if failed or not bool(a.isfinite().all()):
            raise indefinite(len(a))
        return cls(a, U, torch.cholesky_inverse(root))

    def __matmul__(self, B: Tensor) -> Tensor:
        """Return M⁻¹B, (F, q)."""
        return self.a[:, None] * B - self.U @ (self.C @ (self.U.T @ B))


class FactoredPivots:
    """`Pivots` with M⁻¹ in factored form: the same costs along the same orders.

    `N` = B₀B₀ᵀ is formed where B has at least as many columns as features: it takes no more memory
    than B, and a pivot then reads |P| of its rows instead of all of B.

    Memory: 16·F·(r + q) bytes. Pivoting on all units costs O(F²·r), and where N is not formed, or
    to form it, O(F²·q); along a given order O(F·r·(r + q)).
    """

    def __init__(self, A: FactoredInverse, B: Tensor, blocks: Index) -> None:
        self.own = np.unique(blocks[blocks >= 0])
        n = len(self.own)
        place = np.full(len(A.a) + 1, n)  # the last is the padding's; n is its row of zeros
        place[self.own] = np.arange(n)
        self.blocks = place[blocks]
        self.a = np.append(A.a.cpu().numpy()[self.own], 1.0)
        self.U = np.pad(A.U.cpu().numpy()[self.own], ((0, 1), (0, 0)))
        self.C = A.C.cpu().numpy().copy()
        self.B = np.pad(B.cpu().numpy()[self.own], ((0, 1), (0, 0)))  # B₀
        self.V = np.zeros((self.U.shape[1], self.B.shape[1]))  # B = B₀ + U V
        self.left = np.append(np.ones(n, dtype=bool), True)
        self.N: Floats | None = None
        self.W = np.zeros((self.U.shape[1], n + 1))  # V B₀ᵀ, in greedy order
        self.inner: Floats | None = None  # A_PP of each unit, (units, k, k)
        self.outer: Floats | None = None  # B_P B_Pᵀ of each unit

    def costs(self, units: Index) -> Floats:
        """Return cost_P of each of `units`, as if it were pivoted on next."""
        inner, outer = (whole[units] for whole in self._kept())
        if inner.shape[1] == 1:
            return np.asarray(outer[:, 0, 0] / inner[:, 0, 0])
        return np.asarray(np.trace(np.linalg.solve(inner, outer), axis1=1, axis2=2))

    def priorities(self, units: Index) -> Floats:
        """Return the priorities of units: `costs`."""
        return self.costs(units)

    def along(self, units: Index) -> Floats:
        """Return the marginal cost of each of `units`, pivoted on one after the other.

        What was pivoted on before stays as it is.
        """
        held = self.C.copy(), self.V.copy()
        P, owner = self._features(units)
        costs = np.zeros(len(units))
        for start in range(0, len(P), STEP):
            chunk = slice(start, start + STEP)
            _, b, Y = self._pivot(P[chunk])
            costs += by_unit(owner[chunk], b, len(units))
            self.C += Y.T @ Y
            self.V += Y.T @ b
        self.C, self.V = held
        return costs

    def take(self, units: Index) -> Floats:
        """Pivot on `units` and return `along(units)`."""
        inner, outer = self._kept()
        P, owner = self._features(units)
        L, b, Y = self._pivot(P)
        rows = self.B[P] @ self.B.T if self.N is None else self.N[P]  # B₀_P B₀ᵀ
        bB0 = lower_solve(L, rows + self.U[P] @ self.W)
        bB = bB0 + (b @ self.V.T) @ self.U.T
        H = lower_solve(L, (self.U[P] @ self.C) @ self.U.T)  # −L⁻¹A_P·
        here = H.T[self.blocks]  # (units, k, |P|)
        cross = here @ bB.T[self.blocks].transpose(0, 2, 1)
        outer += cross + cross.transpose(0, 2, 1) + (here @ (b @ b.T)) @ here.transpose(0, 2, 1)
        inner -= here @ here.transpose(0, 2, 1)
        self.C += Y.T @ Y
        self.V += Y.T @ b
        self.W += Y.T @ bB0
        self.left[P] = False
        if 2 * self.left.sum() <= len(self.left):
            self._compact()
        return by_unit(owner, b, len(units))

    def _pivot(self, P: Index) -> tuple[Floats, Floats, Floats]:
        """Return L of A_PP = LLᵀ, b = L⁻¹B_P and Y = L⁻¹X of the features P."""
        X = self.U[P] @ self.C
        block = -X @ self.U[P].T
        block[np.diag_indices(len(P))] += self.a[P]
        try:
            L = cholesky(block, lower=True) if len(P) else block
        except LinAlgError as error:
            raise indefinite(len(self.own)) from error
        return L, lower_solve(L, self.B[P] + self.U[P] @ self.V), lower_solve(L, X)

    def _features(self, units: Index) -> tuple[Index, Index]:
        """Return the features of `units`, in order, and which of `units` owns each."""
        blocks = self.blocks[units]
        there = blocks < len(self.own)
        return blocks[there], np.nonzero(there)[0]

    def _kept(self) -> tuple[Floats, Floats]:
        """Return A_PP and B_P B_Pᵀ of each unit, from then on kept up to date."""
        if self.inner is None or self.outer is None:
            blocks = self.blocks
            if self.B.shape[1] >= len(self.own):
                B = torch.from_numpy(self.B)
                self.N = (B @ B.T).numpy()
            U, UC = self.U[blocks], (self.U @ self.C)[blocks]
            self.inner = -(UC @ U.transpose(0, 2, 1))
            eye = np.eye(blocks.shape[1], dtype=bool)
            self.inner[:, eye] += self.a[blocks]
            if blocks.shape[1] == 1:
                self.outer = np.square(self.B).sum(1)[blocks][:, :, None]
            else:
                self.outer = self.B[blocks] @ self.B[blocks].transpose(0, 2, 1)
        return self.inner, self.outer

    def _compact(self) -> None:
        """Drop the rows that were pivoted on, so that later pivots are cheaper."""
        n, left = len(self.own), np.nonzero(self.left)[0]
        place = np.full(n + 1, len(left) - 1)  # the padding's row is the last that is left
        place[left] = np.arange(len(left))
        self.blocks, self.own = place[self.blocks], self.own[left[:-1]]
        self.a, self.U, self.B = self.a[left], self.U[left], self.B[left]
        self.W = self.W[:, left]
        self.N = None if self.N is None else self.N[np.ix_(left, left)]
        self.left = np.ones(len(left), dtype=bool)


def pivots_of(A: Tensor | FactoredInverse, B: Tensor, blocks: Index) -> Pivots | FactoredPivots:
    """Return the state of an elimination of one consumer, in the form in which M⁻¹ is held."""
    if isinstance(A, FactoredInverse):
        return FactoredPivots(A, B, blocks)
    return Pivots(A, B, blocks)
