"""Placeholders for a convolution and its norm that have no channels left."""

# No `from __future__ import annotations`: TorchScript reads those of `Empty`.

from typing import cast

import torch
from torch import Tensor, nn

from prunus.modules.kinds import (
    BATCHNORMS,
    CONVOLUTIONS,
    INSTANCENORMS,
    TRANSPOSED,
    has_own_forward,
)

__all__ = ["Empty", "EmptyNorm", "can_be_empty", "emptied", "former_of"]


class Empty(nn.Module):
    """A module with no output channels that replaces a convolution.

    Shapes: (B, C, *spatial) → (B, 0, *spatial′), spatial′ = ⌊(n + 2·padding − dilation·(kernel −
    1) − 1) / stride⌋ + 1 along each side, as for the convolution. It has no parameters and uses
    only the size of its input.

    Attributes:
        former: the convolution without its tensors, for `undo_`; it is not a submodule.
    """

    steps: list[tuple[int, int, int, int]]

    def __init__(self, convolution: nn.Module) -> None:
        """Take the place of `convolution`, which loses its tensors."""
        super().__init__()
        self.former = (_hollow_(convolution),)
        self.in_channels, self.out_channels = int(convolution.in_channels), 0  # type: ignore[arg-type]
        old = cast("nn.Conv2d", convolution)
        self.axes, self.steps = len(old.kernel_size), _steps(old)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of no channels."""
        sides = list(x.shape[-self.axes :])
        for i in range(len(self.steps)):
            kernel, stride, padding, dilation = self.steps[i]
            sides[i] = (sides[i] + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        # Not computed from x: a trace of x must not see this as one of its consumers.
        sizes = list(x.shape[: -self.axes - 1]) + [0] + sides  # noqa: RUF005 - for TorchScript
        return torch.zeros(sizes, dtype=x.dtype, device=x.device)

    def extra_repr(self) -> str:
        """Return the type and kernel of the replaced convolution."""
        old = cast("nn.Conv2d", self.former[0])
        return f"{type(old).__name__} of {old.kernel_size}"


def _steps(convolution: nn.Conv2d) -> list[tuple[int, int, int, int]]:
    """Return kernel, stride, padding and dilation along each side; none where sides stay."""
    if convolution.padding == "same":
        return []
    axes = len(convolution.kernel_size)
    padding = (0,) * axes if isinstance(convolution.padding, str) else convolution.padding
    kernel, stride, dilation = convolution.kernel_size, convolution.stride, convolution.dilation
    return list(zip(kernel, stride, padding, dilation, strict=True))


class EmptyNorm(nn.Identity):
    """The identity, in place of a norm (or a PReLU) whose channels have all been removed."""

    def __init__(self, norm: nn.Module) -> None:
        """Take the place of `norm`, which loses its tensors."""
        super().__init__()
        self.former = (_hollow_(norm),)


def can_be_empty(module: nn.Module) -> bool:
    """Return whether all channels that a module makes (or passes on) may be removed."""
    if isinstance(module, CONVOLUTIONS):
        plain = module.groups == 1 and not isinstance(module, TRANSPOSED)
        return plain and not has_own_forward(module)
    return isinstance(module, (BATCHNORMS, INSTANCENORMS, nn.PReLU))


def emptied(module: nn.Module) -> nn.Module:
    """Return the replacement of a module whose channels have all been removed."""
    made = Empty(module) if isinstance(module, CONVOLUTIONS) else EmptyNorm(module)
    return made.train(module.training)


def former_of(module: nn.Module) -> nn.Module | None:
    """Return the module, without its tensors, that this one replaces, or None."""
    return module.former[0] if isinstance(module, (Empty, EmptyNorm)) else None


def _hollow_(module: nn.Module) -> nn.Module:
    """Shrink the tensors of a module to size 0, keeping their type, device and gradient flag."""
    for name, parameter in list(module.named_parameters(recurse=False)):
        nothing = parameter.detach().new_empty(0)
        setattr(module, name, nn.Parameter(nothing, parameter.requires_grad))
    for name, buffer in list(module.named_buffers(recurse=False)):
        if buffer.dim():
            setattr(module, name, buffer.new_empty(0))
    return module
