"""Kinds of modules as pruning sees them, and the number of channels of each."""

from __future__ import annotations

import contextlib
import copy
import math
from math import prod
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from prunus.modules.attention import in_projection, is_packed
from prunus.modules.functional import functional_layer
from prunus.modules.reparametrised import weight_of

__all__ = [
    "BATCHNORMS",
    "CONVOLUTIONS",
    "INSTANCENORMS",
    "PASSING",
    "TRANSPOSED",
    "RawAxis",
    "channel_count",
    "exchange_",
    "has_own_forward",
    "input_columns",
    "is_depthwise",
    "is_mixing",
    "is_written_norm",
    "module_at",
    "quotas",
    "set_input_columns_",
    "shared_layers",
]

CONVOLUTIONS = nn.modules.conv._ConvNd
TRANSPOSED = nn.modules.conv._ConvTransposeNd
BATCHNORMS = nn.modules.batchnorm._BatchNorm

#: Modules with parameters per channel that process each channel independently.
INSTANCENORMS = nn.modules.instancenorm._InstanceNorm
PASSING = (BATCHNORMS, nn.LayerNorm, nn.GroupNorm, nn.PReLU, INSTANCENORMS)


def is_depthwise(module: nn.Module) -> bool:
    """Return whether a convolution has one filter per channel and filters each input alone."""
    return (
        isinstance(module, CONVOLUTIONS)
        and module.groups > 1
        and module.groups == module.in_channels == module.out_channels
    )


def is_mixing(module: nn.Module) -> bool:
    """Return whether a module computes each output from many input channels."""
    return isinstance(module, (CONVOLUTIONS, nn.Linear)) and not is_depthwise(module)


def has_own_forward(module: nn.Module) -> bool:
    """Return whether a convolution is a subclass with its own forward computation.

    Weight standardisation, for example, averages over the input channels, so their number matters.
    """
    kind = type(module)
    own = not kind.__module__.startswith("torch.nn.")
    return (
        isinstance(module, CONVOLUTIONS)
        and own
        and "forward"
        in {
            key
            for base in kind.__mro__
            if not base.__module__.startswith("torch.")
            for key in vars(base)
        }
    )


def is_written_norm(module: nn.Module) -> bool:
    """Return whether a module is a custom norm, judged by its parameters and by what it does.

    It has a scale, and perhaps a shift, for each channel, and no layer that mixes channels; and its
    name says so, or it computes what norms do. Its reductions over channels (a mean, a root mean
    square) run over the channels that are left.
    """
    if isinstance(module, (*PASSING, RawAxis)):
        return False
    own = list(module.parameters(recurse=False))
    widths = {p.numel() for p in own if max(p.shape, default=0) == p.numel()}
    if not own or len(widths) != 1 or any(p.numel() not in widths for p in own):
        return False
    if any(isinstance(m, (CONVOLUTIONS, nn.Linear)) for m in module.modules()):
        return False
    return "norm" in type(module).__name__.lower() or _normalises(module, widths.pop())


#: Whether modules that may be norms are some.
_NORMS: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def _normalises(module: nn.Module, width: int) -> bool:
    """Return whether a module computes what norms do, by trying it on tokens and on maps."""
    if module not in _NORMS:
        found = False
        twin = copy.deepcopy(module).eval()
        for part in twin.modules():
            part._forward_hooks.clear()
            part._forward_pre_hooks.clear()
        like = next(twin.parameters(recurse=False))
        noise = torch.rand(2, 3, width, 5, generator=torch.Generator().manual_seed(0)) + 0.5
        for parameter in twin.parameters(recurse=False):  # many start with a scale of zeros
            parameter.data = noise.flatten()[: parameter.numel()].view(parameter.shape).to(like)
        shapes = (2, 3, width), (2, 3, 5, width), (2, width, 5), (2, width, 3, 5)
        for shape in shapes:
            axis = 1 if shape[1] == width else len(shape) - 1
            x = noise.flatten()[: math.prod(shape)].view(shape).to(like)
            with contextlib.suppress(Exception), torch.no_grad():  # it may take no such input
                found |= _is_norm(twin, x, axis)
        _NORMS[module] = found
    return _NORMS[module]


def _is_norm(module: nn.Module, x: Tensor, axis: int) -> bool:
    """Return whether another first channel changes the others, and the input's scale is no matter.

    Apart from what it makes of zeros, its output does not change with the scale of x, or only in
    proportion to it; a gate's does in other ways.
    """
    changed = x.clone()
    changed.narrow(axis, 0, 1).mul_(3)
    shift, one, other, twice = (module.forward(y) for y in (x * 0, x, changed, 2 * x))
    if not isinstance(one, Tensor) or one.shape != x.shape:
        return False
    size = float((one - shift).abs().max())
    rest = (one - other).narrow(axis, 1, x.shape[axis] - 1)
    even = min(float((twice - shift - k * (one - shift)).abs().max()) for k in (1, 2))
    return float(rest.abs().max()) > 1e-4 * size and even < 1e-2 * size


