"""Copies of a user's network, including networks that keep results of their last forward pass."""

from __future__ import annotations

import copy
import types
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from prunus.core import TraceError

__all__ = ["private_copy"]

M = TypeVar("M", bound=nn.Module)


def private_copy(model: M) -> M:
    """Return a copy of a network that shares nothing with it; the network is left as it is.

    Tensors that a forward pass has cached in it with their gradient graph (attention biases of
    LeViT, the weight of an old weight norm), which PyTorch refuses to copy, are copied without the
    graph. Functions that refer to the network (a hook that closes over one of its layers) refer to
    the copy instead.

    Raises:
        TraceError: something in the network cannot be copied.
    """
    try:
        memo: dict[int, Any] = {}
        with torch.no_grad(), _Detaching():  # copies of scripted parameters are leaves
            made = copy.deepcopy(model, memo)
        for module in made.modules():
            _rebind_(vars(module), memo)
        return made
    except Exception as error:  # third-party modules can raise anything
        text = str(error).strip().splitlines()
        raise TraceError(
            f"{type(model).__name__} cannot be copied ({type(error).__name__}: "
            f"{text[0] if text else 'no text'}): keep nothing in the network that copy.deepcopy "
            "refuses"
        ) from error


def _rebind_(held: dict[Any, Any], memo: dict[int, Any]) -> None:
    """Let the functions in `held` and the dictionaries in it refer to copies, in place."""
    for key, value in list(held.items()):
        if isinstance(value, types.FunctionType):
            held[key] = _rebound(value, memo)
        elif isinstance(value, dict):
            _rebind_(value, memo)
        elif isinstance(value, list):
            value[:] = [
                _rebound(f, memo) if isinstance(f, types.FunctionType) else f for f in value
            ]


def _rebound(function: types.FunctionType, memo: dict[int, Any]) -> types.FunctionType:
    """Return a function whose closure and defaults refer to the copies of what was copied."""
    cells = function.__closure__ or ()
    try:
        content = [cell.cell_contents for cell in cells]
    except ValueError:  # a cell that is still empty
        return function
    given = [*content, *(function.__defaults__ or ())]
    if not any(id(value) in memo and memo[id(value)] is not value for value in given):
        return function
    made = types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        tuple(memo.get(id(value), value) for value in function.__defaults__ or ()) or None,
        tuple(types.CellType(memo.get(id(value), value)) for value in content),
    )
    made.__dict__.update(function.__dict__)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


class _Detaching(TorchFunctionMode):
    """Copies the values of tensors that have a gradient graph."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            return args[0].detach().clone()
        return func(*args, **(kwargs or {}))
