"""The sums a consumer's input is summarised by, and the matrices that follow from them.

With X (F×N) the centred input features and Y (q×N) the centred teacher,
S = XXᵀ, D = XYᵀ, S_B = DDᵀ [Kung-Hou, eq. 2–9], theory.md (2). For class labels Y is a one-hot
of value 1/√N_l a class, so that S_B = Σ_l N_l (μ_l−μ)(μ_l−μ)ᵀ; for regression it is the target
itself. All of them are functions of a few sums, and sums of two parts of the data add up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from prunus.core import PlanError
from prunus.statistics.factor import Factor, pivoted_cholesky

__all__ = ["Scatter"]

#: Features from which the dual form is worth it, and the share of them that are few samples.
WIDE, FEW = 1024, 8


@dataclass(eq=False, repr=False)
class Scatter:
    """Float64 sums over samples of F features and a teacher of q columns.

    A sample n has weight w_n (1 unless classes are balanced), features x_n and teacher y_n, the
    one-hot label or the target.

    Attributes:
        gram: Σ w x xᵀ, uncentred. Shape (F, F).
        total: Σ w x. Shape (F,).
        cross: Σ w y xᵀ; row l of class labels is the sum over class l. Shape (q, F).
        teacher_total: Σ w y; the (weighted) samples of each class. Shape (q,).
        teacher_gram: Σ w y yᵀ, shape (q, q), of a continuous teacher. None for class labels,
            where it is the diagonal of `teacher_total`.
        weight: Σ w, shape ().
        cells: features of one incoming channel: 1, or the taps of a patch, or the positions of
            a flattened map. Feature c·cells + t is cell t of channel c.

    Memory: 8·(F² + F·q) bytes. Merging is exact up to float64 rounding.
    """

    gram: Tensor
    total: Tensor
    cross: Tensor
    teacher_total: Tensor
    teacher_gram: Tensor | None
    weight: Tensor
    cells: int = 1

    def __repr__(self) -> str:
        teacher = "classes" if self.discrete else "targets"
        return (
            f"Scatter({self.features:,} features, {len(self.teacher_total):,} {teacher}, "
            f"{self.samples:,.6g} samples)"
        )

    @classmethod
    def zeros(
        cls,
        features: int,
        columns: int,
        device: torch.device | str = "cpu",
        *,
        discrete: bool = True,
        cells: int = 1,
    ) -> Scatter:
        """Return the scatter of no samples."""

        def make(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        return cls(
            gram=make(features, features),
            total=make(features),
            cross=make(columns, features),
            teacher_total=make(columns),
            teacher_gram=None if discrete else make(columns, columns),
            weight=make(),
            cells=cells,
        )

    def merge(self, *others: Scatter) -> Scatter:
        """Return the scatter of all sets of samples.

        Raises:
            PlanError: they were made for different features or teachers.
        """
        for other in others:
            if self.form != other.form:
                raise PlanError(
                    f"cannot merge scatters of (teacher columns, features, cells) {self.form} "
                    f"and {other.form}: collect both on the same network with the same teacher"
                )
        every = (self, *others)
        sums: dict[str, Any] = {
            f.name: _sum(getattr(one, f.name) for one in every)
            for f in fields(self)
            if isinstance(getattr(self, f.name), Tensor)
        }
        return replace(self, **sums)

    def to(self, device: torch.device | str) -> Scatter:
        """Return the same sums on another device."""
        moved: dict[str, Any] = {
            f.name: value.to(device)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)

    def coarsen(self, parents: Tensor) -> Scatter:
        """Return the sums under coarser labels: class l counts as class `parents[l]`.

        With it DI_fine = DI_coarse + DI_{fine|coarse} can be separated, theory.md (14).

        Raises:
            PlanError: the teacher is not class labels, or `parents` has another length.
        """
        if not self.discrete or len(parents) != len(self.teacher_total):
            raise PlanError(
                f"coarser labels need one parent for each of {len(self.teacher_total)} classes, "
                f"found {len(parents)} parents"
                + ("" if self.discrete else " and a continuous teacher")
            )
        parents = parents.to(self.cross.device)
        coarse = int(parents.max()) + 1
        cross = self.cross.new_zeros(coarse, self.features).index_add_(0, parents, self.cross)
        count = self.cross.new_zeros(coarse).index_add_(0, parents, self.teacher_total)
        return replace(self, cross=cross, teacher_total=count)

    def select(self, kept: Tensor) -> Scatter:
        """Return the sums over the features `kept` alone (a plain list: `cells` becomes 1)."""
        return replace(
            self,
            gram=self.gram[kept][:, kept],
            total=self.total[kept],
            cross=self.cross[:, kept],
            cells=1,
        )

    def pointwise(self) -> Scatter:
        """Return the sums of the channels themselves: the mean over a patch's taps.

        Taps see shifted copies of the same map, so each is a sample of the channel; shape
        (C·cells) → (C).
        """
        if self.cells == 1:
            return self
        C = self.features // self.cells
        split = self.gram.view(C, self.cells, C, self.cells)
        return replace(
            self,
            gram=split.diagonal(dim1=1, dim2=3).mean(2),
            total=self.total.view(C, -1).mean(1),
            cross=self.cross.view(-1, C, self.cells).mean(2),
            cells=1,
        )

    @property
    def discrete(self) -> bool:
        """Whether the teacher is a class label."""
        return self.teacher_gram is None

    @property
    def features(self) -> int:
        """F."""
        return len(self.total)

    @property
    def samples(self) -> float:
        """N, or Σ w."""
        return float(self.weight)

    @cached_property
    def mean(self) -> Tensor:
        """μ, shape (F,)."""
        return self.total / max(self.samples, 1e-300)

    @cached_property
    def S(self) -> Tensor:
        """S = XXᵀ = Σ(x−μ)(x−μ)ᵀ, shape (F, F)."""
        return self._centred()

    def _centred(self) -> Tensor:
        S = self.gram - self.samples * torch.outer(self.mean, self.mean)
        S.diagonal().clamp_(min=0)
        return S

    @cached_property
    def D(self) -> Tensor:
        """D = XYᵀ, shape (F, q).

        Column l of class labels is √N_l·(μ_l−μ), zero for a class without samples; column j of
        a continuous teacher is Σ (x−μ)(y_j−ȳ_j).
        """
        shift = self.cross - self.teacher_total[:, None] * self.mean
        if self.discrete:
            shift = shift / self.teacher_total.clamp(min=1e-300).sqrt()[:, None]
        return shift.T.contiguous()

    @cached_property
    def trace_YY(self) -> float:
        """tr(YYᵀ), what there is to explain: L−1 for L classes that occur, balanced or not."""
        total = self.teacher_total
        if self.teacher_gram is None:
            return float((total > 0).sum() - total.sum() / max(self.samples, 1e-300))
        spread = self.teacher_gram.diagonal() - total.square() / max(self.samples, 1e-300)
        return float(spread.clamp(min=0).sum())

    @cached_property
    def S_B(self) -> Tensor:
        """S_B = DDᵀ, the between-class scatter, shape (F, F)."""
        return self.D @ self.D.T

    @property
    def variance(self) -> Tensor:
        """S_ii, N times each feature's variance. Shape (F,)."""
        return (self.gram.diagonal() - self.samples * self.mean.square()).clamp(min=0)

    @property
    def second(self) -> Tensor:
        """Σ w x², shape (F,)."""
        return self.gram.diagonal()

    @cached_property
    def factor(self) -> Factor | None:
        """S/σσᵀ as a product of few rows, where there are far fewer samples than features.

        Exact up to rounding. None where all of it must be inverted.
        """
        few = self.features // FEW
        if self.features < WIDE or not 0 < self.samples <= few:
            return None
        # the matrices on the way are not kept: several of F×F are what the form is to avoid
        return pivoted_cholesky(self._correlated(self._centred()).mul_(self.samples), few)

    def correlate(self, W: Tensor) -> Tensor:
        """Return `correlation` times W (F, q)."""
        if self.factor is not None:
            return (self.factor @ W) / max(self.samples, 1e-300)
        return self.correlation @ W

    @cached_property
    def scale(self) -> Tensor:
        """Standard deviation of each feature; 1 where a feature is constant. Shape (F,)."""
        variance = self.variance / max(self.samples, 1e-300)
        return torch.where(self.constant, 1.0, variance.sqrt())

    @cached_property
    def constant(self) -> Tensor:
        """Whether a feature's variance is below 1e-12 of its second moment. Shape (F,), bool.

        That is what float32 activations leave of a constant. Where it is below 1e-30 too: products
        of numbers so small lose their digits in float32, and correlations would exceed 1.
        """
        return self.variance <= 1e-12 * self.second + 1e-30 * max(self.samples, 1e-270)

    @cached_property
    def correlation(self) -> Tensor:
        """S/(N·σσᵀ), shape (F, F): ones on the diagonal, and exact zeros for constant features.

        What rounding leaves of a constant is not small against itself: standardised, it would
        correlate with anything, and the matrix would not be positive semi-definite.
        """
        return self._correlated(self.S.clone())

    def _correlated(self, S: Tensor) -> Tensor:
        """Return S/(N·σσᵀ), in place of S."""
        S /= max(self.samples, 1e-300) * torch.outer(self.scale, self.scale)
        S[self.constant] = 0
        S[:, self.constant] = 0
        return S

    @cached_property
    def standard_D(self) -> Tensor:
        """D of the standardised features, D/σ, with zeros for constant ones. Shape (F, q)."""
        return torch.where(self.constant[:, None], 0.0, self.D / self.scale[:, None])

    @property
    def form(self) -> tuple[int, int, int, bool]:
        """Teacher columns, features, cells, whether classes: what sums that add up share."""
        return len(self.teacher_total), self.features, self.cells, self.discrete


def _sum(tensors: Iterable[Tensor]) -> Tensor:
    first, *rest = tensors
    total = first.clone()
    for tensor in rest:
        total += tensor
    return total
