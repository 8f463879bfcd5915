"""The utility of the dimensions of the last hidden layer: Fisher's ratio of each, and a selection.

Source: [Tian, section 3.2.1]. Under its assumption that the dimensions that the head reads are
    nearly decorrelated, the discriminants of Fisher's analysis are the dimensions themselves, so
    dimensions can be removed without rotating the space first.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from prunus.core import ConfigError
from prunus.graph import Groups
from prunus.statistics import Scatter, Statistics

__all__ = ["LatentUtility", "latent_utility", "otsu_threshold"]

#: Correlation above which a dimension is a copy of an earlier one.
COPY = 1 - 1e-9


@dataclass(frozen=True, eq=False)
class LatentUtility:
    """The discriminants of the head's input.

    Attributes:
        module: the head.
        values: v_j = σ_b²(j)/σ_w²(j) of each dimension, 0 if it is constant or a copy of an earlier
            one (eq. 3.8 and 4.13; both are removed beforehand there). Shape (F,).
        constant, copy: which dimensions those are. Shape (F,), bool.
        scatter: the sums it comes from.
        ridge: of `eigenvalues`.
    """

    module: str
    values: Tensor
    constant: Tensor
    copy: Tensor
    scatter: Scatter
    ridge: float

    @property
    def order(self) -> Tensor:
        """The dimensions from the most to the least discriminative. Shape (F,), int64."""
        return torch.argsort(self.values, descending=True, stable=True)

    @property
    def covariances(self) -> tuple[Tensor, Tensor, Tensor]:
        """Σ_a, Σ_w and Σ_b, divided by the number of samples (eq. 3.2–3.4). (F, F) each."""
        n = max(self.scatter.samples, 1e-300)
        total, between = self.scatter.S / n, self.scatter.S_B / n
        return total, total - between, between

    @cached_property
    def eigenvalues(self) -> Tensor:
        """The discriminants of Σ_b e = v (Σ_w + c·I) e, descending (eq. 3.6). Shape (L − 1,).

        On standardised features without constants and copies, c = ridge·tr(Σ_w)/F. There are at
        most one fewer than the classes that occur.
        """
        alive = (~(self.constant | self.copy)).nonzero()[:, 0]
        n = max(self.scatter.samples, 1e-300)
        D = self.scatter.standard_D[alive] / n**0.5
        within = self.scatter.correlation[alive][:, alive] - D @ D.T
        c = self.ridge * float(within.diagonal().clamp(min=0).mean()) + 1e-12 if len(alive) else 1.0
        inverse = within + c * torch.eye(len(alive), dtype=D.dtype, device=D.device)
        small = D.T @ torch.linalg.solve(inverse, D)  # (L, L): the same nonzero eigenvalues
        found: Tensor = torch.linalg.eigvalsh((small + small.T) / 2).flip(0).clamp(min=0)
        return found[: max(int((self.scatter.teacher_total > 0).sum()) - 1, 0)]

    def top(self, count: int) -> Tensor:
        """Return the `count` most discriminative dimensions with a utility above 0, in order.

        Raises:
            ConfigError: `count` is below 1.
        """
        if count < 1:
            raise ConfigError(f"{count} latent dimensions were requested, expected at least 1")
        chosen = self.order[:count]
        return chosen[(self.values[chosen] > 0) | (torch.arange(len(chosen)) == 0)]

    def otsu(self) -> Tensor:
        """Return the dimensions above Otsu's threshold of the utilities that are not 0."""
        alive = self.values[self.values > 0]
        least = otsu_threshold(alive) if len(alive) > 1 else 0.0
        return self.top(max(int((self.values > least).sum()), 1))


def latent_utility(groups: Groups, statistics: Statistics, ridge: float = 1e-3) -> LatentUtility:
    """Return v_j = σ_b²(j)/σ_w²(j) of every dimension that the head reads.

    [Tian, eq. 3.8], theory.md (38). With the share r_j = (S_B)_jj/S_jj of a dimension's variance
    that is between classes, v_j = r_j/(1 − r_j). If the head is a convolution, its pixels are the
    samples.

    Raises:
        ConfigError: the network has no single head, its teacher is continuous, or the statistics
            are kernels or do not cover its input.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import prunus
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> groups = prunus.find_groups(net, torch.zeros(1, 4))
        >>> loader = [(torch.randn(32, 4), torch.arange(32) % 2)]
        >>> statistics = prunus.collect(net, loader, groups)
        >>> prunus.latent_utility(groups, statistics).values.shape
        torch.Size([8])
    """
    head = groups.head
    if statistics.duals or statistics[head].samples == 0:
        raise ConfigError(
            f"the statistics hold no scatter of what {head!r} reads: collect with "
            "sampling='patch' or 'pixel'"
        )
    scatter = statistics[head].pointwise().to("cpu")
    if not scatter.discrete:
        raise ConfigError(
            "latent utility needs class labels, but the teacher is continuous: collect with class "
            "labels"
        )
    constant = scatter.constant
    near = scatter.correlation.tril(-1) > COPY
    copy = near.any(1) & ~constant
    share = (scatter.standard_D.square().sum(1) / max(scatter.samples, 1e-300)).clamp(0, 1)
    values = share / (1 - share).clamp(min=1e-12)
    values[constant | copy] = 0
    return LatentUtility(head, values, constant, copy, scatter, ridge)


def otsu_threshold(values: Tensor) -> float:
    """Return the threshold that splits numbers into the two classes that are farthest apart.

    The split of the sorted values after the i-th, of all n−1, with the greatest
    i·(n−i)·(μ₁ − μ₀)², half way between its neighbours. [Otsu, eq. 18], on the values
    themselves instead of a histogram.

    Raises:
        ConfigError: fewer than two values are given.

    Example:
        >>> round(otsu_threshold(torch.tensor([0.1, 5.0, 0.2, 6.0])), 6)
        2.6
    """
    if len(values) < 2:
        raise ConfigError(f"Otsu's threshold splits values, expected at least 2, got {len(values)}")
    x = values.double().sort().values
    n = len(x)
    below = torch.arange(1, n, dtype=torch.float64)
    sums = x.cumsum(0)
    low, high = sums[:-1] / below, (sums[-1] - sums[:-1]) / (n - below)
    best = int((below * (n - below) * (high - low).square()).argmax())
    return float((x[best] + x[best + 1]) / 2)
