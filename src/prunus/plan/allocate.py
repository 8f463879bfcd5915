"""Distribute a budget over the groups: `make_plan`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from prunus.core import BudgetError, ConfigError
from prunus.criteria import Scores
from prunus.evaluation import LatencyTable
from prunus.graph import Groups
from prunus.plan.budget import Budget, BudgetLike
from prunus.plan.cost_tracker import CostTracker
from prunus.plan.dynamic import allocate_dp
from prunus.plan.finish import finish_
from prunus.plan.global_ import allocate_global
from prunus.plan.plan import Plan, plan_units
from prunus.plan.problem import Problem
from prunus.plan.rules import Rules
from prunus.plan.threshold import allocate_threshold
from prunus.plan.uniform import allocate_uniform

__all__ = ["ALLOCATIONS", "check_reachable", "least_costs", "make_plan"]

_ALLOCATE: dict[str, Callable[[Problem], CostTracker]] = {
    "global": allocate_global,
    "uniform": allocate_uniform,
    "dp": allocate_dp,
    "threshold": allocate_threshold,
}
ALLOCATIONS = tuple(_ALLOCATE)


def make_plan(
    groups: Groups,
    scores: Scores,
    budget: BudgetLike,
    *,
    allocation: str = "global",
    least: float = 0.0,
    round_to: int = 1,
    protected: Mapping[str, Iterable[int]] | None = None,
    table: LatencyTable | None = None,
    curves: Mapping[str, float] | None = None,
) -> Plan:
    """Choose the units to remove so that the network costs at most `budget`.

    Args:
        scores: the value of each unit; groups that were not scored are not pruned.
        budget: `"macs=50%"`, `{"macs": "50%"}` or a `Budget`. An accuracy floor cannot be
            planned for: search for it with several limits.
        allocation: `uniform` keeps the same share of every group. `global` repeatedly removes the
            unit whose score is smallest relative to what its removal *currently* saves (value ÷
            saving in the budget's currency). `dp` minimises the summed loss along the groups' own
            orders by dynamic programming (see `allocate_dp`). `threshold` removes all units below
            one threshold, the lowest that meets the budget.
        least: the share of each group that is always kept (at least one unit is, except in branches
            that may be removed as a whole: `find_groups(drop_branches=True)`; with a share above 0
            none is removed).
        round_to: the kept units of a group at least that wide are a multiple of it, rounded up; a
            group that loses nothing keeps its width.
        protected: units that are never removed, by group name.
        table: the latency table that limits in `ms` are computed with.
        curves: each group's measured loss ÷ predicted loss, by group name (1 by default). It
            multiplies the group's costs; `uniform` ignores it. Without curves, scores that share no
            scale are divided by their group's mean value.

    Cost: O(units · log groups) for `global`, O(groups · log units) for `uniform`; both together and
    about O(units · members) per round, at most 8 rounds from each start, for `dp`.

    Raises:
        BudgetError: the budget cannot be reached; gives the least that can be.
        ConfigError: a setting is out of range, or `dp` was given branches that may be removed.
        NothingToPruneError: there is no group.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import prunus
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> groups = prunus.find_groups(net, torch.zeros(1, 4))
        >>> loader = [(torch.randn(32, 4), torch.arange(32) % 2)]
        >>> statistics = prunus.collect(net, loader, groups)
        >>> scores = prunus.score(groups, statistics)
        >>> plan = prunus.make_plan(groups, scores, {"macs": "50%"})
        >>> list(plan.groups), list(plan.modules)
        (['0'], ['0', '2'])
    """
    groups.require_any()
    if allocation not in _ALLOCATE:
        raise ConfigError(f"allocation {allocation!r}: expected one of {', '.join(ALLOCATIONS)}")
    budget = Budget.of(budget)
    if budget.accuracy is not None:
        raise BudgetError(
            f"a plan cannot guarantee {budget}: accuracy is measured on a cut network; give "
            "make_plan only limits, and search for the lowest that keep the accuracy, as prune "
            "does"
        )
    rules = Rules.of(groups, least, round_to, protected)
    if allocation == "dp" and any(rules.may_go(group) for group in groups.values()):
        raise ConfigError(
            "allocation 'dp' cannot remove whole branches: pass drop_branches=False, or choose "
            "another allocation"
        )
    try:
        problem = Problem.of(groups, scores, budget, rules, table, curves)
    except BudgetError as error:
        unread = [f"{n!r} ({why})" for n, why in scores.skipped.items() if n in groups]
        if not unread:
            raise
        raise BudgetError(
            f"{error}. The criterion {scores.criterion!r} cannot score {', '.join(unread)}, which "
            "stays whole: choose one that reads weights alone, such as 'l1'"
        ) from error
    tracker = _ALLOCATE[allocation](problem)
    made = [group for group in problem.pool if not group.selects]
    picking = {"bytes", "ms"} & problem.limits.keys()
    if picking and not tracker.meets(problem.limits) and made:
        problem = replace(problem, pool=made)  # selecting inputs may cost more than it saves
        tracker = _ALLOCATE[allocation](problem)
    finish_(tracker, problem)
    return plan_units(
        groups, {n: (~left).nonzero()[0].tolist() for n, left in tracker.left.items()}
    )


def check_reachable(
    groups: Groups,
    budget: BudgetLike,
    *,
    least: float = 0.0,
    round_to: int = 1,
    protected: Mapping[str, Iterable[int]] | None = None,
    table: LatencyTable | None = None,
) -> None:
    """Raise what `make_plan` would raise if no plan can meet the limits of `budget`.

    An accuracy floor is ignored.

    Raises:
        BudgetError: gives the least that can be reached.
        NothingToPruneError: there is no group.
    """
    groups.require_any()
    rules = Rules.of(groups, least, round_to, protected)
    limits = Budget.of(budget).absolute(CostTracker(groups, table).totals)
    rules.require_reachable(list(groups.values()), limits, table)


def least_costs(
    groups: Groups,
    *,
    least: float = 0.0,
    round_to: int = 1,
    protected: Mapping[str, Iterable[int]] | None = None,
    table: LatencyTable | None = None,
) -> dict[str, float]:
    """Return the least that any plan can leave, for each currency separately.

    This is the lower end of a search for the smallest network that keeps its accuracy.
    """
    return Rules.of(groups, least, round_to, protected).least_costs(list(groups.values()), table)
