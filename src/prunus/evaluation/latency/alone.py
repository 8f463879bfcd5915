"""One layer in isolation: rebuilt at other widths, called, keyed by what its time depends on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from prunus.modules import CONVOLUTIONS, TRANSPOSED, SelectLinear, channel_count, is_depthwise

__all__ = ["Shape", "TimedCall", "gather_at", "gather_key", "layer_at", "layer_key"]

#: The public class of each convolution; a subclass's own constructor may take other arguments.
_CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
Shape = tuple[int, ...]
#: A layer as it runs in a network: its key, the module, and the shape of its input.
TimedCall = tuple[str, tuple[nn.Module, Shape]]


def layer_key(module: nn.Module, shape: Shape) -> str:
    """Describe a layer and its input."""
    size = "×".join(map(str, shape))
    if not isinstance(module, CONVOLUTIONS):
        return f"Linear({module.in_features}, {module.out_features}) on {size}"
    extra = "" if module.bias is None else ", bias"
    extra += f", output_padding={module.output_padding}" if isinstance(module, TRANSPOSED) else ""
    return (
        f"{_plain(module).__name__}({module.in_channels}, {module.out_channels}, "
        f"{module.kernel_size}, stride={module.stride}, padding={module.padding}, "
        f"dilation={module.dilation}, groups={module.groups}, {module.padding_mode}{extra}) "
        f"on {size}"
    )


def layer_at(module: nn.Module, shape: Shape, out: int, in_: int) -> tuple[nn.Module, Tensor]:
    """Return a layer like `module` with `out` and `in_` channels, random, and an input for it."""
    if isinstance(module, CONVOLUTIONS):
        options: dict[str, Any] = {
            "stride": module.stride,
            "padding": module.padding,
            "dilation": module.dilation,
            "groups": module.groups,
            "bias": module.bias is not None,
            "padding_mode": module.padding_mode,
        }
        if isinstance(module, TRANSPOSED):
            options["output_padding"] = module.output_padding
        if is_depthwise(module):
            in_, options["groups"] = out, out
        new = _plain(module)(in_, out, module.kernel_size, **options)
        size = (shape[0], in_, *shape[2:])
    else:
        new = nn.Linear(in_, out, bias=module.bias is not None)
        size = (*shape[:-1], in_)
    dtype = module.get_parameter("weight").dtype
    return new.to(dtype).eval(), torch.randn(size).to(dtype)


def gather_key(module: nn.Module, shape: Shape) -> str:
    """Describe the selection of inputs before a linear layer."""
    return f"index_select({incoming(module)}) on {'×'.join(map(str, shape))}"


def gather_at(
    module: nn.Module, shape: Shape, kept: int
) -> tuple[Callable[[Tensor], object], Tensor]:
    """Return a call that selects `kept` spread features as `SelectLinear` does, and an input."""
    dtype = module.get_parameter("weight").dtype
    index = torch.linspace(0, incoming(module) - 1, kept).to(torch.int32)
    x = torch.randn(*shape[:-1], incoming(module)).to(dtype)
    return lambda x: x.index_select(-1, index), x


def incoming(module: nn.Module) -> int:
    """Return the number of features that reach a linear layer, whether it reads them or not."""
    return module.incoming if isinstance(module, SelectLinear) else channel_count(module, "in")


def _plain(module: nn.Module) -> type[nn.Module]:
    return next(kind for kind in _CONVOLUTIONS if isinstance(module, kind))
