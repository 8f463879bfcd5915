"""How much main memory this process may use: of the machine, its control groups, its limits."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from prunus.core.control_groups import ControlGroup, control_groups

__all__ = ["available_memory", "memory_limit"]


def available_memory(root: Path = Path("/")) -> int:
    """Return how many bytes this process can still allocate without being refused or killed.

    It is the least of

    - what is available on the machine,
    - for each control group of the process and all above it, limit − (usage − inactive file
      cache): the kernel kills where a group has more than its limit, and drops file cache first,
    - what the limits of address space and of data (`ulimit -v`, `ulimit -d`) leave.

    `root` is where / is, for tests.

    Example:
        >>> 0 < available_memory() <= memory_limit()
        True
    """
    free = int(psutil.virtual_memory().available)
    return max(0, min([free, *_group_rooms(root), *_limit_rooms()]))


def memory_limit(root: Path = Path("/")) -> int:
    """Return how many bytes this process may use at most, however many are in use now.

    The least of the machine's memory and the limits of `available_memory`. What results depend
    on is chosen by this figure: it is the same each time on one machine.
    """
    total = int(psutil.virtual_memory().total)
    groups = [limit for group in control_groups("memory", root) for limit in _limits(group)]
    return min([total, *groups, *(limit for limit, _ in _own_limits())])


def _limits(group: ControlGroup) -> list[int]:
    """Return the limits of a group, in bytes; above memory.high it is slowed to a halt."""
    names = ("memory.max", "memory.high") if group.unified else ("memory.limit_in_bytes",)
    return [limit for name in names if (limit := group.number(name)) is not None]


def _group_rooms(root: Path) -> Iterator[int]:
    for group in control_groups("memory", root):
        used = group.number("memory.current" if group.unified else "memory.usage_in_bytes")
        dropped = "inactive_file" if group.unified else "total_inactive_file"
        cache = group.entry("memory.stat", dropped)
        for limit in _limits(group):
            yield limit - max(0, (used or 0) - cache)


def _limit_rooms() -> Iterator[int]:
    for limit, used in _own_limits():
        yield limit - used


def _own_limits() -> Iterator[tuple[int, int]]:
    """Yield the limits of address space and of data that are set, and what counts against them."""
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415 - not on Windows

    held = psutil.Process().memory_info()
    for which, used in (
        (resource.RLIMIT_AS, held.vms),
        (resource.RLIMIT_DATA, getattr(held, "data", held.rss)),
    ):
        limit = resource.getrlimit(which)[0]
        if limit != resource.RLIM_INFINITY:
            yield limit, used
