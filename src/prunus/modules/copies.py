"""Copies of a user's network, including networks that keep results of their last forward pass."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from prunus.core import TraceError

__all__ = ["private_copy"]

M = TypeVar("M", bound=nn.Module)


def private_copy(model: M) -> M:
    """Return a copy of a network that shares nothing with it; the network is left as it is.

    Tensors that a forward pass has cached in it with their gradient graph (attention biases of
    LeViT, the weight of an old weight norm), which PyTorch refuses to copy, are copied without the
    graph.

    Raises:
        TraceError: something in the network cannot be copied.
    """
    try:
        with _Detaching():
            return copy.deepcopy(model)
    except Exception as error:  # third-party modules can raise anything
        text = str(error).strip().splitlines()
        raise TraceError(
            f"{type(model).__name__} cannot be copied ({type(error).__name__}: "
            f"{text[0] if text else 'no text'}): keep nothing in the network that copy.deepcopy "
            "refuses"
        ) from error


class _Detaching(TorchFunctionMode):
    """Copies the values of tensors that have a gradient graph."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            return args[0].detach().clone()
        return func(*args, **(kwargs or {}))
