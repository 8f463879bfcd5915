"""Closed-form repair from statistics: what is kept takes over what is linear in what is removed.

For a consumer with weight W over features, P removed and K kept, the least-squares repair of its
output on the calibration data is, theory.md (62),

    W_K += W_P·A,  bias += W_P(μ_P − A μ_K),  A = S_PK (S_KK + ρI)⁻¹,

with centred S where the consumer can take a bias (its own, or the running mean of the BatchNorm
that follows), and with second moments about 0 where it cannot. What a feature is, is the kind:

| `compensate` | features | what it is |
|---|---|---|
| `bias` | as in the statistics | A = 0: only the mean of what is removed is kept |
| `pointwise` | channels | every tap of a kernel uses the same A; exact but for zero padding |
| `patch` | (channel, tap) | each tap has its own A: least squares over k×k patches, borders too |

Where `collect` found a patch too wide for a Gram matrix (`feature_limit`), `patch` is pointwise.

A grouped convolution is repaired group by group: S is then its block for one group's channels.
A transposed convolution reads no patches and is repaired pointwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prunus.core import ConfigError
from prunus.graph import Consumer
from prunus.modules import CONVOLUTIONS, TRANSPOSED, is_depthwise, module_at
from prunus.plan import Plan
from prunus.statistics import Scatter, Statistics

__all__ = ["Repair", "compensate_"]

#: Eigenvalues below this share of the largest are rounding of float32 activations.
ROUNDING = 1e-7


@dataclass(frozen=True)
class Repair:
    """What compensation did to one consumer.

    `left` is the share of the removed features' own energy in the output that remains lost:
    1 means that nothing could be repaired, 0 that all was. The energy is the variance where a
    bias can take the mean, but for `compensate="bias"`, which repairs the mean: there, and
    without a bias, it is the second moment. `reason` is set where the consumer was left as it was.
    """

    module: str
    left: float | None
    reason: str = ""


def compensate_(
    model: nn.Module,
    plan: Plan,
    statistics: Statistics,
    ridge: float = 1e-3,
    kind: str = "pointwise",
) -> list[Repair]:
    """Fold the removed features of every consumer into the kept ones, before the cut.

    `ridge` is ρ in units of the mean eigenvalue of S_KK for standardised features; `kind` is
    `bias`, `pointwise` or `patch`. Cost per consumer: O(|K|³ + |K|²|P|).

    Raises:
        ConfigError: `patch` with statistics that hold no patches; nothing has been changed then.
    """
    living = [n for n in plan.modules if not plan.empties(n)]
    losing = {n: gone for n in living if (gone := _lost_channels(plan, n))}
    consumers = statistics.groups.consumers
    if kind == "patch":
        _require_patches(model, statistics, [n for n in losing if n in consumers])
    repairs = []
    for name, channels in losing.items():
        reason = _obstacle(model, statistics, name, kind)
        if reason:
            repairs.append(Repair(name, None, reason))
            continue
        consumer = consumers[name]
        lost = np.zeros(consumer.incoming, dtype=bool)
        lost[channels] = True
        features = np.asarray(lost[consumer.positions].all(axis=1))
        if features.any():
            repairs.append(_repair_(model, consumer, statistics, features, ridge, kind))
    return repairs


def _lost_channels(plan: Plan, name: str) -> list[int]:
    """Return the incoming channels that a module no longer reads."""
    axes = plan.modules[name]
    return [c for axis in ("in", "select") if axis in axes for c in axes[axis].removed]


def _require_patches(model: nn.Module, statistics: Statistics, names: list[str]) -> None:
    """Raise unless the statistics were taken by patch, where that makes a difference."""
    if statistics.sampling == "patch":
        return
    for name in names:
        module, consumer = module_at(model, name), statistics.groups.consumers[name]
        if isinstance(module, CONVOLUTIONS) and consumer.cells(model) > 1:
            raise ConfigError(
                f"compensate='patch' without a loader needs statistics over patches, and those "
                f"of module {name!r} were sampled by {statistics.sampling!r}: give a loader, "
                "collect with sampling='patch', or pass compensate='pointwise'"
            )


def _obstacle(model: nn.Module, statistics: Statistics, name: str, kind: str) -> str:
    """Return why a consumer cannot be repaired; empty where it can."""
    if is_depthwise(module_at(model, name)):
        return (
            "a depthwise convolution mixes no channels: each is removed with its own output, and "
            "is compensated where that is read"
        )
    if reason := statistics.groups.unfit(name):
        return reason
    if name not in statistics.groups.consumers:
        return "its input is too wide for a Gram matrix"
    if statistics.sampling == "dual":
        return "its statistics are kernels (sampling 'dual'), which hold no Gram matrix"
    if statistics[name].samples == 0:
        return "it does not run on the calibration data"
    if kind == "bias" and not _takes_bias(model, name, statistics.groups.normalizer.get(name)):
        return "it has no bias, and no BatchNorm follows that could take the mean"
    return ""


def _takes_bias(model: nn.Module, name: str, norm: str | None) -> bool:
    return getattr(module_at(model, name), "bias", None) is not None or norm is not None


def _repair_(
    model: nn.Module,
    consumer: Consumer,
    statistics: Statistics,
    removed: NDArray[np.bool_],
    ridge: float,
    kind: str,
) -> Repair:
    name, scatter = consumer.module, statistics[consumer.module]
    norm = statistics.groups.normalizer.get(name)
    takes_bias = _takes_bias(model, name, norm)
    if kind == "pointwise" or not _is_read_by_cell(model, consumer, statistics):
        scatter = scatter.pointwise()
    cells, device = scatter.cells, scatter.gram.device
    W = consumer.weight(model, cells).to(device)  # (F·cells, outputs) or (F, k·outputs·taps)
    shift = W.new_zeros(W.shape[1])
    before = after = 0.0
    for features in _conv_groups(model, consumer):
        P, K = (
            torch.from_numpy(np.flatnonzero(np.repeat(features & m, cells))).to(device)
            for m in (removed, ~removed)
        )
        W_P, mean = W[P], scatter.mean
        if kind == "bias":
            shift += W_P.T @ mean[P]
            before += _energy(W_P, scatter.gram[P][:, P])
            after += _energy(W_P, scatter.S[P][:, P])
            continue
        S = scatter.S if takes_bias else scatter.gram
        A = _takeover(scatter, P, K, ridge, centred=takes_bias)
        W[K] += A.T @ W_P
        S_PK = S[P][:, K]
        lost = S[P][:, P] - A @ S_PK.T - S_PK @ A.T + A @ S[K][:, K] @ A.T
        before += _energy(W_P, S[P][:, P])
        after += _energy(W_P, lost)
        shift += W_P.T @ (mean[P] - A @ mean[K])
    if kind != "bias":
        consumer.set_weight_(model, W, cells)
    if takes_bias:
        _shift_(model, name, norm, _per_output(module_at(model, name), shift))
    return Repair(name, min(max(after / before, 0.0), 1.0) if before > 0 else 0.0)


def _is_read_by_cell(model: nn.Module, consumer: Consumer, statistics: Statistics) -> bool:
    """Return whether the weight reads the cells of the statistics one by one."""
    linear = isinstance(module_at(model, consumer.module), nn.Linear)
    cells = statistics[consumer.module].cells
    return cells == consumer.cells(model) and (linear or statistics.sampling == "patch")


def _conv_groups(model: nn.Module, consumer: Consumer) -> Iterator[NDArray[np.bool_]]:
    """Yield the features that each group of a convolution reads; all of them where it has one."""
    groups = getattr(module_at(model, consumer.module), "groups", 1)
    group_of = consumer.positions[:, 0] * groups // consumer.incoming
    for group in range(groups):
        yield group_of == group


def _takeover(scatter: Scatter, P: Tensor, K: Tensor, ridge: float, *, centred: bool) -> Tensor:
    """Return A = S_PK (S_KK + ρI)⁻¹ of standardised features, for plain ones. Shape (P, K)."""
    if centred:
        C, spread = scatter.correlation, scatter.scale
    else:
        spread = scatter.gram.diagonal().sqrt()
        spread = torch.where(spread > 0, spread, 1.0)
        C = scatter.gram / torch.outer(spread, spread)
    C_KK, C_KP = C[K][:, K], C[K][:, P]
    C_KK.diagonal().add_(ridge)
    factor, failed = torch.linalg.cholesky_ex(C_KK)
    if int(failed):
        solution: Tensor = torch.linalg.pinv(C_KK, rtol=ROUNDING, hermitian=True) @ C_KP
    else:
        solution = torch.cholesky_solve(C_KP, factor)
    return solution.T * spread[P][:, None] / spread[K]


def _energy(W: Tensor, S: Tensor) -> float:
    """tr(WᵀSW)."""
    return float((W * (S @ W)).sum())


def _per_output(module: nn.Module, shift: Tensor) -> Tensor:
    """Sum a shift of (k·outputs·taps) over taps (and folded positions), to (outputs,).

    A transposed convolution reaches each output with 1/stride of its taps along each axis: the
    mean over outputs is taken.
    """
    if isinstance(module, nn.Linear):
        return shift.view(-1, module.out_features).sum(0)
    assert isinstance(module, CONVOLUTIONS)
    each = shift.view(module.out_channels, -1).sum(1)
    return each / prod(module.stride) if isinstance(module, TRANSPOSED) else each


@torch.no_grad()
def _shift_(model: nn.Module, name: str, norm: str | None, shift: Tensor) -> None:
    """Add `shift` (outputs,) to a module's bias, or take it off the running mean of its norm.

    A norm without running statistics takes every batch's own mean off, and needs neither.
    """
    bias = getattr(module_at(model, name), "bias", None)
    if bias is not None:
        bias += shift.to(bias)
    elif norm is not None:
        mean = module_at(model, norm)._buffers["running_mean"]
        if mean is not None:
            mean -= shift.to(mean)
