"""The `threshold` allocation: remove the units below one threshold, in every group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prunus.core import ConfigError
from prunus.criteria import Scores
from prunus.graph import Groups
from prunus.plan.budget import Budget
from prunus.plan.cost_tracker import CostTracker
from prunus.plan.finish import finish_
from prunus.plan.plan import Plan, plan_units
from prunus.plan.problem import Problem
from prunus.plan.rules import Rules

__all__ = ["allocate_threshold", "plan_below"]


def allocate_threshold(problem: Problem) -> CostTracker:
    """Find the lowest threshold η that meets the limits if all units below it are removed.

    [Tian, eq. 3.13], theory.md (55): η is constant over the layers, and raised until the network is
    small enough. Cost: O(units · log units).
    """
    values = {v for g in problem.pool for v in problem.worth(g)}
    steps = [*sorted(values), float("inf")]  # a unit is removed if its value is below η
    low, high = 0, len(steps) - 1
    while low < high:
        middle = (low + high) // 2
        if cut_below(problem, steps[middle]).meets(problem.limits):
            high = middle
        else:
            low = middle + 1
    return cut_below(problem, steps[low])


def cut_below(problem: Problem, eta: float) -> CostTracker:
    """Return the tracker without the units whose value is below `eta`, as far as groups may shrink.

    A branch whose units are all below `eta` is removed as a whole if it may be.
    """
    tracker = problem.tracker()
    branches = []
    for group in problem.pool:
        values = problem.worth(group)
        queue = problem.queue(group)
        below = sum(values[unit] < eta for unit in queue)
        keep = problem.rules.count_from(group, group.units - below)
        tracker.remove(group, queue[: group.units - keep])
        if below == group.units and problem.rules.may_go(group):
            branches.append(group)
    problem.drop_(tracker, branches)
    return tracker


def plan_below(
    groups: Groups,
    scores: Scores,
    eta: float,
    *,
    least: float = 0.0,
    round_to: int = 1,
    protected: Mapping[str, Iterable[int]] | None = None,
) -> Plan:
    """Return the plan that removes every unit whose value is below `eta`.

    [Tian, section 3.2.3]: sweeping η gives a family of networks. Of scores that share no scale,
    values are in units of their group's mean. `least`, `round_to` and `protected` are those of
    `make_plan`; a group's best unit is always kept, except in branches that may be removed as a
    whole.

    Raises:
        ConfigError: `eta` is negative, or a setting is out of range.
        NothingToPruneError: there is no group.
    """
    groups.require_any()
    if not eta >= 0:
        raise ConfigError(f"eta is {eta}, expected a threshold of at least 0")
    rules = Rules.of(groups, least, round_to, protected)
    problem = Problem.of(groups, scores, Budget(()), rules, None, None)
    tracker = cut_below(problem, eta)
    finish_(tracker, problem)
    return plan_units(
        groups, {n: (~left).nonzero()[0].tolist() for n, left in tracker.left.items()}
    )
