"""The actual consumer and a virtual classifier combined: the stacked score."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prunus.core import ConfigError
from prunus.criteria.discriminant.elimination import Elimination, factored_inverse
from prunus.criteria.discriminant.factored import FactoredInverse
from prunus.criteria.roots import root_of
from prunus.criteria.scores import CRITERIA
from prunus.graph import Consumer, Groups
from prunus.modules import channel_count, module_at
from prunus.statistics import Scatter, Statistics

__all__ = ["StackedConsumer"]


@CRITERIA.register("stacked")
class StackedConsumer(Elimination):
    """Loss of the actual consumer and of a virtual classifier: [OBS] on [W ; √μ·Gᵀ].

    cost_P = tr(W_P[(M⁻¹)_PP]⁻¹W_Pᵀ)/tr(W S Wᵀ) + μ·ΔDI_P/DI: the share of the consumer's output
    energy that is lost after the best linear compensation, plus μ times the share of DI,
    theory.md (29). The compensation that `surgery` applies is the one this score assumes:
    with statistics of `sampling="patch"` a unit is its k×k taps, and the score is that of the patch
    repair; by pixel a convolution's taps count as outputs of a 1×1 convolution. Outputs are
    weighted by γ/σ of the BatchNorm that directly follows: it is part of the same linear map.

    Whitened, W becomes Γ^½W, so that tr(W_P·W_Pᵀ) turns into tr(W_PᵀΓW_P) and an output error
    counts by its effect on the loss: [K-FAC, eq. 1], theory.md (30), Γ the mean g gᵀ of g =
    ∂L/∂output. The jackknife holds Γ fixed.

    Cost per consumer: O(F³ + F²·q).
    """

    unit = "share of the consumer's output energy lost after repair"

    def __init__(
        self, mu: float = 0.1, ridge: float = 1e-3, rounds: int = 1024, whiten: bool = False
    ) -> None:
        """`mu` weights discrimination against reconstruction; 0 is optimal brain surgery.

        `whiten` weights outputs by the loss's gradients; needs `collect(gradients=True)`.
        """
        super().__init__(ridge, rounds)
        if mu < 0:
            raise ConfigError(f"mu is {mu}, expected a number of at least 0")
        self.mu, self.whiten = mu, whiten
        self.needs = frozenset({"gradients"} if whiten else ())

    def coefficients(
        self, groups: Groups, statistics: Statistics, consumer: Consumer, scatter: Scatter
    ) -> tuple[Tensor | FactoredInverse, Tensor]:
        """Return M⁻¹ (F, F) and B = [W/√energy | √(μ/DI)·G] (F, q), that read standardised x."""
        inverse, G = factored_inverse(scatter, self.ridge)
        W = self._weight(groups, statistics, consumer, scatter).to(G.device)
        W = W * scatter.scale[:, None]
        W[scatter.constant] = 0  # a bias can replace a constant feature
        energy = scatter.samples * (W * scatter.correlate(W)).sum()
        information = (scatter.standard_D * G).sum().clamp(min=1e-12)
        W, G = W / energy.clamp(min=1e-30).sqrt(), (self.mu / information).sqrt() * G
        return inverse, torch.cat([W, G], 1)

    def _weight(
        self, groups: Groups, statistics: Statistics, consumer: Consumer, scatter: Scatter
    ) -> Tensor:
        """Return the weight that reads the scatter's features, whitened if asked: (F, outputs)."""
        name, cells = consumer.module, scatter.cells
        module = module_at(groups.model, name)
        flattened = statistics.sampling.startswith("flatten") and not isinstance(module, nn.Linear)
        if cells > 1 and (flattened or cells != consumer.cells(groups.model)):
            raise ConfigError(
                f"module {name!r} reads each channel by {consumer.cells(groups.model)} taps, but "
                f"sampling={statistics.sampling!r} kept {cells} cells of it: collect with "
                "sampling='patch' or 'pixel' for a criterion that reads weights"
            )
        root = self._root(groups, statistics, name)
        outputs = channel_count(module, "out")
        if cells == 1 and consumer.positions.shape[1] > 1:  # a channel of a wide flattened input
            parts = consumer.weights(groups.model)
            return root_of(name, (_weighed(W, outputs, root) for W in parts))
        W = groups.weight(name, cells=cells)
        return _weighed(W, outputs if cells == 1 else W.shape[1], root)

    def _root(self, groups: Groups, statistics: Statistics, name: str) -> Tensor | None:
        """Return a root of the output weighting: Γ^½, or the gain of the norm that follows."""
        if not self.whiten:
            norm = groups.normalizer.get(name)
            return None if norm is None else torch.diag(norm_gain(module_at(groups.model, norm)))
        output = statistics.outputs.get(name)
        if output is None or output.gradient is None:
            raise ConfigError(
                f"criterion 'stacked' with whiten=True found no gradients of module {name!r}: "
                "collect with gradients=True"
            )
        values, vectors = torch.linalg.eigh(output.gradient / max(output.samples, 1))
        root: Tensor = vectors * values.clamp(min=0).sqrt()
        return root


def _weighed(W: Tensor, outputs: int, root: Tensor | None) -> Tensor:
    """Return W (F, outputs·taps) with its outputs weighted by a root: (F, taps·outputs)."""
    W = W.view(len(W), outputs, -1).transpose(1, 2)  # taps are an axis next to the outputs
    return (W if root is None else W @ root.to(W)).flatten(1)


def norm_gain(norm: nn.Module) -> Tensor:
    """Return γ/σ of a BatchNorm in eval mode, (channels,); γ or 1 if σ is taken from the batch."""
    gain = torch.ones(channel_count(norm, "out"))
    variance, weight = norm._buffers.get("running_var"), norm._parameters.get("weight")
    if variance is not None:
        gain = (variance + float(getattr(norm, "eps", 0.0))).rsqrt()
    return gain if weight is None else gain * weight.detach()
