"""Spread a budget over the groups: `make_plan`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from prunus.core import BudgetError, ConfigError
from prunus.criteria import Scores
from prunus.evaluation import LatencyTable
from prunus.graph import Groups
from prunus.plan.budget import Budget
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
    budget: Budget | str | Mapping[str, float],
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
        scores: the worth of each unit; groups that were not scored stay whole.
        budget: `"macs=50%"`, a `Budget`, or limits in units by currency. A floor of accuracy
            cannot be planned for: search for it with several limits.
        allocation: `uniform` keeps the same share of every group. `global` removes, again and
            again, the unit whose score is smallest for what its removal saves *now* (value ÷
            saving in the budget's currency). `dp` minimises the summed loss along the groups'
            own orders by dynamic programming (see `allocate_dp`). `threshold` removes
            what lies below one threshold, the least that meets the budget.
        least: the share of each group that always stays (at least one unit does, but for
            branches that may go as a whole: `find_groups(drop_branches=True)`; with a share
            above 0 none does).
        round_to: units left of a group at least that wide are a multiple of it, the kept number
            rounded up; a group of which nothing goes keeps its width.
        protected: units that never go, by group name.
        table: the latency table that a limit in `ms` is counted by.
        curves: each group's measured loss ÷ predicted loss, by group name (1 where none is
            given). It multiplies the group's costs; `uniform` looks at none. Without curves,
            scores of unlike scale are divided by their group's mean value.

    Cost: O(units · log groups) for `global`, O(groups · log units) for `uniform`; both together
    and about O(units · members) a round, at most 8 rounds from each start, for `dp`.

    Raises:
        BudgetError: the budget cannot be reached; says the least that can be.
        ConfigError: a setting is out of range, or `dp` came with branches that may go.
        NothingToPruneError: there is no group at all.
    """
    groups.require_any()
    if allocation not in _ALLOCATE:
        raise ConfigError(f"allocation {allocation!r}: expected one of {', '.join(ALLOCATIONS)}")
    if isinstance(budget, str):
        budget = Budget.parse(budget)
    if isinstance(budget, Budget) and budget.accuracy is not None:
        raise BudgetError(
            f"a plan cannot promise {budget}: accuracy is measured on a cut network; give "
            "make_plan limits alone, and search for the least that keep it, as prune does"
        )
    rules = Rules.of(groups, least, round_to, protected)
    if allocation == "dp" and any(rules.may_go(group) for group in groups.values()):
        raise ConfigError(
            "allocation 'dp' cannot let whole branches go: say drop_branches=False, or take "
            "another allocation"
        )
    problem = Problem.of(groups, scores, budget, rules, table, curves)
    tracker = _ALLOCATE[allocation](problem)
    made = [group for group in problem.pool if not group.selects]
    picking = {"bytes", "ms"} & problem.limits.keys()
    if picking and not tracker.meets(problem.limits) and made:
        problem = replace(problem, pool=made)  # picking inputs may cost more than it saves
        tracker = _ALLOCATE[allocation](problem)
    finish_(tracker, problem)
    return plan_units(
        groups, {n: (~left).nonzero()[0].tolist() for n, left in tracker.left.items()}
    )


def check_reachable(
    groups: Groups,
    budget: Budget,
    *,
    least: float = 0.0,
    round_to: int = 1,
    protected: Mapping[str, Iterable[int]] | None = None,
    table: LatencyTable | None = None,
) -> None:
    """Raise what `make_plan` would where no plan at all can meet `budget`'s limits.

    A floor of accuracy is not looked at.

    Raises:
        BudgetError: says the least that can be.
        NothingToPruneError: there is no group.
    """
    groups.require_any()
    rules = Rules.of(groups, least, round_to, protected)
    limits = budget.absolute(CostTracker(groups, table).totals)
    rules.require_reachable(list(groups.values()), limits, table)


def least_costs(
    groups: Groups,
    *,
    least: float = 0.0,
    round_to: int = 1,
    protected: Mapping[str, Iterable[int]] | None = None,
    table: LatencyTable | None = None,
) -> dict[str, float]:
    """Return the least that any plan can leave, in each currency by itself.

    It is the lower end of a search for the smallest network that keeps its accuracy.
    """
    return Rules.of(groups, least, round_to, protected).least_costs(list(groups.values()), table)
