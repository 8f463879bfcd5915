"""The `global` allocation: repeatedly remove the unit with the least value per saving."""

from __future__ import annotations

import heapq
import math
from itertools import islice

from prunus.graph import Group
from prunus.plan.cost_tracker import CostTracker
from prunus.plan.finish import sweep_dead_
from prunus.plan.problem import Problem

__all__ = ["allocate_global"]


def allocate_global(problem: Problem) -> CostTracker:
    """Remove the units with the smallest value per saved share, until the limits are met.

    Units are removed one by one, or down to the next permitted number. Savings only fall as other
    groups shrink and values never fall along a group's order, so a ratio computed earlier is a
    lower bound: a heap with lazy re-evaluation finds the smallest. (Interpolated milliseconds need
    not fall like this; the heap is then a good approximation. Nor need the saving of a whole
    branch, if more is removed with it later.) The last units of a branch that may be removed as a
    whole are removed together with what nothing reads then, ranked by their own value.

    Cost: O(units · log groups).
    """
    tracker, pool, limits = problem.tracker(), problem.pool, problem.limits
    dense = dict(tracker.totals)
    queue = {g.name: problem.queue(g) for g in pool}
    value = {g.name: problem.worth(g) for g in pool}
    place = {name: {unit: i for i, unit in enumerate(units)} for name, units in queue.items()}
    taken = dict.fromkeys(queue, 0)

    def upcoming(group: Group) -> list[int]:
        """Return the next units that are still present, none at the group's floor."""
        there, waiting = tracker.present(group), queue[group.name]
        left = int(there.sum())
        goal = problem.rules.next_count(group, left)
        if goal is None:
            return []
        while taken[group.name] < len(waiting) and not there[waiting[taken[group.name]]]:
            taken[group.name] += 1
        rest = (waiting[i] for i in range(taken[group.name], len(waiting)))
        return list(islice((unit for unit in rest if there[unit]), left - goal))

    def ratio(group: Group, units: list[int], fallen: list[Group]) -> float | None:
        saved = tracker.saving(group, units, selected=True)
        if fallen:
            whole = tracker.drop(fallen, trial=True)
            if whole is None:
                return None
            saved = whole
        share = sum(saved[c] / dense[c] for c, limit in limits.items() if tracker.totals[c] > limit)
        worth = sum(value[group.name][unit] for unit in units)
        return float(worth) / share if share > 0 else math.inf

    heap = [(0.0, i) for i in range(len(pool))]
    last: list[int] = []  # branches that a consumer still needs
    while heap and not tracker.meets(limits):
        _, i = heapq.heappop(heap)
        group = pool[i]
        units, fallen = upcoming(group), []
        if not units:
            fallen = problem.rules.falling(tracker, group)
            units = tracker.left[group.name].nonzero()[0].tolist() if fallen else []
        if not units:
            continue
        now = ratio(group, units, fallen)
        if now is None:
            last.append(i)
            continue
        if heap and now > heap[0][0]:
            heapq.heappush(heap, (now, i))
            continue
        if fallen:
            tracker.drop(fallen)
            for other in last:
                heapq.heappush(heap, (now, other))
            last.clear()
            continue
        tracker.remove(group, units)
        taken[group.name] = place[group.name][units[-1]] + 1
        if group.selects:
            sweep_dead_(tracker, problem.rules, pool)
        heapq.heappush(heap, (now, i))
    return tracker
