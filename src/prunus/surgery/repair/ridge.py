"""The weighted ridge regression behind patch repair, for one module."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

__all__ = ["Affine", "Target", "refit_weight_"]

#: Rows that are turned into float64 at a time.
CHUNK = 8192

#: How often V is solved where a ReLU follows.
ROUNDS = 5


@dataclass(frozen=True)
class Target:
    """What a module's result should be, sample by sample.

    Attributes:
        T: the result of the dense network, y = norm(z) + other. Shape (n, O).
        norm: the BatchNorm behind the module's output z, if there is one.
        other: what the cut network adds to it, if it adds something. Shape (n, O).
        rectified: whether a ReLU alone reads y.
    """

    T: Tensor
    norm: nn.Module | None = None
    other: Tensor | None = None
    rectified: bool = False


def refit_weight_(
    module: nn.Module,
    X: Tensor,
    target: Target,
    *,
    ridge: float,
    earlier: Sequence[tuple[Tensor, Target]] = (),
    towards: Tensor | None = None,
) -> float:
    """Fit the module's weight, and its bias or the running mean of the norm, to `target`.

    X (n, F) is its unfolded input. For each group of a grouped convolution on its own,

        V = (S + R)⁻¹(D + R W),  R = ridge·diag(S),  S = Σ_c X_cᵀX_c,  D = Σ_c X_cᵀT_c,

    with T_c the target taken back through sum and norm, all centred where a bias can be taken.
    The sums are over the calls c of a module that runs several times in a pass: one weight
    serves them all. Calls with a bias in common, the module's own or that of one norm, are
    centred together; a call with a norm to itself about its own mean. W is `towards`, by default
    the weight as it is. Outputs that a norm multiplies by zero do not count in that call, and
    keep their weight where that is so in every call.

    Args:
        earlier: input and target of the module's earlier calls in the same pass.

    Cost: O(n·F² + F³ + rounds·n·F·O). Returns the share of the target's variance (second moment
    without a bias) that is left.
    """
    calls = [*earlier, (X, target)]
    affines = [Affine.of(t.norm, t.T.shape[1], t.T) for _, t in calls]
    live = torch.stack([affine.live for affine in affines]).any(0)
    shares = _shares(module, [t for _, t in calls], affines)
    weight = module.get_parameter("weight")
    groups = getattr(module, "groups", 1)
    old = (weight.detach() if towards is None else towards).flatten(1).double()  # (O, F/g)
    F, O = X.shape[1] // groups, len(old) // groups  # noqa: E741 - outputs
    new = old.clone()
    shifts = [torch.zeros(len(old), dtype=torch.float64, device=X.device) for _ in calls]
    left = whole = 0.0
    for g in range(groups):
        f, o = slice(g * F, (g + 1) * F), slice(g * O, (g + 1) * O)
        xs = [x[:, f] for x, _ in calls]
        means = _means(xs, shares)
        S = _sum(_product(x, x, mean) for x, mean in zip(xs, means, strict=True))
        R = ridge * S.diagonal()
        R = R + 1e-9 * R.mean() + 1e-30
        factor = torch.linalg.cholesky(S + torch.diag(R))
        Ts = [t.T[:, o] for _, t in calls]
        for _ in range(ROUNDS if any(t.rectified for _, t in calls) else 1):
            zs = []
            for x, T, (_, t), affine in zip(xs, Ts, calls, affines, strict=True):
                z = affine.back(T if t.other is None else T - t.other[:, o], o)
                if not bool(affine.live[o][live[o]].all()):
                    z = torch.where(affine.live[o], z, x @ old[o].T.to(x))  # asks for nothing
                zs.append(z)
            means_z = _means(zs, shares)
            D = _sum(_product(x, z, mean) for x, z, mean in zip(xs, zs, means, strict=True))
            V = torch.cholesky_solve(D + R[:, None] * old[o].T, factor)
            bs = [mean_z - mean @ V for mean, mean_z in zip(means, means_z, strict=True)]
            for c, ((_, t), affine) in enumerate(zip(calls, affines, strict=True)):
                if t.rectified:
                    y = affine.forth(xs[c] @ V.to(xs[c]) + bs[c].to(xs[c]), o)
                    y = y if t.other is None else y + t.other[:, o]
                    Ts[c] = torch.where(t.T[:, o] > 0, t.T[:, o], y.clamp(max=0))
        energy = _sum((z - m).double().square().sum(0) for z, m in zip(zs, means_z, strict=True))
        error = energy - 2 * (V * D).sum(0) + (V * (S @ V)).sum(0)
        left += float(error[live[o]].clamp(min=0).sum())
        whole += float(energy[live[o]].sum())
        new[o] = torch.where(live[o][:, None], V.T, old[o])
        for shift, b in zip(shifts, bs, strict=True):
            shift[o] = torch.where(live[o], b, 0.0)
    weight.copy_(new.view(weight.shape))
    for share in shares:
        every = torch.stack([affines[c].live for c in share]).any(0)
        replace(affines[share[0]], live=every).set_bias_(module, shifts[share[0]])
    return min(left / whole, 1.0) if whole > 0 else 0.0


def _shares(
    module: nn.Module, targets: Sequence[Target], affines: Sequence[Affine]
) -> list[list[int]]:
    """Return the calls that take each bias there is; those that can take none are in no list."""
    if getattr(module, "bias", None) is not None:
        return [list(range(len(targets)))]
    shares: dict[int, list[int]] = {}
    for call, (target, affine) in enumerate(zip(targets, affines, strict=True)):
        if affine.movable:
            shares.setdefault(id(target.norm), []).append(call)
    return list(shares.values())


def _means(rows: Sequence[Tensor], shares: list[list[int]]) -> list[Tensor]:
    """Return what each call's rows are centred about: the mean over its share, or 0."""
    means = [torch.zeros(r.shape[1], dtype=torch.float64, device=r.device) for r in rows]
    for share in shares:
        total = _sum(rows[c].sum(0, dtype=torch.float64) for c in share)
        for c in share:
            means[c] = total / sum(len(rows[c]) for c in share)
    return means


