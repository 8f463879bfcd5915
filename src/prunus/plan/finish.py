"""The last steps of every allocation: remove unread channels, round widths."""

from __future__ import annotations

from collections.abc import Iterable

from prunus.core import BudgetError
from prunus.graph import Group
from prunus.plan.budget import written
from prunus.plan.cost_tracker import CostTracker
from prunus.plan.problem import Problem
from prunus.plan.rules import Rules

__all__ = ["finish_", "sweep_dead_"]


def finish_(tracker: CostTracker, problem: Problem) -> None:
    """Round selections, remove dead channels, and check that the budget is met.

    Raises:
        BudgetError: the limits, or multiples of `round_to`, cannot be met with these scores.
    """
    rules, pool = problem.rules, problem.pool
    for group in (g for g in pool if g.selects):
        _even_out_(tracker, group, problem)
    sweep_dead_(tracker, rules, pool)
    for currency, limit in problem.limits.items():
        if tracker.totals[currency] > limit:
            raise BudgetError(
                f"budget {currency} ≤ {written(currency, limit)} cannot be reached with these "
                f"scores: the least they reach is {currency}="
                f"{written(currency, tracker.totals[currency])}; give at least that"
            )
    for group in pool:
        left = int(tracker.present(group).sum())
        whole = left == int(tracker.arrives(group).sum())
        if left % rules.step(group) and not whole:
            raise BudgetError(
                f"round_to={rules.round_to} cannot be kept: {left} units of {group.name} must "
                "stay; use another multiple, or protect fewer units"
            )


def sweep_dead_(tracker: CostTracker, rules: Rules, pool: Iterable[Group]) -> None:
    """Remove units that nothing reads any more (every flattened position deselected)."""
    for group in pool:
        flattened = [m for m in group.consumers if m.index.shape[1] > 1]
        if not flattened or len(flattened) < len(group.consumers):
            continue  # only a flattened consumer can remove all of a channel's positions
        read = sum(tracker.reading[m.module][m.index].any(axis=1) for m in flattened)
        there = tracker.left[group.name]
        unread = (there & (read == 0)).nonzero()[0].tolist()
        dead = [u for u in unread if u not in rules.keeps(group)]
        if dead:
            left = int(there.sum())
            goal = rules.count_from(group, left - len(dead))
            tracker.remove(group, dead[: max(0, left - goal)])


def _even_out_(tracker: CostTracker, group: Group, problem: Problem) -> None:
    """Bring the units left of a selection to a permitted number.

    If channels were removed after the selection was made, what is left of it is rarely a multiple:
    units are removed down to the next one or, if too few are left, put back up to it.
    """
    rules, queue = problem.rules, problem.queue(group)
    there, arriving = tracker.present(group), tracker.arrives(group)
    left = int(there.sum())
    if left % rules.step(group) == 0 or left == int(arriving.sum()):
        return
    goal, going = rules.next_count(group, left), [u for u in queue if there[u]]
    if goal is not None and left - goal <= len(going):
        tracker.remove(group, going[: left - goal])
        return
    back = [u for u in reversed(queue) if arriving[u] and not there[u]]
    tracker.put_back(group, back[: rules.count_from(group, left) - left])
