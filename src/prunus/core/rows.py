"""Every event of a run's journal with its keys, and how rows are picked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

__all__ = [
    "DERIVED",
    "PLAIN",
    "Row",
    "last",
    "latest",
    "networks",
    "of_event",
    "rejected",
    "trajectory",
]


Row = dict[str, Any]


def of_event(rows: Iterable[Row], event: str) -> list[Row]:
    """Return the rows of `event`, oldest first."""
    return [row for row in rows if row["event"] == event]


def last(rows: Iterable[Row], event: str) -> Row | None:
    """Return the newest row of `event`, or None."""
    return next(iter(of_event(rows, event)[::-1]), None)


def trajectory(rows: Sequence[Row], event: str) -> dict[int, Row]:
    """Return the rows of `event` by iteration, in order; of a repeated iteration, the newest.

    Iterations that a search stepped back from are left out: they led nowhere.
    """
    lost = {row["iteration"] for row in rejected(rows)}
    found = {row["iteration"]: row for row in of_event(rows, event)}
    return {at: row for at, row in sorted(found.items()) if at not in lost}


def rejected(rows: Sequence[Row]) -> list[Row]:
    """Return the iterations that fell below the floor of accuracy."""
    return [row for row in of_event(rows, "iteration") if row.get("kept") is False]


#: The arm whose networks the search is for; all others are compared with it.
DERIVED = "derived"


#: The arm of the grown network trained without push, which rivals prune.
PLAIN = "plain"


def networks(rows: Sequence[Row]) -> list[Row]:
    """Return a row a network that was found so far, arm by arm."""
    return [network for arm in of_event(rows, "arm") for network in arm["networks"]]


def latest(rows: Sequence[Row], currency: str) -> list[Row]:
    """Return an arm's networks, of those that cost the same the last.

    That is one structure after more training; but networks that form no curve are all there.
    """
    found = {(row["name"] if row["alone"] else "", row[currency]): row for row in rows}
    return list(found.values())
