"""How a pipeline reports its progress: silent here, progress bars in the command line."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

__all__ = ["Watch"]

T = TypeVar("T")


class Watch:
    """Silent; the command line overrides its three methods with progress bars."""

    def say(self, text: str) -> None:
        """Report one line."""

    def batches(self, title: str) -> Callable[[Iterable[T]], Iterable[T]]:
        """Return a function that wraps a loader's iteration."""
        return lambda loader: loader

    @contextlib.contextmanager
    def epochs(self, title: str, total: int) -> Iterator[Callable[[dict[str, Any]], None]]:
        """Yield a callback for the row of every finished epoch."""
        yield lambda row: None
