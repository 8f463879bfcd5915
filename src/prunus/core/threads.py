"""The number of usable cores, and a limit of one thread for the algebra of small matrices."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from prunus.core.control_groups import control_groups
from prunus.core.imports import imported

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

__all__ = ["one_blas_thread", "usable_cores"]


@lru_cache(maxsize=1)
def _controller() -> ThreadpoolController:
    controller: ThreadpoolController = imported("threadpoolctl").ThreadpoolController()
    return controller


def one_blas_thread() -> AbstractContextManager[object]:
    """Keep NumPy's and SciPy's BLAS to one thread; torch's own threads are left alone.

    Eliminations are thousands of small products. Split over threads, they wait for each other and
    spin against torch's threads: on 2 cores, 3 times slower at 64 features and 4 times at 2 048.
    """
    limited: AbstractContextManager[object] = _controller().limit(limits=1, user_api="blas")
    return limited


def usable_cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may use, at least 1.

    The least of those it may run on and of the whole cores in the quotas of its control groups: a
    container of 1.5 cores on 64 has 1. Threads beyond a quota stop together until the next period.
    `root` is where / is, for tests.
    """
    affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min([cores, *(int(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the cores that each control group may use at a time, of those with a quota."""
    for group in control_groups("cpu", root):
        if group.unified:
            quota = group.number("cpu.max")  # QUOTA PERIOD in microseconds; "max": none
            period = int(group.words("cpu.max")[-1]) if quota else None
        else:
            quota, period = group.number("cpu.cfs_quota_us"), group.number("cpu.cfs_period_us")
        if quota and quota > 0 and period:
            yield quota / period
