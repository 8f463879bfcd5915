"""Networks that save memory by computing parts of their forward pass a second time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils import checkpoint

__all__ = ["without_checkpoints"]


class _Direct:
    """Stands in for PyTorch's re-entrant checkpoint: runs the function, once."""

    @staticmethod
    def apply(function: Any, _: bool, *args: Any) -> Any:
        return function(*args)


@contextmanager
def without_checkpoints() -> Iterator[None]:
    """Run what re-entrant checkpoints hold directly, within the context.

    A re-entrant checkpoint runs its part without gradients, and again in the backward pass: hooks
    would see it twice, and no gradient the first time.
    """
    former = checkpoint.CheckpointFunction
    checkpoint.CheckpointFunction = _Direct  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        checkpoint.CheckpointFunction = former  # type: ignore[misc]
