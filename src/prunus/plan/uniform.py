"""The `uniform` allocation: the same share of every group stays."""

from __future__ import annotations

from prunus.plan.ledger import Ledger
from prunus.plan.problem import Problem

__all__ = ["allocate_uniform"]


def allocate_uniform(problem: Problem) -> Ledger:
    """Bisect the greatest share of units that keeps within the limits.

    Where only some numbers may be left, each group keeps the next one above its share.
    Cost: O(groups · log units).
    """
    pool = [(group, problem.queue(group)) for group in problem.pool]

    def cut(share: float) -> Ledger:
        ledger = problem.ledger()
        for group, queue in pool:
            keep = problem.rules.count_from(group, round(group.units * share))
            ledger.remove(group, queue[: group.units - keep])
        return ledger

    low, high = 0.0, 1.0
    if cut(high).meets(problem.limits):
        return cut(high)
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (middle, high) if cut(middle).meets(problem.limits) else (low, middle)
    return cut(low)
