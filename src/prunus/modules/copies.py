"""Copies of a user's network, including networks that keep results of their last forward pass."""

from __future__ import annotations

import contextlib
import copy
import functools
import types
from collections.abc import Iterable
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
    graph. Functions that lead to the network (a hook that closes over one of its layers, or reads
    it as a global) lead to the copy instead.

    Raises:
        TraceError: something in the network cannot be copied.
    """
    try:
        memo: dict[int, Any] = {}
        with torch.no_grad(), _Detaching():  # copies of scripted parameters are leaves
            made = copy.deepcopy(model, memo)
        rewiring = _Rewiring(memo)
        for module in made.modules():
            rewiring.wire(module)
        return made
    except Exception as error:  # third-party modules can raise anything
        text = str(error).strip().splitlines()
        raise TraceError(
            f"{type(model).__name__} cannot be copied ({type(error).__name__}: "
            f"{text[0] if text else 'no text'}): keep nothing in the network that copy.deepcopy "
            "refuses"
        ) from error


class _Rewiring:
    """Lets the functions in a copy refer to what was copied, not to the originals.

    `copy.deepcopy` shares functions, with all that they close over, and what they read of their
    module's globals.
    """

    def __init__(self, memo: dict[int, Any]) -> None:
        """Take the memo of the deep copy."""
        self.memo = memo
        self.made: dict[int, Any] = {}
        self.seen: set[int] = set()

    def wire(self, value: Any) -> Any:
        """Return a copied value, whose functions refer to copies; changes it in place if it can."""
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, functools.partial):
            new = self.wire(value.func), self.wire(value.args), self.wire(dict(value.keywords))
            return functools.partial(new[0], *new[1], **new[2])
        if type(value) is tuple:
            return tuple(self.wire(item) for item in value)
        if id(value) in self.seen or isinstance(value, (Tensor, type, types.ModuleType)):
            return value
        self.seen.add(id(value))
        held = value if isinstance(value, dict) else getattr(value, "__dict__", None)
        if isinstance(value, list):
            for at, item in enumerate(value):
                if (new := self.wire(item)) is not item:
                    value[at] = new
        elif isinstance(held, dict):
            for key, item in list(held.items()):
                if (new := self.wire(item)) is not item:
                    held[key] = new
        return value

    def _function(self, function: types.FunctionType) -> types.FunctionType:
        """Return a function whose closure, defaults and globals refer to copies."""
        if id(function) in self.made:
            made: types.FunctionType = self.made[id(function)]
            return made
        if not self.reaches(function, set()):
            return function
        cells = tuple(types.CellType() for _ in function.__closure__ or ())
        changed = {
            name: value for name, value in _globals_of(function).items()
            if self.reaches(value, set())
        }  # fmt: skip
        space = {**function.__globals__} if changed else function.__globals__
        made = types.FunctionType(function.__code__, space, function.__name__, None, cells)
        self.made[id(function)] = made
        space.update({name: self.copied(value) for name, value in changed.items()})
        for cell, old in zip(cells, function.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # a cell that is still empty
                cell.cell_contents = self.copied(old.cell_contents)
        made.__defaults__ = self.copied(function.__defaults__)
        made.__kwdefaults__ = self.copied(function.__kwdefaults__)
        made.__dict__.update(function.__dict__)
        return made

    def copied(self, value: Any) -> Any:
        """Return a copy of what leads to the network, or else the value itself."""
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if not self.reaches(value, set()):
            return value
        return self.wire(copy.deepcopy(value, self.memo))

    def reaches(self, value: Any, seen: set[int]) -> bool:
        """Return whether a value leads to a layer or a tensor that was copied."""
        if isinstance(value, (nn.Module, Tensor)) and id(value) in self.memo:
            return True
        if id(value) in seen or len(seen) > MOST or isinstance(value, (type, types.ModuleType)):
            return False
        seen.add(id(value))
        return any(self.reaches(item, seen) for item in _within(value))


#: Values that are looked at for one that leads to the network.
MOST = 10_000


def _within(value: Any) -> Iterable[Any]:
    """Return what a value holds."""
    if isinstance(value, types.FunctionType):
        held: list[Any] = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        for cell in value.__closure__ or ():
            with contextlib.suppress(ValueError):
                held.append(cell.cell_contents)
        return [*held, *_globals_of(value).values()]
    if isinstance(value, types.MethodType):
        return value.__self__, value.__func__
    if isinstance(value, functools.partial):
        return value.func, value.args, value.keywords
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, (list, tuple, set)):
        return list(value)
    if isinstance(value, Tensor):
        return ()
    return list(getattr(value, "__dict__", {}).values())


def _globals_of(function: types.FunctionType) -> dict[str, Any]:
    """Return the globals that a function of the user's own code reads."""
    if function.__module__ is None or function.__module__.partition(".")[0] in ("torch", "prunus"):
        return {}
    names, codes = set(), [function.__code__]
    while codes:
        code = codes.pop()
        names |= set(code.co_names)
        codes += [inner for inner in code.co_consts if isinstance(inner, types.CodeType)]
    return {name: function.__globals__[name] for name in names if name in function.__globals__}


class _Detaching(TorchFunctionMode):
    """Copies the values of tensors that have a gradient graph."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            return args[0].detach().clone()
        return func(*args, **(kwargs or {}))
