"""The weighted ridge regression behind patch repair, for one module."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["Affine", "Target", "refit_weight_"]

#: Rows that are turned into float64 at a time.
CHUNK = 8192

#: How often V is solved where a ReLU follows.
ROUNDS = 5


@dataclass(frozen=True)
class Target:
    """What a module's result shall be, sample by sample.

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


def refit_weight_(module: nn.Module, X: Tensor, target: Target, *, ridge: float) -> float:
    """Fit the module's weight, and its bias or the running mean of the norm, to `target`.

    X (n, F) is its unfolded input. For each group of a grouped convolution on its own,

        V = (S + R)⁻¹(XᵀT_z + R W),  R = ridge·diag(S),  S = XᵀX,

    with T_z the target taken back through sum and norm, all centred where a bias can be taken.
    Outputs that a norm multiplies by zero keep their weight.
    Cost: O(n·F² + F³ + rounds·n·F·O). Returns the share of the target's variance (second moment
    without a bias) that is left.
    """
    affine = Affine.of(target.norm, target.T.shape[1], target.T)
    other = target.other
    takes_bias = getattr(module, "bias", None) is not None or affine.movable
    weight = module.get_parameter("weight")
    groups = getattr(module, "groups", 1)
    old = weight.detach().flatten(1).double()  # (O, F/g)
    F, O = X.shape[1] // groups, len(old) // groups  # noqa: E741 - outputs
    new, shift = old.clone(), torch.zeros(len(old), dtype=torch.float64, device=X.device)
    left = whole = 0.0
    for g in range(groups):
        f, o = slice(g * F, (g + 1) * F), slice(g * O, (g + 1) * O)
        x = X[:, f]
        mean = x.mean(0, dtype=torch.float64) * takes_bias
        S = _product(x, x, mean)
        R = ridge * S.diagonal()
        R = R + 1e-9 * R.mean() + 1e-30
        factor = torch.linalg.cholesky(S + torch.diag(R))
        T = target.T[:, o]
        for _ in range(ROUNDS if target.rectified else 1):
            z = affine.back(T if other is None else T - other[:, o], o)
            mean_t = z.mean(0, dtype=torch.float64) * takes_bias
            D = _product(x, z, mean) - len(x) * torch.outer(
                x.mean(0, dtype=torch.float64) - mean, mean_t
            )
            V = torch.cholesky_solve(D + R[:, None] * old[o].T, factor)
            b = mean_t - mean @ V
            if target.rectified:
                y = affine.forth(x @ V.to(x) + b.to(x), o)
                y = y if other is None else y + other[:, o]
                T = torch.where(target.T[:, o] > 0, target.T[:, o], y.clamp(max=0))
        live = affine.live[o]
        energy = (z - mean_t).double().square().sum(0)
        error = energy - 2 * (V * D).sum(0) + (V * (S @ V)).sum(0)
        left += float(error[live].clamp(min=0).sum())
        whole += float(energy[live].sum())
        new[o] = torch.where(live[:, None], V.T, old[o])
        shift[o] = torch.where(live, b, 0.0)
    weight.copy_(new.view(weight.shape))
    if takes_bias:
        affine.set_bias_(module, shift)
    return min(left / whole, 1.0) if whole > 0 else 0.0


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
