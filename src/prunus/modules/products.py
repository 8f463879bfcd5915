"""What layers make of their input before anything else happens to it: W·x + b."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

__all__ = ["PRODUCTS", "Products", "WeightProduct", "product_of"]

#: The functions of convolutions and linear layers: (input, weight, …).
PRODUCTS = frozenset({
    F.linear, F.conv1d, F.conv2d, F.conv3d,
    F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d,
})  # fmt: skip


_CONVOLVED = frozenset({F.conv1d, F.conv2d, F.conv3d})
_MULTIPLIED = frozenset({torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm})


@dataclass(frozen=True, eq=False)
class WeightProduct:
    """One product of an input and a weight, as a function was given it.

    The weight is (out, in, …), or (in, out) if it is `turned`. `settings` are a convolution's
    stride, padding and dilation.
    """

    input: Tensor
    weight: Tensor
    bias: Tensor | None
    turned: bool = False
    settings: tuple[Any, ...] = ()
    groups: int = 1

    @property
    def function(self) -> str:
        """The name of the function, for messages."""
        if self.settings:
            return f"conv{self.weight.dim() - 2}d"
        return "matmul" if self.turned else "linear"

    @property
    def plain(self) -> bool:
        """Whether a layer without groups computes it."""
        rank = self.weight.dim()
        if self.settings:
            deep, channels = self.input.dim() == rank, self.input.shape[1]
        else:
            deep, channels = rank == 2 <= self.input.dim(), self.input.shape[-1]
        return deep and self.groups == 1 and channels == self.weight.shape[0 if self.turned else 1]

    def fits(self, layer: Any) -> bool:
        """Return whether a layer with this weight computes it as it is set."""
        if not self.settings:
            return isinstance(layer, nn.Linear)
        own = layer.stride, layer.padding, layer.dilation
        rank = self.weight.dim() - 2
        return (
            layer.groups == self.groups
            and layer.padding_mode == "zeros"
            and self.input.dim() == self.weight.dim()
            and all(
                _each(a, rank) == _each(b, rank) for a, b in zip(own, self.settings, strict=True)
            )
        )

    def set_(self, layer: Any) -> None:
        """Give a convolution the settings that the function was given."""
        if self.settings:
            rank = self.weight.dim() - 2
            layer.stride, layer.padding, layer.dilation = (_each(s, rank) for s in self.settings)

    def added(self, made: Tensor) -> Tensor:
        """Return a product with the bias that the function adds."""
        if self.bias is None:
            return made
        return made + (self.bias.view(-1, *[1] * (made.dim() - 2)) if self.settings else self.bias)


def _each(setting: Any, rank: int) -> Any:
    """Return a setting of a convolution as it is for each axis."""
    if isinstance(setting, str):
        return setting
    many = tuple(setting) if isinstance(setting, (tuple, list)) else (setting,)
    return many * rank if len(many) == 1 else many


def product_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> WeightProduct | None:
    """Return what a function multiplies, if it is a product of an input and a weight."""
    try:
        return _product(func, args, kwargs)
    except TypeError:  # arguments that the function itself will refuse
        return None


def _product(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> WeightProduct | None:
    if func is F.linear:
        return _linear(*args, **kwargs)
    if func in _CONVOLVED:
        return _convolved(*args, **kwargs)
    if func in _MULTIPLIED:
        return _multiplied(*args, **kwargs)
    if func in (torch.addmm, Tensor.addmm):
        return _added(*args, **kwargs)
    return None


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> WeightProduct:  # noqa: A002
    return WeightProduct(input, weight, bias)


def _convolved(
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> WeightProduct:
    return WeightProduct(input, weight, bias, False, (stride, padding, dilation), groups)


def _multiplied(
    input: Tensor,  # noqa: A002
    other: Tensor | None = None,
    mat2: Tensor | None = None,
) -> WeightProduct | None:
    weight = other if other is not None else mat2
    if weight is None or weight.dim() != 2 or input.dim() < 2:
        return None
    return WeightProduct(input, weight, None, turned=True)


def _added(
    input: Tensor,  # noqa: A002
    mat1: Tensor,
    mat2: Tensor,
    beta: Any = 1,
    alpha: Any = 1,
) -> WeightProduct | None:
    return WeightProduct(mat1, mat2, input, turned=True) if beta == alpha == 1 else None


class Products(TorchFunctionMode):
    """Shows every product of an input and a weight, as soon as it is computed.

    A layer's output is that product, except where its forward pass goes on: with a norm or an
    activation that it holds, or with a second branch. Enter it before `Calling`.
    """

    def __init__(self, seen: Callable[[Tensor, Tensor], None]) -> None:
        """Call `seen` with each input and its product."""
        super().__init__()
        self.seen = seen

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the function; show its result if it is a product."""
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        if func in PRODUCTS:
            weight = args[1] if len(args) > 1 else kwargs.get("weight")
            read = args[0] if args else kwargs.get("input")
            if isinstance(weight, Tensor) and isinstance(read, Tensor):
                self.seen(read, made)
        return made
