"""What a whole layer explains of the teacher: DI, RidgeLSE, their matrices, the layers' ranking.

All of it is on standardised features, with ρ = ridge·N as in `discriminant_inverse`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from prunus.core import ConfigError
from prunus.criteria.discriminant.elimination import factored_inverse
from prunus.criteria.scores import jackknife_half_width
from prunus.graph import Groups
from prunus.statistics import Scatter, Statistics

__all__ = [
    "LayerInformation",
    "discriminant_information",
    "discriminant_matrix",
    "execution_order",
    "rank_layers",
    "regression_matrix",
    "ridge_lse",
    "sort_layers",
]


def discriminant_information(scatter: Scatter, ridge: float = 1e-3) -> float:
    """Return DI = tr([S + ρI]⁻¹S_B), from 0 to tr(YYᵀ), which is L−1 for L classes.

    [Kung-Hou, eq. 8, 10]; for continuous targets [Kung-Hou, eq. 14]; theory.md (6).
    """
    _, G = factored_inverse(scatter, ridge)
    return float((scatter.standard_D * G).sum())


def ridge_lse(scatter: Scatter, ridge: float = 1e-3) -> float:
    """Return RidgeLSE = min_W ‖WᵀX − Y‖²_F + ρ‖W‖²_F = tr(YYᵀ) − DI.

    [Kung-Hou, eq. 11–12, 15], theory.md (7). The W that reaches it is G = M⁻¹D.
    """
    return scatter.trace_YY - discriminant_information(scatter, ridge)


def regression_matrix(scatter: Scatter, ridge: float = 1e-3) -> Tensor:
    """Return RM = [S + ρI]⁻¹XYᵀYXᵀ, shape (F, F), whose trace is DI [Kung-Hou, eq. 14]."""
    _, G = factored_inverse(scatter, ridge)
    return G @ scatter.standard_D.T


def discriminant_matrix(scatter: Scatter, ridge: float = 1e-3) -> Tensor:
    """Return DM = [S + ρI]⁻¹S_B, shape (F, F) [Kung-Hou, eq. 4, 9].

    With the teacher's weight 1/√N_l it equals the regression matrix.

    Raises:
        ConfigError: the teacher is continuous.
    """
    if not scatter.discrete:
        raise ConfigError(
            "the discriminant matrix needs class labels, but the teacher is continuous: use "
            "regression_matrix"
        )
    return regression_matrix(scatter, ridge)


@dataclass(frozen=True, kw_only=True)
class LayerInformation:
    """How much of the teacher the input of one consumer explains.

    Attributes:
        module: the consumer.
        features: rows of its scatter (channels × cells).
        information: DI.
        share: DI/tr(YYᵀ), in [0, 1]: the span of the teacher; the rest is its residual
            [Kung-Hou, section 2.2].
        low, high: jackknife interval of the share; NaN if the statistics are one block.
        gain: `share` minus that of the layer that runs before; the share itself for the first
            layer.
    """

    module: str
    features: int
    information: float
    share: float
    low: float
    high: float
    gain: float


def rank_layers(
    groups: Groups, statistics: Statistics, ridge: float = 1e-3, level: float = 0.95
) -> list[LayerInformation]:
    """Return the information of every consumer that ran, in execution order.

    `sort_layers` ranks them [Kung-slides, "Ranking of Layers"]. Branches run one after the other,
    so the gain of a branch is not relative to its own input. Statistics of `sampling="dual"` give
    the mean over their batches, with the ridge used in collecting them.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import prunus
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> groups = prunus.find_groups(net, torch.zeros(1, 4))
        >>> loader = [(torch.randn(32, 4), torch.arange(32) % 2)]
        >>> statistics = prunus.collect(net, loader, groups)
        >>> [layer.module for layer in prunus.rank_layers(groups, statistics)]
        ['0', '2']
    """
    names = execution_order(statistics)
    found = [_information(statistics, name, ridge) for name in names]
    shares = torch.tensor([share for _, share in found], dtype=torch.float64)
    half = torch.full_like(shares, math.nan)
    if statistics.blocks > 1:
        without = (statistics.leave_out(k) for k in range(statistics.blocks))
        replicates = [[_information(one, name, ridge)[1] for name in names] for one in without]
        half = jackknife_half_width(torch.tensor(replicates, dtype=torch.float64), level)
    before = [0.0, *shares.tolist()]
    return [
        LayerInformation(
            module=name,
            features=_features(groups, statistics, name),
            information=information,
            share=share,
            low=max(share - width, 0.0) if not math.isnan(width) else width,
            high=min(share + width, 1.0) if not math.isnan(width) else width,
            gain=share - last,
        )
        for name, (information, share), width, last in zip(
            names, found, half.tolist(), before, strict=False
        )
    ]


def sort_layers(layers: list[LayerInformation], by: str = "share") -> list[LayerInformation]:
    """Return the layers ranked by `share`, `gain` or `information`, in descending order.

    Raises:
        ConfigError: `by` is something else.
    """
    if by not in ("share", "gain", "information"):
        raise ConfigError(f"layers cannot be ranked by {by!r}: choose share, gain or information")
    return sorted(layers, key=lambda layer: float(getattr(layer, by)), reverse=True)


def execution_order(statistics: Statistics) -> list[str]:
    """Return the consumers that ran, in execution order, as `collect` recorded them."""
    if statistics.duals:
        return list(statistics.duals)
    return [name for name in statistics if statistics[name].samples > 0]


def _information(statistics: Statistics, name: str, ridge: float) -> tuple[float, float]:
    """Return DI and its share of tr(YYᵀ)."""
    if statistics.duals:
        dual = statistics.duals[name]
        batches = max(dual.batches, 1)
        return dual.information / batches, dual.information / max(dual.trace_YY, 1e-12)
    scatter = statistics[name]
    information = discriminant_information(scatter, ridge)
    return information, information / max(scatter.trace_YY, 1e-12)


def _features(groups: Groups, statistics: Statistics, name: str) -> int:
    return len(groups.consumers[name].positions) if statistics.duals else statistics[name].features
