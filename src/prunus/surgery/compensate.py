"""Closed-form repair: the units that stay take over what is linear in those that go.

For a consumer with weight W over features, P removed and K kept, the least-squares repair of its
output on the calibration data is (science.md §1.4)

    W_K += W_P·A,  bias += W_P(μ_P − A μ_K),  A = S_PK (S_KK + ρI)⁻¹,

with centred S where the consumer can take a bias (its own, or the running mean of the BatchNorm
that follows), and with second moments about 0 where it cannot. Pointwise: every tap of a kernel
uses the same A, so the repair is exact but for the zero padding at image borders.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prunus.graph import Consumer, SelectLinear
from prunus.graph.layers import CONVOLUTIONS, TRANSPOSED, is_mixing
from prunus.plan import Plan
from prunus.statistics import Statistics

__all__ = ["Repair", "compensate_", "mask_"]


@dataclass(frozen=True)
class Repair:
    """What compensation did to one consumer.

    `left` is the share of the removed features' own energy in the output that stays lost:
    1 means that nothing could be repaired, 0 that all was. `reason` is set where the consumer
    was left as it was.
    """

    module: str
    left: float | None
    reason: str = ""


def compensate_(
    model: nn.Module, plan: Plan, statistics: Statistics, ridge: float = 1e-3
) -> list[Repair]:
    """Fold the removed features of every consumer into the kept ones, before the cut.

    `ridge` is ρ in units of the mean eigenvalue of S_KK for standardised features. Cost a
    consumer: O(|K|³ + |K|²|P|).
    """
    repairs = []
    groups = statistics.groups
    for name in plan.modules:
        features = _removed_features(plan, groups.consumers.get(name), name)
        if features is None:
            continue
        module = model.get_submodule(name)
        if name not in groups.consumers:
            repairs.append(Repair(name, None, "its input is too wide for a Gram matrix"))
        elif getattr(module, "groups", 1) > 1:
            repairs.append(Repair(name, None, "a grouped convolution mixes only within groups"))
        elif statistics[name].samples == 0:
            repairs.append(Repair(name, None, "it does not run on the calibration data"))
        elif features.any() and not features.all():
            repairs.append(_repair_(model, name, statistics, features, ridge))
    return repairs


def mask_(model: nn.Module, plan: Plan) -> nn.Module:
    """Zero, in place, every weight that reads a removed channel; return the model.

    The masked network computes what the cut network computes, at the dense network's cost.
    """
    for name, axes in plan.modules.items():
        module = model.get_submodule(name)
        if not is_mixing(module):
            continue
        for axis in ("in", "select"):
            if axis in axes:
                channels = list(axes[axis].removed)
                if isinstance(module, SelectLinear):
                    gone = torch.isin(module.index.cpu().long(), torch.tensor(channels))
                    channels = gone.nonzero()[:, 0].tolist()
                _zero_columns_(module, channels)
    return model


@torch.no_grad()
def _zero_columns_(module: nn.Module, channels: list[int]) -> None:
    weight = module.get_parameter("weight")
    if isinstance(module, TRANSPOSED):
        weight[channels] = 0
        return
    groups = getattr(module, "groups", 1)
    split = weight.view(groups, -1, *weight.shape[1:])  # (g, O/g, I/g, taps…)
    channel = torch.tensor(channels, device=weight.device)
    split[channel // weight.shape[1], :, channel % weight.shape[1]] = 0


def _removed_features(plan: Plan, consumer: Consumer | None, name: str) -> NDArray[np.bool_] | None:
    """Tell which features of a consumer go; None where it loses no input."""
    axes = plan.modules[name]
    channels = [c for axis in ("in", "select") if axis in axes for c in axes[axis].removed]
    if not channels:
        return None
    if consumer is None:
        return np.ones(1, dtype=bool)
    gone = np.zeros(consumer.incoming, dtype=bool)
    gone[channels] = True
    return np.asarray(gone[consumer.positions].all(axis=1))


def _repair_(
    model: nn.Module,
    name: str,
    statistics: Statistics,
    removed: NDArray[np.bool_],
    ridge: float,
) -> Repair:
    groups, scatter, module = statistics.groups, statistics[name], model.get_submodule(name)
    norm = groups.normalizer.get(name)
    takes_bias = getattr(module, "bias", None) is not None or norm is not None
    P, K = (torch.from_numpy(np.flatnonzero(m)) for m in (removed, ~removed))
    P, K = P.to(scatter.gram.device), K.to(scatter.gram.device)
    if takes_bias:
        S, C, spread = scatter.S, scatter.correlation, scatter.scale
    else:
        S, spread = scatter.gram, scatter.gram.diagonal().sqrt()
        spread = torch.where(spread > 0, spread, 1.0)
        C = S / torch.outer(spread, spread)
    C_KK = C[K][:, K]
    C_KK.diagonal().add_(ridge)
    A = torch.cholesky_solve(C[K][:, P], torch.linalg.cholesky(C_KK)).T  # (P, K), standardised
    A = A * spread[P][:, None] / spread[K]

    W = groups.consumers[name].weight(model).to(A.device)  # (F, outputs·taps·k)
    W_P = W[P]
    W[K] += A.T @ W_P
    lost = S[P][:, P] - A @ S[K][:, P] - S[P][:, K] @ A.T + A @ S[K][:, K] @ A.T
    before = float((W_P * (S[P][:, P] @ W_P)).sum())
    left = float((W_P * (lost @ W_P)).sum()) / before if before > 0 else 0.0
    _write_(module, groups.consumers[name], W)
    if takes_bias:
        shift = W_P.T @ (scatter.mean[P] - A @ scatter.mean[K])
        _shift_(model, module, norm, _per_output(module, shift))
    return Repair(name, min(max(left, 0.0), 1.0))


def _write_(module: nn.Module, consumer: Consumer, W: Tensor) -> None:
    """Put a weight by feature (F, outputs·taps·k) back into its module."""
    weight = module.get_parameter("weight")
    index = consumer.columns(module)
    with torch.no_grad():
        by_input = weight if isinstance(module, TRANSPOSED) else weight.transpose(0, 1)
        by_input[index] = W.reshape(*index.shape, *by_input.shape[1:]).to(weight)


def _per_output(module: nn.Module, shift: Tensor) -> Tensor:
    """Sum a shift of (outputs·taps·k) over taps (and folded positions), to (outputs,)."""
    if isinstance(module, nn.Linear):
        return shift.reshape(-1, module.out_features).sum(0)
    assert isinstance(module, CONVOLUTIONS)
    return shift.reshape(module.out_channels, -1).sum(1)


def _shift_(model: nn.Module, module: nn.Module, norm: str | None, shift: Tensor) -> None:
    bias = getattr(module, "bias", None)
    with torch.no_grad():
        if bias is not None:
            bias += shift.to(bias)
        elif norm is not None:
            mean = model.get_submodule(norm)._buffers["running_mean"]
            if mean is not None:  # without one, the norm takes every batch's own mean off
                mean -= shift.to(mean)
