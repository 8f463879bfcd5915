"""Rows of a journal compared with what `prunus.core.rows` says of their events."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from prunus.core.rows import EVENTS, Event, Row

__all__ = ["check_row"]


def check_row(row: Row) -> None:
    """Raise `ValueError` unless a row has the keys and types of its event.

    Further keys are let pass, and so are events that this version does not know: it reads neither.
    """
    if row["event"] not in EVENTS:
        return
    try:
        _adapter(row["event"]).validate_python(row, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        said = "is missing" if first["type"] == "missing" else f"is wrong: {first['msg']}"
        raise ValueError(f"{where[:200]} of a row {row['event']!r} {said[:200]}") from error


@cache
def _adapter(event: Event) -> TypeAdapter[Any]:
    return TypeAdapter(EVENTS[event])
