"""The `uniform` allocation: keep the same share of every group."""

from __future__ import annotations

from prunus.plan.cost_tracker import CostTracker
from prunus.plan.problem import Problem

__all__ = ["allocate_uniform"]


def allocate_uniform(problem: Problem) -> CostTracker:
    """Find the largest share of units within the limits by bisection.

    If only some numbers are permitted, each group keeps the next one above its share. A branch
    whose share is less than half a unit is removed as a whole if it may be.
    Cost: O(groups · log units).
    """
    pool = [(group, problem.queue(group)) for group in problem.pool]

    def cut(share: float) -> CostTracker:
        tracker = problem.tracker()
        branches = []
        for group, queue in pool:
            wanted = round(group.units * share)
            keep = problem.rules.count_from(group, wanted)
            tracker.remove(group, queue[: group.units - keep])
            if wanted == 0 and problem.rules.may_go(group):
                branches.append(group)
        problem.drop_(tracker, branches)
        return tracker

    low, high = 0.0, 1.0
    if cut(high).meets(problem.limits):
        return cut(high)
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (middle, high) if cut(middle).meets(problem.limits) else (low, middle)
    return cut(low)
