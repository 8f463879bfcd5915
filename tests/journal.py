"""Hold rows of a journal against what `prunus.core.rows` says of their events."""

from collections.abc import Iterable
from typing import Any

from pydantic import ConfigDict, TypeAdapter, with_config

from prunus.core import EVENTS

STRICT = ConfigDict(extra="forbid", strict=True)


def check_rows(rows: Iterable[dict[str, Any]]) -> set[str]:
    """Raise where a row does not have the keys and types of its event; return the events seen."""
    seen = set()
    for row in rows:
        event = row["event"]
        kind = with_config(STRICT)(EVENTS[event])
        TypeAdapter(kind).validate_python({k: v for k, v in row.items() if k != "event"})
        seen.add(event)
    return seen
