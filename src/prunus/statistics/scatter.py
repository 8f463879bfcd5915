"""The sums a consumer's input is summarised by, and the matrices that follow from them.

With X (F×N) the centred input features and Y (L×N) the teacher, a one-hot of value 1/√N_l a
class, centred: S = XXᵀ, D = XYᵀ, S_B = DDᵀ = Σ_l N_l (μ_l−μ)(μ_l−μ)ᵀ (science.md §1; seed 000
eq. 2–9). All of them are functions of four sums, and sums of two halves of the data add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from prunus.core.errors import PlanError

__all__ = ["Scatter"]


@dataclass(eq=False)
class Scatter:
    """Float64 sums over N samples of F features and L classes; a sample is one position.

    Attributes:
        gram: Σ x xᵀ, uncentred. Shape (F, F).
        total: Σ x. Shape (F,).
        class_total: Σ x over the samples of each class. Shape (L, F).
        class_count: samples of each class. Shape (L,).

    Memory: 8·(F² + F·L) bytes. Merging is exact up to float64 rounding.
    """

    gram: Tensor
    class_total: Tensor
    class_count: Tensor

    @classmethod
    def zeros(cls, features: int, classes: int, device: torch.device | str = "cpu") -> Scatter:
        """Return the scatter of no samples."""
        make = {"dtype": torch.float64, "device": device}
        return cls(
            torch.zeros(features, features, **make),  # type: ignore[call-overload]
            torch.zeros(classes, features, **make),  # type: ignore[call-overload]
            torch.zeros(classes, **make),  # type: ignore[call-overload]
        )

    def merge(self, other: Scatter) -> Scatter:
        """Return the scatter of both sets of samples.

        Raises:
            PlanError: the two were made for different features or classes.
        """
        if self.class_total.shape != other.class_total.shape:
            raise PlanError(
                f"cannot merge scatters of (classes, features) {tuple(self.class_total.shape)} "
                f"and {tuple(other.class_total.shape)}: collect both on the same network"
            )
        return Scatter(
            self.gram + other.gram,
            self.class_total + other.class_total,
            self.class_count + other.class_count,
        )

    def to(self, device: torch.device | str) -> Scatter:
        """Return the same sums on another device."""
        return Scatter(
            self.gram.to(device), self.class_total.to(device), self.class_count.to(device)
        )

    @property
    def features(self) -> int:
        """F."""
        return len(self.gram)

    @property
    def samples(self) -> float:
        """N."""
        return float(self.class_count.sum())

    @cached_property
    def mean(self) -> Tensor:
        """μ, shape (F,)."""
        return self.class_total.sum(0) / max(self.samples, 1.0)

    @cached_property
    def S(self) -> Tensor:
        """S = XXᵀ = Σ(x−μ)(x−μ)ᵀ, shape (F, F)."""
        S = self.gram - self.samples * torch.outer(self.mean, self.mean)
        S.diagonal().clamp_(min=0)
        return S

    @cached_property
    def D(self) -> Tensor:
        """D = XYᵀ, column l = √N_l·(μ_l−μ), shape (F, L). Classes without samples give zero."""
        count = self.class_count.clamp(min=1)[:, None]
        D = (self.class_total - self.class_count[:, None] * self.mean) / count.sqrt()
        return D.T.contiguous()

    @cached_property
    def S_B(self) -> Tensor:
        """S_B = DDᵀ, the between-class scatter, shape (F, F)."""
        return self.D @ self.D.T

    @cached_property
    def scale(self) -> Tensor:
        """Standard deviation of each feature; 1 where a feature is constant. Shape (F,)."""
        variance = self.S.diagonal() / max(self.samples, 1.0)
        return torch.where(self.constant, 1.0, variance.sqrt())

    @cached_property
    def constant(self) -> Tensor:
        """Whether a feature's variance is below 1e-12 of its second moment. Shape (F,), bool.

        That is what float32 activations leave of a constant.
        """
        return self.S.diagonal() <= 1e-12 * self.gram.diagonal() + 1e-300

    @cached_property
    def correlation(self) -> Tensor:
        """S/(N·σσᵀ), shape (F, F): ones on the diagonal, and exact zeros for constant features.

        What rounding leaves of a constant is not small against itself: standardised, it would
        correlate with anything, and the matrix would not be positive semi-definite.
        """
        C = self.S / (max(self.samples, 1.0) * torch.outer(self.scale, self.scale))
        C[self.constant] = 0
        C[:, self.constant] = 0
        return C

    @cached_property
    def standard_D(self) -> Tensor:
        """D of the standardised features, D/σ, with zeros for constant ones. Shape (F, L)."""
        return torch.where(self.constant[:, None], 0.0, self.D / self.scale[:, None])
