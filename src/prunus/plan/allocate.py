"""Spread a budget over the groups: `make_plan`."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable

from prunus.core.errors import BudgetError, ConfigError
from prunus.criteria import Scores
from prunus.graph import Group, Groups
from prunus.plan.budget import Budget
from prunus.plan.ledger import Ledger
from prunus.plan.plan import Plan, plan_units

__all__ = ["ALLOCATIONS", "check_reachable", "make_plan"]

ALLOCATIONS = ("global", "uniform")


def make_plan(
    groups: Groups,
    scores: Scores,
    budget: Budget | str | dict[str, int],
    *,
    allocation: str = "global",
    least: float = 0.0,
) -> Plan:
    """Choose the units to remove so that the network costs at most `budget`.

    Args:
        budget: `"macs=50%"`, a `Budget`, or limits in units by currency.
        allocation: `uniform` keeps the same share of every group. `global` removes, again and
            again, the unit whose score is smallest for what its removal saves *now* (value ÷
            saving in the budget's currency); scores of unlike scale are first divided by
            their group's mean.
        least: the share of each group that always stays (at least one unit does).

    Cost: O(units · log groups) for `global`, O(groups · log units) for `uniform`.

    Raises:
        BudgetError: the budget cannot be reached; says the least that can be.
        NothingToPruneError: there is no group at all.
    """
    groups.require_any()
    if allocation not in ALLOCATIONS:
        raise ConfigError(f"allocation {allocation!r}: expected one of {', '.join(ALLOCATIONS)}")
    if isinstance(budget, str):
        budget = Budget.parse(budget)
    ledger = Ledger(groups)
    limits = budget.absolute(ledger.totals) if isinstance(budget, Budget) else budget
    pool = [group for group in groups if group.name in scores.groups]
    floor = _floors(pool, least)
    _check_reachable(groups, pool, floor, limits)
    if allocation == "uniform":
        ledger = _uniform(groups, pool, scores, floor, limits)
    else:
        _global_(ledger, pool, scores, floor, limits)
    _sweep_dead_(ledger, pool, floor)
    for currency, limit in limits.items():
        if ledger.totals[currency] > limit:
            raise BudgetError(
                f"budget {currency} ≤ {limit} cannot be reached by these scores: the least they "
                f"reach is {currency}={ledger.totals[currency]}; ask for no less"
            )
    return plan_units(groups, {n: (~left).nonzero()[0].tolist() for n, left in ledger.left.items()})


def check_reachable(groups: Groups, budget: Budget, *, least: float = 0.0) -> None:
    """Raise what `make_plan` would where no plan at all can meet `budget`.

    Raises:
        BudgetError: says the least that can be.
        NothingToPruneError: there is no group.
    """
    groups.require_any()
    limits = budget.absolute(Ledger(groups).totals)
    _check_reachable(groups, list(groups), _floors(groups, least), limits)


def _floors(groups: Iterable[Group], least: float) -> dict[str, int]:
    return {group.name: max(group.least, math.ceil(group.units * least)) for group in groups}


def _check_reachable(
    groups: Groups, pool: list[Group], floor: dict[str, int], limits: dict[str, int]
) -> None:
    ledger = Ledger(groups)
    dense = dict(ledger.totals)
    for group in pool:
        ledger.remove(group, range(floor[group.name], group.units))
    for currency, limit in limits.items():
        if ledger.totals[currency] > limit:
            least, whole = ledger.totals[currency], dense[currency]
            raise BudgetError(
                f"budget {currency} ≤ {limit} cannot be reached: the least is "
                f"{currency}={least} ({100 * least / whole:.2g}% of {whole}), with what cannot be "
                f"pruned and {'one unit' if set(floor.values()) == {1} else 'the least share'} of "
                "every group left; ask for no less"
            )


def _uniform(
    groups: Groups, pool: list[Group], scores: Scores, floor: dict[str, int], limits: dict[str, int]
) -> Ledger:
    """Bisect the greatest share of units that keeps within the limits."""

    def cut(share: float) -> Ledger:
        ledger = Ledger(groups)
        for group in pool:
            keep = max(floor[group.name], round(group.units * share))
            ledger.remove(group, scores[group.name].order[: group.units - keep].tolist())
        return ledger

    low, high = 0.0, 1.0
    if cut(high).meets(limits):
        return cut(high)
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (middle, high) if cut(middle).meets(limits) else (low, middle)
    return cut(low)


def _global_(
    ledger: Ledger,
    pool: list[Group],
    scores: Scores,
    floor: dict[str, int],
    limits: dict[str, int],
) -> None:
    """Remove the unit with the smallest value a saved share, until the limits are met.

    Savings only fall as other groups shrink and values never fall along a group's order, so a
    ratio computed earlier is a lower bound: a heap with lazy re-evaluation finds the smallest.
    """
    dense = dict(ledger.totals)
    order = {g.name: scores[g.name].order.tolist() for g in pool}
    value = {}
    for group in pool:
        values = scores[group.name].values
        scale = 1.0 if scores.comparable else max(float(values.mean()), 1e-30)
        value[group.name] = (values / scale).tolist()
    taken = dict.fromkeys(order, 0)

    def upcoming(group: Group) -> int | None:
        """Return the next unit that is still there, or None at the group's floor."""
        there, queue = ledger.present(group), order[group.name]
        if there.sum() <= floor[group.name]:
            return None
        while taken[group.name] < group.units and not there[queue[taken[group.name]]]:
            taken[group.name] += 1
        return queue[taken[group.name]] if taken[group.name] < group.units else None

    def ratio(group: Group, unit: int) -> float:
        saved = ledger.saving(group, [unit])
        share = sum(saved[c] / dense[c] for c, limit in limits.items() if ledger.totals[c] > limit)
        return float(value[group.name][unit]) / share if share > 0 else math.inf

    heap = [(0.0, i) for i in range(len(pool))]
    while heap and not ledger.meets(limits):
        _, i = heapq.heappop(heap)
        group = pool[i]
        unit = upcoming(group)
        if unit is None:
            continue
        now = ratio(group, unit)
        if heap and now > heap[0][0]:
            heapq.heappush(heap, (now, i))
            continue
        ledger.remove(group, [unit])
        taken[group.name] += 1
        if any(member.axis == "select" for member in group.members):
            _sweep_dead_(ledger, pool, floor)
        heapq.heappush(heap, (now, i))


def _sweep_dead_(ledger: Ledger, pool: list[Group], floor: dict[str, int]) -> None:
    """Remove units that nobody reads any more (every flattened position deselected)."""
    for group in pool:
        readers = [m for m in group.consumers if m.index.shape[1] > 1]
        if not readers or len(readers) < len(group.consumers):
            continue  # only a flattened reader can drop all of a channel's positions
        read = sum(ledger.reading[m.module][m.index].any(axis=1) for m in readers)
        dead = (ledger.left[group.name] & (read == 0)).nonzero()[0]
        spare = int(ledger.left[group.name].sum()) - floor[group.name]
        ledger.remove(group, dead[: max(spare, 0)].tolist())
