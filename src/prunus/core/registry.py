"""Named factories: one registry for each kind of thing a user picks by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from prunus.core.errors import UnknownNameError

__all__ = ["Registry"]

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
        """Return a decorator that files its argument under `name`."""

        def file(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = entry
            return entry

        return file

    def __getitem__(self, name: str) -> T:
        if name in self._entries:
            return self._entries[name]
        near = difflib.get_close_matches(name, self._entries, n=1)
        guess = f" (did you mean {near[0]!r}?)" if near else ""
        known = ", ".join(sorted(self._entries))
        raise UnknownNameError(
            f"unknown {self.kind} {name!r}{guess}: the known ones are {known}{self.hint}"
        )

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)
