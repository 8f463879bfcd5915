"""Numbers of modules that a forward pass takes sizes from, followed to where they are read.

While a network is traced, its modules' integers are `Number`s: integers that carry the names of the
attributes that they come from, through arithmetic, to the function that takes one as a size. A
number that no size is taken from (a patience, a count of classes) is never coupled, whatever its
value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

from prunus.modules import CONVOLUTIONS, PASSING, Scripted, is_packed

__all__ = ["Number", "Read", "SizesRead", "counts_heads", "numbered", "sizes_read"]

#: Modules whose numeric attributes the rules of `surgery` maintain.
RULED = (nn.Linear, CONVOLUTIONS, *PASSING)


class Number(int):
    """An integer that carries the attributes it was computed from.

    `origins` are names `of.module:attribute`. `hashed` is None unless it is the attribute itself:
    then its name is added there when it is hashed, as a cache of sizes does with its keys.
    """

    origins: frozenset[str]
    hashed: set[str] | None

    def __new__(cls, value: int, origins: frozenset[str], hashed: set[str] | None = None) -> Number:
        """Make an integer with its origins."""
        made = super().__new__(cls, value)
        made.origins, made.hashed = origins, hashed
        return made

    def __hash__(self) -> int:
        if self.hashed is not None:
            self.hashed |= self.origins
        return int.__hash__(self)

    def __eq__(self, other: object) -> bool:
        return int.__eq__(self, other)

    def __deepcopy__(self, _: Any) -> Number:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return int, (int(self),)


def _followed(name: str) -> Callable[..., Any]:
    """Return an arithmetic method whose integer results carry the origins of both operands."""
    plain = getattr(int, name)

    def method(self: Number, *others: Any) -> Any:
        made = plain(self, *others)
        if type(made) is not int:
            return made
        origins = [o.origins for o in others if isinstance(o, Number)]
        return Number(made, self.origins.union(*origins))

    return method


for _name in ("add", "radd", "sub", "rsub", "mul", "rmul", "floordiv", "rfloordiv", "mod", "neg"):
    setattr(Number, f"__{_name}__", _followed(f"__{_name}__"))


def counts_heads(width: str) -> bool:
    """Return whether `of.module:number` is a number of heads, by its name."""
    _, colon, number = width.rpartition(":")
    return bool(colon) and "head" in number and "dim" not in number and "size" not in number


@dataclass(frozen=True)
class Read:
    """Attributes that a size was taken from, and the axis of that size where it is known.

    `direct`: the size is the attribute itself, and was not computed from it.
    """

    origins: frozenset[str]
    axis: int | None
    direct: bool = False


@dataclass
class SizesRead:
    """The integers in the arguments of the running function, and the numbers used as keys."""

    given: tuple[Any, ...] = ()
    hashed: set[str] = field(default_factory=set)

    def at(self, rank: int, module: str) -> list[Read]:
        """Return the attributes that the sizes of a result of `rank` axes are taken from.

        Where no argument carries any, a library may have cached sizes by the numbers of `module`.
        """
        placed = len(self.given) == rank
        found = [
            Read(number.origins, axis if placed else None, number.hashed is not None)
            for axis, number in enumerate(self.given)
            if isinstance(number, Number)
        ]
        own = frozenset(name for name in self.hashed if name.rpartition(":")[0] == module)
        return found or ([Read(own, None)] if own else [])


class _Watch(TorchFunctionMode):
    """Notes the integers in every function's arguments while it runs."""

    def __init__(self, sizes: SizesRead) -> None:
        super().__init__()
        self.sizes = sizes

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        before, self.sizes.given = self.sizes.given, tuple(_integers([args, kwargs or {}]))
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.sizes.given = before


def _integers(values: Any) -> Iterator[int]:
    for value in values.values() if isinstance(values, dict) else values:
        if isinstance(value, (list, tuple, dict)):
            yield from _integers(value)
        elif isinstance(value, slice):
            yield from _integers((value.start, value.stop, value.step))
        elif isinstance(value, int) and not isinstance(value, bool):
            yield value


@contextmanager
def sizes_read(sizes: SizesRead) -> Iterator[None]:
    """Note which numbers of modules are given to functions, in `sizes`."""
    with _Watch(sizes):
        yield


def numbered(model: nn.Module, hashed: set[str]) -> set[str]:
    """Turn the integers of modules into `Number`s, in place; for a private copy alone.

    Returns their names; `hashed` will hold those that are used as keys.
    """
    names = set()
    for name, module in model.named_modules():
        if isinstance(module, (*RULED, Scripted)):
            continue
        own = vars(module)
        for key in ("num_heads", "head_dim") if is_packed(module) else tuple(own):
            if type(own[key]) is int and not key.startswith("_"):
                names.add(f"{name}:{key}")
                own[key] = Number(own[key], frozenset([f"{name}:{key}"]), hashed)
    return names
