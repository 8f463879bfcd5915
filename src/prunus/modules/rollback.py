"""All or nothing: networks and optimisers are put back where a block of changes raises."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.optim import Optimizer

__all__ = ["Snapshot", "rolling_back", "same_bits"]

#: Containers whose content is put back; others are, as the objects that they were.
MAPPINGS: tuple[type, ...] = (dict, OrderedDict, defaultdict)
SEQUENCES: tuple[type, ...] = (list, deque)


@contextmanager
def rolling_back(*things: nn.Module | Optimizer) -> Iterator[Snapshot]:
    """Put networks and optimisers back into the state that they had, where the block raises.

    Whatever it raises (an interruption, too): modules, their classes, modes, hooks and attributes,
    what lists and dictionaries in them hold, and every tensor with its storage, its gradient and
    whether it needs one are then the objects that they were. References are kept, not copies: a
    block that replaces tensors needs nothing else. Of the tensors that it writes into, the values
    are brought back where they were handed to `Snapshot.keep` before.

    Example:
        >>> net = nn.Linear(2, 3)
        >>> weight = net.weight
        >>> try:
        ...     with rolling_back(net):
        ...         net.weight, net.out_features = nn.Parameter(weight[:1]), 1
        ...         raise MemoryError
        ... except MemoryError:
        ...     net.weight is weight, net.out_features
        (True, 3)
    """
    before = Snapshot(things)
    try:
        yield before
    except BaseException:
        try:
            before.restore()
        except BaseException:  # interrupted once more
            before.restore()
            raise
        raise


class Snapshot:
    """The state of networks and optimisers, by reference."""

    def __init__(self, things: Iterable[nn.Module | Optimizer]) -> None:
        """Note everything that can be reached from `things` through attributes and containers."""
        self._objects: list[tuple[Any, type, dict[str, Any]]] = []
        self._containers: list[tuple[Any, list[Any]]] = []
        self._tensors: list[_Place] = []
        self._values: list[tuple[Tensor, Tensor]] = []
        seen: set[int] = set()
        waiting: list[Any] = list(things)
        while waiting:
            value = waiting.pop()
            if id(value) not in seen:
                seen.add(id(value))
                waiting += self._note(value)

    def _note(self, value: Any) -> list[Any]:
        """Note one value; return what it holds."""
        if isinstance(value, Tensor):
            self._tensors.append(_Place.of(value))
            return []
        if isinstance(value, (nn.Module, Optimizer)):
            self._objects.append((value, type(value), own := dict(vars(value))))
            return list(own.values())
        if type(value) in MAPPINGS:
            self._containers.append((value, items := list(value.items())))
            return [each for item in items for each in item]
        if type(value) in (*SEQUENCES, set):
            self._containers.append((value, content := list(value)))
            return content
        return list(value) if type(value) is tuple else []

    def keep(self, tensors: Iterable[Tensor], copies: Iterable[Tensor] | None = None) -> None:
        """Bring back the values of these tensors as well, because they may be written into.

        The values are copied to main memory, or taken from `copies`, which the caller has made
        already and does not change.
        """
        tensors = list(tensors)
        given: list[Tensor | None] = [None] * len(tensors) if copies is None else list(copies)
        for tensor, copy in zip(tensors, given, strict=True):
            if tensor.layout is torch.strided and not tensor.is_meta:
                made = tensor.detach().to("cpu", copy=True) if copy is None else copy
                self._values.append((tensor, made))

    def restore(self) -> None:
        """Put everything back; what is as it was is not touched."""
        for value, kind, own in self._objects:
            if type(value) is not kind:
                value.__class__ = kind
            _refill(vars(value), list(own.items()))
        for container, content in self._containers:
            _refill(container, content)
        for place in self._tensors:
            place.restore()
        for tensor, copy in self._values:
            there = copy.to(tensor.device, tensor.dtype)
            if not same_bits(tensor, there):
                with torch.inference_mode(tensor.is_inference()), torch.no_grad():
                    tensor.copy_(there)


def _refill(container: Any, content: list[Any]) -> None:
    """Give a container its former content, in its former order."""
    if isinstance(container, dict):
        now = [each for item in container.items() for each in item]
        if not _same(now, [each for item in content for each in item]):
            container.clear()
            container.update(content)
    elif isinstance(container, set):
        if {id(each) for each in container} != {id(each) for each in content}:
            container.clear()
            container.update(content)
    elif not _same(list(container), content):
        container.clear()
        container.extend(content)


def _same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


@dataclass(frozen=True, eq=False)
class _Place:
    """Where a tensor keeps its values, and what belongs to it.

    Attributes:
        alias: another tensor over the same storage; None for one without values yet.
    """

    tensor: Tensor
    alias: Tensor | None
    requires_grad: bool
    grad: Tensor | None

    @classmethod
    def of(cls, tensor: Tensor) -> _Place:
        lazy = isinstance(tensor, (UninitializedParameter, UninitializedBuffer))
        grad = tensor.grad if tensor.is_leaf else None
        return cls(tensor, None if lazy else tensor.detach(), tensor.requires_grad, grad)

    def restore(self) -> None:
        tensor = self.tensor
        if self.alias is not None and _where(tensor) != _where(self.alias):
            tensor.data = self.alias
        if not tensor.is_leaf:
            return
        if tensor.requires_grad != self.requires_grad:
            tensor.requires_grad_(self.requires_grad)
        if tensor.grad is not self.grad:
            tensor.grad = self.grad


def _where(tensor: Tensor) -> tuple[Any, ...]:
    """Return what tells where a tensor's values lie and how they are read."""
    known = tensor.dtype, tensor.device, tensor.layout, tuple(tensor.shape)
    if tensor.layout is not torch.strided or tensor.is_meta:
        return known
    try:
        return *known, tensor.stride(), tensor.data_ptr()
    except (RuntimeError, NotImplementedError):  # a tensor of another kind, without a storage
        return known


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are equal in type, shape and every bit (NaN and −0 too)."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    bits = (t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (one, other))
    return torch.equal(*bits)
