"""Hold rows of a journal against what `prunus.core.rows` says of their events."""

from collections.abc import Iterable
from typing import Any

from pydantic import TypeAdapter

from prunus.core import EVENTS


def check_rows(rows: Iterable[dict[str, Any]]) -> set[str]:
    """Raise where a row does not have the keys and types of its event; return the events seen."""
    seen = set()
    for row in rows:
        event = row["event"]
        unknown = row.keys() - EVENTS[event].__annotations__.keys() - {"event"}
        assert not unknown, f"{event}: {unknown}"
        TypeAdapter(EVENTS[event]).validate_python(row, strict=True)
        seen.add(event)
    return seen
