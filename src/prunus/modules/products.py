"""What layers make of their input before anything else happens to it: W·x + b."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

__all__ = ["PRODUCTS", "Products"]

#: The functions of convolutions and linear layers: (input, weight, …).
PRODUCTS = frozenset({
    F.linear, F.conv1d, F.conv2d, F.conv3d,
    F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d,
})  # fmt: skip


class Products(TorchFunctionMode):
    """Shows every product of an input and a weight, as soon as it is computed.

    A layer's output is that product, except where its forward pass goes on: with a norm or an
    activation that it holds, or with a second branch. Enter it before `Calling`.
    """

    def __init__(self, seen: Callable[[Tensor, Tensor], None]) -> None:
        """Call `seen` with each weight and its product."""
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
            if isinstance(weight, Tensor):
                self.seen(weight, made)
        return made
