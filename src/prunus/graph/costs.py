"""The exact cost of a network with any subset of its units, without cutting it.

A mixing layer with `out` and `in` channels left costs
params = out·in·taps/groups + out·[bias],  MACs = positions·out·in·taps/groups;
a depthwise or normalising layer costs its own parameters per channel. Bytes are those of the weight
file: each tensor at its element size, including buffers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

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
    plain_attention,
    private_copy,
    without_checkpoints,
)

__all__ = ["Layer", "count_inputs", "count_macs", "find_layers", "raw_layer"]

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
    norm's counter).
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

    def params(self, out: int, in_: int) -> int:
        """Return the parameters left with `out` and `in_` channels."""
        return self._kernel(out, in_) + out * self.per_out

    def macs(self, out: int, in_: int) -> int:
        """Return the multiply-accumulates per example with `out` and `in_` channels."""
        return self.positions * self._kernel(out, in_)

    def bytes(self, out: int, in_: int, arriving: int) -> int:
        """Return the bytes left with `out` and `in_` channels, when `arriving` channels arrive.

        A layer that reads fewer channels than arrive stores an index of those it reads
        (`SelectLinear`); one with no outputs stores nothing.
        """
        if out == 0:
            return 0
        index = in_ * INDEX_BYTES if in_ < arriving else 0
        own = out * self.bytes_per_out + self.bytes_once
        return self._kernel(out, in_) * self.element + own + index

    def _kernel(self, out: int, in_: int) -> int:
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


def find_layers(model: nn.Module, wide: nn.Module, seen: Probe) -> dict[str, Layer]:
    """Return the cost of every module with channels to cut, even of running statistics alone."""
    layers = {}
    for name, module in named_layers(wide):
        mixing = is_mixing(module)
        if not (mixing or is_depthwise(module) or isinstance(module, PASSING)):
            continue
        own = [p for n, p in module.named_parameters(recurse=False)]
        saved: dict[str, Tensor] = module.state_dict()
        kernels = {"weight"} if mixing or is_depthwise(module) else set()
        width = channel_count(module, "out")
        taps = int(np.prod(module.kernel_size)) if isinstance(module, CONVOLUTIONS) else int(mixing)
        kernel = module.get_parameter("weight").numel() if mixing or is_depthwise(module) else 0
        layers[name] = Layer(
            kind=type(module_at(model, name)).__name__,
            out=width,
            in_=channel_count(module, "in") if mixing or is_depthwise(module) else width,
            taps=taps,
            groups=getattr(module, "groups", 1) if mixing else 1,
            per_out=(sum(p.numel() for p in own) - kernel) // width,
            positions=seen.positions[name],
            mixing=mixing,
            element=saved["weight"].element_size() if kernels else 0,
            bytes_per_out=sum(
                t.numel() * t.element_size()
                for n, t in saved.items()
                if n not in kernels and t.dim() > 0  # a counter of batches has no channels
            )
            // width,
            bytes_once=sum(t.numel() * t.element_size() for t in saved.values() if t.dim() == 0),
        )
    return layers


def count_macs(model: nn.Module, example: Tensor) -> int:
    """Return the multiply-accumulates of one forward pass of one image (half its FLOPs).

    Counted by PyTorch's operator counter on a copy without storage, so functional operations and
    products of activations are included, and nothing is computed. Normalisation, pooling and
    activations count 0. PyTorch's fused transformer layers are disabled, because it does not count
    them.
    """
    ghost = private_copy(model).to("meta").eval()
    one = torch.empty((1, *example.shape[1:]), device="meta", dtype=example.dtype)
    with (
        FlopCounterMode(display=False) as counter, torch.no_grad(), plain_attention(),
        without_checkpoints(),
    ):  # fmt: skip
        ghost(one)
    return int(counter.get_total_flops()) // 2


def count_inputs(model: nn.Module, name: str, layer: Layer) -> int:
    """Return how many incoming channels a module actually reads."""
    module = module_at(model, name)
    return len(module.index) if isinstance(module, SelectLinear) else layer.in_
