"""The kernel (B×B) form, for flattened features that no Gram matrix of F×F can hold.

With X (F×B) a batch, F ≫ B, K = XᵀX and M = XXᵀ + ρI,

    DI = tr(Y K(K+ρI)⁻¹Yᵀ),  G = M⁻¹XYᵀ = X(K+ρI)⁻¹Yᵀ,

and without the features P of a unit K becomes K − X_PᵀX_P, so that
ΔDI_P = DI(K) − DI(K − K_P) costs O(B³) a unit instead of O(F³). This is the form of
X-Learning's public code, theory.md (9), batch by batch; its averages over batches add up.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Dual"]

#: ρ in units of the kernel's mean eigenvalue, tr(K)/B: a batch with F > B features can be fitted
#: without error, so that a small ρ would find everything in any features.
RIDGE = 0.1


@dataclass(eq=False)
class Dual:
    """Sums over batches of what the kernel form gives of each incoming channel.

    Attributes:
        batches: how many batches were summed.
        information: Σ DI of a batch.
        removal: Σ ΔDI_P, P the cells of a channel. Shape (C,).
        slope: Σ DiLOSS = 2ρ‖G_P‖²_F. Shape (C,).
        trace_YY: Σ tr(YYᵀ).
        samples: images seen.

    Memory: 16·C bytes. Features are standardised within the batch.
    """

    batches: int
    information: float
    removal: Tensor
    slope: Tensor
    trace_YY: float  # noqa: N815 - the paper's name
    samples: float

    @classmethod
    def zeros(cls, channels: int, device: torch.device | str = "cpu") -> Dual:
        """Return the sums of no batch."""
        zero = torch.zeros(channels, dtype=torch.float64, device=device)
        return cls(0, 0.0, zero, zero.clone(), 0.0, 0.0)

    def merge(self, *others: Dual) -> Dual:
        """Return the sums over the batches of all."""
        every = (self, *others)
        return Dual(
            sum(one.batches for one in every),
            sum(one.information for one in every),
            torch.stack([one.removal for one in every]).sum(0),
            torch.stack([one.slope for one in every]).sum(0),
            sum(one.trace_YY for one in every),
            sum(one.samples for one in every),
        )

    def add_(self, x: Tensor, y: Tensor, *, discrete: bool) -> None:
        """Add a batch x (B, C·cells) with its teacher y (B, q).

        Cost: O(B²·F + C·B³).
        """
        B, C = len(x), len(self.removal)
        Y = y.to(x.device, torch.float64)
        if discrete:
            Y = Y / Y.sum(0).clamp(min=1e-300).sqrt()
        Y = (Y - Y.mean(0)).T  # (q, B)
        X = x.double() - x.double().mean(0)
        spread = X.square().mean(0).sqrt()
        X = torch.where(spread > 1e-6 * x.double().abs().amax(0), X / spread, 0.0)
        X = X.view(B, C, -1).permute(1, 0, 2)  # (C, B, cells)
        kernels = X @ X.transpose(1, 2)  # (C, B, B)
        K = kernels.sum(0)
        rho = RIDGE * float(K.trace()) / B or 1.0
        eye = torch.eye(B, dtype=torch.float64, device=x.device)
        alpha = torch.linalg.solve(K + rho * eye, Y.T)  # (K+ρI)⁻¹Yᵀ, (B, q)
        whole = (Y.T * (K @ alpha)).sum()
        left = K - kernels
        rest = torch.linalg.solve(left + rho * eye, Y.T.expand(C, -1, -1))
        without = (Y.T * (left @ rest)).sum((1, 2))
        store = self.removal.device
        self.batches += 1
        self.samples += B
        self.information += float(whole)
        self.trace_YY += float(Y.square().sum())
        self.removal += (whole - without).clamp(min=0).to(store)
        G = X.transpose(1, 2) @ alpha  # (C, cells, q)
        self.slope += (2 * rho * G.square().sum((1, 2))).to(store)
