"""The kinds of modules there are for pruning, and how many channels each has."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

__all__ = [
    "BATCHNORMS",
    "CONVOLUTIONS",
    "PASSING",
    "TRANSPOSED",
    "channel_count",
    "input_columns",
    "is_depthwise",
    "is_mixing",
]

CONVOLUTIONS = nn.modules.conv._ConvNd
TRANSPOSED = nn.modules.conv._ConvTransposeNd
BATCHNORMS = nn.modules.batchnorm._BatchNorm

#: Modules with parameters a channel that pass each channel on by itself.
PASSING = (BATCHNORMS, nn.LayerNorm, nn.PReLU, nn.modules.instancenorm._InstanceNorm)


def is_depthwise(module: nn.Module) -> bool:
    """Tell whether a convolution has one filter a channel: its outputs are its inputs, filtered."""
    return (
        isinstance(module, CONVOLUTIONS)
        and module.groups > 1
        and module.groups == module.in_channels == module.out_channels
    )


def is_mixing(module: nn.Module) -> bool:
    """Tell whether a module computes each output from many input channels."""
    return isinstance(module, (CONVOLUTIONS, nn.Linear)) and not is_depthwise(module)


def channel_count(module: nn.Module, axis: str) -> int:
    """Return the channels of a module's `out` or `in` axis."""
    names = {
        "out": ("out_channels", "out_features", "num_features", "num_parameters"),
        "in": ("in_channels", "in_features"),
    }[axis]
    for name in names:
        if hasattr(module, name):
            return int(getattr(module, name))
    return int(cast(nn.LayerNorm, module).normalized_shape[-1])


def input_columns(module: nn.Module) -> Tensor:
    """Return the weight of a mixing module by incoming channel: (in, outputs × taps).

    A grouped convolution's is written out in full, with zeros where it does not connect.
    """
    weight = module.get_parameter("weight").detach()
    groups = getattr(module, "groups", 1)
    if isinstance(module, TRANSPOSED):
        rows = weight.flatten(1)  # (I, O/g·t)
    elif groups == 1:
        return weight.transpose(0, 1).flatten(1)
    else:
        split = weight.view(groups, -1, *weight.shape[1:]).transpose(1, 2)  # (g, I/g, O/g, taps…)
        rows = split.flatten(0, 1).flatten(1)  # (I, O/g·t)
    if groups == 1:
        return rows
    full = rows.new_zeros(groups, len(rows) // groups, groups, rows.shape[1])
    each = torch.arange(groups, device=rows.device)
    full[each, :, each] = rows.view(groups, -1, rows.shape[1])
    return full.flatten(0, 1).flatten(1)