def _sum(tensors: Iterable[Tensor]) -> Tensor:
    first, *rest = tensors
    for tensor in rest:
        first = first + tensor
    return first


def _product(x: Tensor, z: Tensor, mean: Tensor) -> Tensor:
    """Return Σ (x − mean) zᵀ, centred on both sides where z is x, in float64."""
    total = mean.new_zeros(x.shape[1], z.shape[1])
    for start in range(0, len(x), CHUNK):
        one, other = x[start : start + CHUNK], z[start : start + CHUNK]
        left = one.double() - mean
        total += left.T @ (left if z is x else other.double())
    return total


@dataclass(frozen=True)
class Affine:
    """y = (z − mean)·gain + offset: the BatchNorm behind a module, in eval mode.

    `live` are the outputs it lets through; `buffer` is its running mean, which takes a bias.
    """

    gain: Tensor
    offset: Tensor
    mean: Tensor
    live: Tensor
    buffer: Tensor | None

    @classmethod
    def of(cls, norm: nn.Module | None, outputs: int, like: Tensor) -> Affine:
        """Return the map of `norm`, or the identity; on the device and in the type of `like`."""
        one = torch.ones(outputs, device=like.device, dtype=like.dtype)
        if norm is None or norm._buffers.get("running_mean") is None:
            return cls(one, one * 0, one * 0, one > 0, None)
        mean, variance = (norm.get_buffer(n) for n in ("running_mean", "running_var"))
        gain = (variance + float(getattr(norm, "eps", 0.0))).rsqrt()
        weight, bias = norm._parameters.get("weight"), norm._parameters.get("bias")
        gain = gain if weight is None else gain * weight
        offset = one * 0 if bias is None else bias.detach()
        return cls(gain, offset, mean.clone(), gain.abs() > 1e-6 * gain.abs().max(), mean)

    @property
    def movable(self) -> bool:
        """Whether a running mean can take a bias."""
        return self.buffer is not None

    def back(self, y: Tensor, o: slice = slice(None)) -> Tensor:
        """Return the z that gives y, for the outputs o; y where nothing is let through."""
        gain = torch.where(self.live[o], self.gain[o], 1.0)
        return (y - self.offset[o]) / gain + self.mean[o]

    def forth(self, z: Tensor, o: slice = slice(None)) -> Tensor:
        """Return the y that z gives."""
        return (z - self.mean[o]) * self.gain[o] + self.offset[o]

    def set_bias_(self, module: nn.Module, b: Tensor) -> None:
        """Make the output Vᵀx + b: by the module's bias, or by the running mean behind it."""
        bias = module._parameters.get("bias")
        if bias is not None:
            bias.copy_(torch.where(self.live, b.to(bias), bias))
        elif self.buffer is not None:
            self.buffer.copy_(torch.where(self.live, self.mean - b.to(self.mean), self.mean))

    def shift_(self, module: nn.Module, b: Tensor) -> None:
        """Add b to the output as it is now."""
        bias = module._parameters.get("bias")
        self.set_bias_(module, b if bias is None else bias + b)
