"""Subspaces of a layer: the DI of a set of units, and the most informative directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunus.core import ConfigError
from prunus.criteria.discriminant.elimination import factored_inverse
from prunus.criteria.discriminant.information import discriminant_information
from prunus.statistics import Scatter

__all__ = [
    "DCA",
    "Components",
    "KungTian",
    "SubspaceInformation",
    "kung_tian",
    "subspace_information",
]

#: Eigenvalues below this share of the largest are rounding errors.
TOLERANCE = 1e-10


@dataclass(frozen=True, kw_only=True)
class SubspaceInformation:
    """DI of a whole layer, of some of its features, and of the others.

    Attributes:
        total: DI(I).
        keep: DI(W_keep), the DI of the features alone; for one feature its FDR.
        drop: DI(W_drop), the DI of the layer without them.
    """

    total: float
    keep: float
    drop: float

    @property
    def loss(self) -> float:
        """DILoss = DI(I) − DI(W_drop), the exact cost of removing the features."""
        return self.total - self.drop


def subspace_information(
    scatter: Scatter, ridge: float, kept: Sequence[int] | Tensor
) -> SubspaceInformation:
    """Return DI(W) = tr((WᵀSW + ρI)⁻¹WᵀS_BW) of features `kept` and of the others.

    W_keep and W_drop are the columns of the identity of these features and of the others
    [Kung-slides, "Subspace DI"]. ρ = ridge·N of standardised features, the same for each of them.

    Raises:
        ConfigError: a feature does not exist or is repeated.
    """
    index = torch.as_tensor(kept, dtype=torch.long).flatten()
    inside = torch.zeros(scatter.features, dtype=torch.bool)
    wrong = len(index) and not 0 <= int(index.min()) <= int(index.max()) < scatter.features
    if wrong or len(set(index.tolist())) != len(index):
        raise ConfigError(
            f"features {index.tolist()[:8]} were requested, expected different ones of 0 … "
            f"{scatter.features - 1}"
        )
    inside[index] = True

    def information(features: Tensor) -> float:
        if not features.any():
            return 0.0
        where = features.nonzero().flatten().to(scatter.gram.device)
        return discriminant_information(scatter.select(where), ridge)

    return SubspaceInformation(
        total=discriminant_information(scatter, ridge),
        keep=information(inside),
        drop=information(~inside),
    )


@dataclass(frozen=True, eq=False)
class Components:
    """Discriminant components of a layer.

    Attributes:
        vectors: shape (F, c), over standardised features, normalised to vᵀ(S + ρI)v = 1.
        information: DI of each component, in descending order, in [0, 1]. Shape (c,). By canonical
            orthogonality they add up: the first c are worth their sum [Kung-Hou, section 3.1.3].
        total: DI of the layer.
    """

    vectors: Tensor
    information: Tensor
    total: float


def DCA(scatter: Scatter, ridge: float = 1e-3, components: int | None = None) -> Components:
    """Return the principal eigenvectors of the discriminant (or regression) matrix.

    They solve S_B v = λ(S + ρI)v, λ the component's DI: discriminant component analysis
    [Kung-Hou, section 3.4], theory.md (11). All rank(S_B) ≤ L−1 of them, or the first `components`.
    They follow from the q×q matrix DᵀM⁻¹D = UΛUᵀ as v = M⁻¹D·U Λ^−½; cost O(F³ + q³).

    Raises:
        ConfigError: `components` is less than 1.
    """
    if components is not None and components < 1:
        raise ConfigError(f"components is {components}, expected at least 1")
    _, G = factored_inverse(scatter, ridge)
    values, U = torch.linalg.eigh(scatter.standard_D.T @ G)
    values, U = values.flip(0), U.flip(1)
    rank = int((values > TOLERANCE * values[:1].clamp(min=1e-300)).sum())
    rank = rank if components is None else min(components, rank)
    vectors = G @ U[:, :rank] / values[:rank].sqrt()
    return Components(vectors, values[:rank], float(values.clamp(min=0).sum()))


@dataclass(frozen=True, eq=False)
class KungTian:
    """The relation between Kung's bounded and Tian's unbounded measure, at ρ = 0.

    Attributes:
        ratios: v = eig(Σ_w⁻¹Σ_b), in descending order, from 0 to ∞. Shape (r,), r ≤ L−1. Tian's.
        shares: v/(1+v), in [0, 1]: Kung's; they add up to DI. Shape (r,).
    """

    ratios: Tensor
    shares: Tensor

    @property
    def information(self) -> float:
        """DI = Σ v/(1+v), at most L−1; Σ v is dominated by the largest v."""
        return float(self.shares.sum())


def kung_tian(scatter: Scatter) -> KungTian:
    """Return the eigenvalues v of Σ_w⁻¹Σ_b, and v/(1+v) of S⁻¹S_B, theory.md (12).

    S = S_B + S_W, so both have the same eigenvectors. Directions without any scatter
    (constant and duplicated features) are left out; v is ∞ where classes have no scatter.

    Raises:
        ConfigError: the teacher is continuous and has no within-class scatter.
    """
    if not scatter.discrete:
        raise ConfigError("Tian's ratio needs class labels, but the teacher is continuous")
    values, vectors = torch.linalg.eigh(max(scatter.samples, 1.0) * scatter.correlation)
    alive = values > TOLERANCE * values[-1].clamp(min=1e-300)
    half = (vectors[:, alive] / values[alive].sqrt()).T @ scatter.standard_D  # S^−½D
    shares = torch.linalg.svdvals(half).square().clamp(max=1.0)
    shares = shares[shares > TOLERANCE]
    within = 1 - shares
    ratios = torch.where(within > TOLERANCE, shares / within, torch.inf)
    return KungTian(ratios, shares)
