"""The exact cost of a network with any subset of its units, without cutting it.

A mixing layer with `out` and `in` channels left costs
params = out·in·taps/groups + out·[bias],  MACs = positions·out·in·taps/groups;
a depthwise or normalising layer costs its own parameters per channel. Bytes are those of the weight
file: each tensor at its element size, including buffers.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from prunus.graph.probe import Probe
from prunus.modules import (
    CONVOLUTIONS,
    PASSING,
    RawAxis,
    SelectLinear,
    channel_count,
    is_depthwise,
    is_mixing,
    module_at,
    named_layers,
)

__all__ = ["Layer", "count_bytes", "count_inputs", "find_layers", "raw_layer"]

#: Bytes of one entry of `SelectLinear.index`.
INDEX_BYTES = torch.int32.itemsize


@dataclass(frozen=True, kw_only=True)
class Layer:
    """The cost of one module as a function of the channels it keeps.

    `positions` is how often its kernel is applied to one example (H·W of the output, times the
    calls); `taps` the kernel's size; `per_out` the parameters per channel other than the kernel's
    (bias, or a norm's scale and shift); `element` the bytes of one number of the kernel;
    `bytes_per_out` the bytes per channel of everything but the kernel (including running
    statistics); `bytes_once` the bytes that do not depend on channels and go with the last one (a
    norm's counter); `learnt` the parameters for each number of the kernel: 0 where another layer
    holds them, 2 with a learnt mask.
    """

    kind: str
    out: int
    in_: int
    taps: int
    groups: int
    per_out: int
    positions: int
    mixing: bool
    element: int
    bytes_per_out: int
    bytes_once: int = 0
    learnt: int = 1

    def params(self, out: int, in_: int) -> int:
        """Return the parameters left with `out` and `in_` channels."""
        return self.kernel(out, in_) * self.learnt + out * self.per_out

    def macs(self, out: int, in_: int) -> int:
        """Return the multiply-accumulates per example with `out` and `in_` channels."""
        return self.positions * self.kernel(out, in_)

    def bytes(self, out: int, in_: int, arriving: int) -> int:
        """Return the bytes left with `out` and `in_` channels, when `arriving` channels arrive.

        A layer that reads fewer channels than arrive stores an index of those it reads
        (`SelectLinear`); one with no outputs stores nothing.
        """
        if out == 0:
            return 0
        index = in_ * INDEX_BYTES if in_ < arriving else 0
        own = out * self.bytes_per_out + self.bytes_once
        return self.kernel(out, in_) * self.element + own + index

    def kernel(self, out: int, in_: int) -> int:
        """Return the numbers of the kernel with `out` and `in_` channels."""
        if self.mixing:
            return out * in_ * self.taps // self.groups
        return out * self.taps


def raw_layer(axis: RawAxis) -> Layer:
    """Return the cost of a parameter or buffer outside any module by one of its axes.

    A numeric attribute of a module costs nothing.
    """
    tensor = getattr(axis.owner, axis.key)
    learnt = isinstance(tensor, nn.Parameter)
    each = tensor.numel() // axis.num_channels if isinstance(tensor, Tensor) else 0
    return Layer(
        kind="Parameter" if learnt else "Buffer" if each else "Number",
        out=axis.num_channels,
        in_=axis.num_channels,
        taps=0,
        groups=1,
        per_out=each if learnt else 0,
        positions=0,
        mixing=False,
        element=0,
        bytes_per_out=each * tensor.element_size() if each else 0,
    )


def find_layers(
    model: nn.Module, wide: nn.Module, seen: Probe, members: Collection[str] = ()
) -> dict[str, Layer]:
    """Return the cost of every module with channels to cut, even of running statistics alone.

    `members` are the names of all that is cut, among them axes of parameters (`RawAxis`). A tensor
    that several layers share counts for one of them: as the kernel of a layer if it is one,
    because a kernel shrinks along both axes.
    """
    raw = {n: m for n in sorted(members) if isinstance(m := module_at(wide, n), RawAxis)}
    counted: set[int] = set()

    def take(tensors: list[Tensor]) -> list[Tensor]:
        """Return those that no layer has counted yet."""
        fresh = list({id(t): t for t in tensors if id(t) not in counted}.values())
        counted.update(map(id, fresh))
        return fresh

    every = list(named_layers(wide, seen.functional))
    found = [(n, m) for n, m in every if is_mixing(m) or is_depthwise(m)]
    kernels = {name: take(_kernel(name, module, raw)) for name, module in found}
    layers = {}
    for name, module in every:
        if not (name in kernels or isinstance(module, PASSING)):
            continue
        saved: dict[str, Tensor] = module.state_dict(keep_vars=True)
        rest = take([t for n, t in saved.items() if "." not in n and _is_own(module, n)])
        width = channel_count(module, "out")
        mixing, kernel = is_mixing(module), kernels.get(name, [])
        taps = int(np.prod(module.kernel_size)) if isinstance(module, CONVOLUTIONS) else int(mixing)
        layers[name] = Layer(
            kind=type_before_parametrizations(module_at(model, name)).__name__,
            out=width,
            in_=channel_count(module, "in") if name in kernels else width,
            taps=taps,
            groups=getattr(module, "groups", 1) if mixing else 1,
            per_out=sum(t.numel() for t in rest if isinstance(t, nn.Parameter)) // max(width, 1),
            positions=seen.positions[name],
            mixing=mixing,
            element=sum(t.element_size() for t in kernel),
            bytes_per_out=sum(
                t.numel() * t.element_size()
                for t in rest
                if t.dim() > 0  # a counter of batches has no channels
            )
            // max(width, 1),
            bytes_once=sum(t.numel() * t.element_size() for t in rest if t.dim() == 0),
            learnt=sum(isinstance(t, nn.Parameter) for t in kernel) if name in kernels else 1,
        )
    for name, axis in raw.items():
        layer = raw_layer(axis)
        tensor = getattr(axis.owner, axis.key)
        if isinstance(tensor, Tensor) and id(tensor) in counted:
            layer = replace(layer, per_out=0, bytes_per_out=0)
        layers[name] = layer
        counted.update([id(tensor)] if isinstance(tensor, Tensor) else [])
    return layers


def _kernel(name: str, module: nn.Module, raw: dict[str, RawAxis]) -> list[Tensor]:
    """Return the weight of a layer, and what of its shape is cut along with it: masks."""
    weight = module.get_parameter("weight")
    masks = [
        tensor
        for key, tensor in module.state_dict(keep_vars=True).items()
        if "." not in key and tensor.shape == weight.shape and tensor is not weight
        if f"{name}.{key}:0" in raw or f"{name}.{key}:1" in raw
    ]
    return [weight, *masks]


def _is_own(module: nn.Module, key: str) -> bool:
    """Return whether a tensor of a layer has one entry for each of its channels, by its kind.

    Of what subclasses add to convolutions and linear layers, each axis is cut by itself.
    """
    return isinstance(module, PASSING) or key == "bias"


def count_bytes(model: nn.Module) -> int:
    """Return the bytes of all parameters and buffers that are saved; a shared one counts once."""
    saved = {id(t): t for t in model.state_dict(keep_vars=True).values()}
    return sum(t.numel() * t.element_size() for t in saved.values())


def count_inputs(model: nn.Module, name: str, layer: Layer) -> int:
    """Return how many incoming channels a module actually reads."""
    module = module_at(model, name)
    return len(module.index) if isinstance(module, SelectLinear) else layer.in_
