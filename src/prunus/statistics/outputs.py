"""What is known of a consumer's output: its gradient's second moment, and its range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Output"]


@dataclass(eq=False)
class Output:
    """Float64 sums over the output of one consumer.

    Attributes:
        samples: positions (or rows) summed over.
        gradient: Γ = Σ g gᵀ of g = ∂L/∂output, L the loss of one image. Shape (O, O). Divided
            by `samples` it is K-FAC's output factor [K-FAC, eq. 1].
        taylor: Σ_images |Σ_positions a·∂L/∂a| of the consumer's incoming channels a, the
            first-order change of the loss when a channel is removed [Taylor, eq. 8].
            The gradient is the total one, through all consumers of that tensor. A consumer that
            runs several times reads several tensors, each of which adds its |·|. Shape (F,).
        low, high: range of each output channel. Shape (O,). None where not asked for.
    """

    samples: int = 0
    gradient: Tensor | None = None
    taylor: Tensor | None = None
    low: Tensor | None = None
    high: Tensor | None = None

    def merge(self, other: Output) -> Output:
        """Return the sums of both."""
        return Output(
            self.samples + other.samples,
            _either(self.gradient, other.gradient, torch.add),
            _either(self.taylor, other.taylor, torch.add),
            _either(self.low, other.low, torch.minimum),
            _either(self.high, other.high, torch.maximum),
        )

    def add_gradient_(self, g: Tensor) -> None:
        """Add g (B, O, P) of a batch."""
        if g.shape[1] <= g.shape[2]:
            products = torch.bmm(g, g.transpose(1, 2)).view(len(g), -1)
            square = (g.new_ones(len(g)) @ products).view(g.shape[1], -1).double()
        else:
            rows = g.transpose(0, 1).flatten(1)  # (O, B·P)
            square = (rows @ rows.T).double()
        self.gradient = _added(self.gradient, square)
        self.samples += g.shape[0] * g.shape[2]

    def add_taylor_(self, a: Tensor, g: Tensor) -> None:
        """Add the incoming channels a and their gradient, (B, F, P) each."""
        self.taylor = _added(self.taylor, torch.linalg.vecdot(a, g).abs().double().sum(0))

    def add_range_(self, z: Tensor) -> None:
        """Widen the range by outputs z (B, O, P)."""
        low, high = z.amin((0, 2)).double(), z.amax((0, 2)).double()
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)


def _added(total: Tensor | None, more: Tensor) -> Tensor:
    return more if total is None else total + more


def _either(
    one: Tensor | None, other: Tensor | None, join: Callable[[Tensor, Tensor], Tensor]
) -> Tensor | None:
    if one is None or other is None:
        return one if other is None else other
    return join(one, other)
