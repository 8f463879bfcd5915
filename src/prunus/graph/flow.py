"""Where each tensor of a forward pass comes from, without gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from prunus.batches import flatten_tensors
from prunus.core import prepare_torch

__all__ = ["PARAMETER", "PRODUCT", "Dataflow"]

NOTHING: frozenset[str] = frozenset()
#: The source of a parameter, and of a product with one that no layer holds as its weight.
PARAMETER, PRODUCT = ":parameter", ":product"
ONLY_PARAMETERS = frozenset([PARAMETER])
#: Operations whose last two operands are multiplied as matrices or filters.
MATRICES = {"mm", "addmm", "bmm", "baddbmm", "mv", "addmv"}
FILTERS = {"convolution", "_convolution"}


class Dataflow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The sources of every tensor: names that were put on tensors which it was computed from.

    It follows every ATen operation, in-place ones and views too, whether or not anything needs
    gradients. As gradients do, it follows numbers and not decisions: integers have no sources.
    Views of one memory share their sources. A product with a parameter that is not a layer's has
    no sources but `PRODUCT`: it mixes what it reads, as a layer does.
    """

    def __init__(self) -> None:
        prepare_torch()
        super().__init__()  # type: ignore[no-untyped-call]
        self._sources: dict[int, frozenset[str]] = {}
        self._kept: dict[int, Any] = {}  # keeps memory alive, so that a key refers to one

    def sources(self, tensors: Tensor | Iterable[Tensor]) -> frozenset[str]:
        """Return the names that tensors were computed from."""
        if isinstance(tensors, Tensor):
            tensors = [tensors]
        return self._known(tensors) - ONLY_PARAMETERS

    def _known(self, tensors: Iterable[Tensor]) -> frozenset[str]:
        return NOTHING.union(*(self._sources.get(_memory(t)[0], NOTHING) for t in tensors))

    def put(self, tensor: Tensor, names: Iterable[str]) -> None:
        """Make `names` the sources of a tensor, in place of those that it has."""
        key, memory = _memory(tensor)
        self._sources[key], self._kept[key] = frozenset(names), memory

    def follow(self, inputs: Iterable[Tensor], outputs: Iterable[Tensor]) -> None:
        """Add the sources of inputs to those of outputs computed from them."""
        found = self._known(inputs)
        for tensor in outputs if found else ():
            if tensor.is_floating_point() or tensor.is_complex():
                self.put(tensor, found | self._known([tensor]))

    def _mixes(self, name: str, args: tuple[Any, ...]) -> bool:
        """Return whether an operation multiplies a parameter with what layers made."""
        tensors = [a for a in args if isinstance(a, Tensor)]
        pair = tensors[:2] if name in FILTERS else tensors[-2:] if name in MATRICES else []
        known = [self._known([tensor]) for tensor in pair]
        return ONLY_PARAMETERS in known and any(names - ONLY_PARAMETERS for names in known)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run one operation and follow it."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func._schema.name.split("::")[1]
        if self._mixes(name, args):
            self.put(result, [PRODUCT])
        elif not (name.startswith("new_") or name.endswith("_like")):  # only the shape is read
            given = [*args, *kwargs.values()]
            known = func._schema.arguments
            written = [
                kwargs.get(one.name) if i >= len(args) else args[i]
                for i, one in enumerate(known)
                if one.alias_info is not None and one.alias_info.is_write
            ]
            self.follow(flatten_tensors(given), flatten_tensors([result, written]))
        return result


def _memory(tensor: Tensor) -> tuple[int, Any]:
    """Return a key of a tensor's memory, and what keeps it alive."""
    try:
        storage = tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):  # sparse, or a wrapper of other tensors
        return id(tensor), tensor
    return storage._cdata, storage
