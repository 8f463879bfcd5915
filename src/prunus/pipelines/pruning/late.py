"""What comes last and may fail by itself: measurements and files after the network is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from prunus.core import PrunusError, Record, one_line

__all__ = ["attempt"]

T = TypeVar("T")


def attempt(record: Record, key: str, work: Callable[[], T]) -> T | None:
    """Return what `work` gives, or None after a row `failed` with its cause under `key`.

    The network has been found by then, and no later failure may cost it.
    """
    try:
        return work()
    except Exception as error:  # networks' and loaders' code can raise anything
        reason = str(error) if isinstance(error, PrunusError) else one_line(error)
        record.append("failed", key=key, reason=reason)
        return None