def channel_count(module: nn.Module, axis: str) -> int:
    """Return the channels of a module's `out` or `in` axis."""
    names = {
        "out": ("out_channels", "out_features", "num_features", "num_channels", "num_parameters"),
        "in": ("in_channels", "in_features"),
    }[axis]
    for name in names:
        if hasattr(module, name):
            return int(getattr(module, name))
    return int(cast(nn.LayerNorm, module).normalized_shape[-1])


class RawAxis(nn.Module):
    """A width that no module type covers, treated as a module with channels.

    Either one axis of a parameter or buffer, which is cut by slicing, or (`dim` is None) a number
    of a module that its forward pass reads: heads, a width in a reshape. `key` is the
    parameter's or the number's name in `owner`.
    """

    owner: nn.Module

    def __init__(self, owner: nn.Module, key: str, dim: int | None) -> None:
        """Refer to a width without registering or copying anything."""
        super().__init__()
        object.__setattr__(self, "owner", owner)
        self.key, self.dim = key, dim

    @property
    def num_channels(self) -> int:
        """The width."""
        value = getattr(self.owner, self.key)
        return int(value if self.dim is None else value.shape[self.dim])


def module_at(model: nn.Module, name: str) -> nn.Module:
    """Return a module, or what `of.module.parameter:axis` or `of.module:number` refers to.

    `of.attention.in_proj` is the linear layer in the parameters of an `nn.MultiheadAttention`;
    `of.module.parameter` and `of.module.parameter.T` are those in a parameter (`functional`).

    Raises:
        AttributeError: it does not exist.
    """
    path, colon, last = name.rpartition(":")
    if not colon:
        parent, _, leaf = name.rpartition(".")
        if leaf == "in_proj" and is_packed(owner := model.get_submodule(parent)):
            return in_projection(owner)
        try:
            return model.get_submodule(name)
        except AttributeError:
            return cast(nn.Module, functional_layer(model, name))
    if not last.isdecimal():
        owner = model.get_submodule(path)
        if not isinstance(getattr(owner, last), int):
            raise AttributeError(f"{last!r} of {path!r} is not a number")
        return RawAxis(owner, last, None)
    parent, _, leaf = path.rpartition(".")
    owner = model.get_submodule(parent)
    if not isinstance(getattr(owner, leaf), Tensor):
        raise AttributeError(f"{path!r} is not a parameter or buffer")
    return RawAxis(owner, leaf, int(last))


def exchange_(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the module at `name` by `module`, under every other name that it has as well."""
    old = model.get_submodule(name)
    for other, held in list(model.named_modules(remove_duplicate=False)):
        if held is old and held is not module:
            model.set_submodule(other, module)


def shared_layers(model: nn.Module) -> dict[str, str]:
    """Return the layers that share a parameter, each with another module that has it too."""
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    found: dict[str, str] = {}
    for names in owners.values():
        for name in names if len(names) > 1 else ():
            if is_mixing(module_at(model, name)) or is_depthwise(module_at(model, name)):
                found.setdefault(name, next(other for other in names if other != name))
    return found


def quotas(module: nn.Module) -> int:
    """Return the number of channel groups that must lose equally many channels: mostly 1."""
    if isinstance(module, nn.GroupNorm):
        return 1 if module.num_groups == module.num_channels else module.num_groups
    if isinstance(module, CONVOLUTIONS) and not is_depthwise(module):
        return int(module.groups)
    return 1


def input_columns(module: nn.Module) -> Tensor:
    """Return the weight of a mixing module by incoming channel: (in, outputs × taps).

    A grouped convolution's weight is expanded, with zeros where it has no connection.
    """
    own = _by_group(module, weight_of(module)).flatten(2)  # (g, I/g, O/g·t)
    groups = len(own)
    if groups == 1:
        return own[0]
    full = own.new_zeros(groups, own.shape[1], groups, own.shape[2])
    each = torch.arange(groups, device=own.device)
    full[each, :, each] = own
    return full.flatten(0, 1).flatten(1)


@torch.no_grad()
def set_input_columns_(module: nn.Module, columns: Tensor) -> None:
    """Write `columns`, as `input_columns` returns them, into the weight of a mixing module."""
    own = _by_group(module, module.get_parameter("weight"))  # a view: (g, I/g, O/g, taps)
    groups = len(own)
    each = torch.arange(groups, device=columns.device)
    full = columns.reshape(groups, own.shape[1], groups, -1)
    own.copy_(full[each, :, each].reshape(own.shape))


def _by_group(module: nn.Module, weight: Tensor) -> Tensor:
    """Return a weight as (conv groups, in of a group, outputs of a group, taps), a view."""
    groups = getattr(module, "groups", 1)
    taps = prod(weight.shape[2:])
    split = weight.view(groups, len(weight) // groups, weight.shape[1], taps)
    return split if isinstance(module, TRANSPOSED) else split.transpose(1, 2)
