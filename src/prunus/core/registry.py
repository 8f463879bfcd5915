"""Named factories: one registry for each kind of thing a user picks by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from prunus.core.errors import UnknownNameError

__all__ = ["Registry", "unknown_name"]

T = TypeVar("T")


class Registry(Generic[T]):
    """Map names to entries of one kind; an unknown name lists the known ones.

    Example:
        >>> colours = Registry[int]("colour")
        >>> _ = colours.register("red")(1)
        >>> colours["red"]
        1
    """

    def __init__(self, kind: str, hint: str = "") -> None:
        """`kind` is the word used in errors; `hint` is appended to the list of known names."""
        self.kind = kind
        self.hint = hint
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers its argument under `name`."""

        def file(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = entry
            return entry

        return file

    def __getitem__(self, name: str) -> T:
        if name in self._entries:
            return self._entries[name]
        raise unknown_name(self.kind, name, sorted(self._entries), hint=self.hint)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)


def unknown_name(
    kind: str, name: object, known: Iterable[str], *, hint: str = ""
) -> UnknownNameError:
    """Return the error of a name that is not among the `known` ones, which it lists.

    Example:
        >>> print(unknown_name("group", "conv3", ["conv1", "conv2"]))
        unknown group 'conv3' (did you mean 'conv2'?): the known ones are conv1, conv2
    """
    names = list(known)
    near = difflib.get_close_matches(str(name), names, n=1)
    guess = f" (did you mean {near[0]!r}?)" if near else ""
    return UnknownNameError(
        f"unknown {kind} {name!r}{guess}: the known ones are {', '.join(names) or 'none'}{hint}"
    )
