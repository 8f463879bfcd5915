"""The scatter of few samples as a product of few rows: the dual form, for n far below F.

N samples have a scatter of rank N − 1 or less, so that S/σσᵀ = ZᵀZ + diag(e) with Z (r×F), r < N,
and e = 0 up to rounding. What follows then costs F·r² instead of F³; theory.md (91).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.linalg.lapack import dpstrf
from torch import Tensor

__all__ = ["Factor", "pivoted_cholesky"]


@dataclass(frozen=True, eq=False)
class Factor:
    """S/σσᵀ of the standardised features as ZᵀZ + diag(e).

    Attributes:
        rows: Z, shape (r, F).
        rest: e, shape (F,).
    """

    rows: Tensor
    rest: Tensor

    def __matmul__(self, W: Tensor) -> Tensor:
        """Return S/σσᵀ times W (F, q), without forming it."""
        return self.rows.T @ (self.rows @ W) + self.rest[:, None] * W


def pivoted_cholesky(matrix: Tensor, most: int) -> Factor | None:
    """Return the factor of a positive semi-definite matrix, None if its rank is above `most`.

    The features are pivoted by what is left of their diagonal, until it is rounding: F·ε of the
    largest entry. Cost: O(F·r²). Source: LAPACK, dpstrf.
    """
    dense = matrix.cpu().numpy()
    factor, pivots, rank, _ = dpstrf(dense)
    if rank > most:
        return None
    rows = matrix.new_zeros(rank, len(matrix))
    upper = torch.from_numpy(factor[:rank]).to(matrix).triu()
    rows[:, torch.from_numpy(pivots - 1).long().to(matrix.device)] = upper
    rest = (matrix.diagonal() - rows.square().sum(0)).clamp(min=0)
    return Factor(rows, rest)
