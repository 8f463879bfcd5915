"""How far groups may shrink: least shares, rounded widths, protected units, the minimum."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from prunus.core import BudgetError, ConfigError
from prunus.evaluation import LatencyTable
from prunus.graph import Group, Groups
from prunus.plan.budget import written
from prunus.plan.cost_tracker import CostTracker

__all__ = ["Rules"]


@dataclass(frozen=True, eq=False)
class Rules:
    """How few units of each group may be left, and which are never removed.

    Attributes:
        least: the share of each group that is always kept.
        round_to: the kept units are a multiple of it if a group is at least that wide; a group that
            loses nothing keeps its width.
        protected: units that are never removed, by group name. What is protected where it is read
            also keeps the channel it comes from.
    """

    groups: Groups
    least: float
    round_to: int
    protected: Mapping[str, frozenset[int]]

    @classmethod
    def of(
        cls,
        groups: Groups,
        least: float = 0.0,
        round_to: int = 1,
        protected: Mapping[str, Iterable[int]] | None = None,
    ) -> Rules:
        """Check the settings and follow protected positions to their channels.

        Raises:
            ConfigError: a share or `round_to` is out of range, or a group or unit does not exist.
        """
        if not 0 <= least <= 1:
            raise ConfigError(f"least is {least!r}, expected a share of each group, 0 to 1")
        if round_to < 1:
            raise ConfigError(f"round_to is {round_to!r}, expected a whole number of at least 1")
        kept = {name: frozenset(units) for name, units in (protected or {}).items()}
        known = {group.name: group for group in groups.values()}
        for name, units in kept.items():
            if name not in known:
                raise ConfigError(
                    f"protected names group {name!r}: the groups are {', '.join(known)}"
                )
            wrong = [u for u in units if not 0 <= u < known[name].units]
            if wrong:
                raise ConfigError(
                    f"protected names unit {min(wrong)} of {name!r}, which has units 0 to "
                    f"{known[name].units - 1}"
                )
        for name in [n for n in kept if known[n].selects]:
            for group in groups.values():
                kept[group.name] = kept.get(group.name, frozenset()) | _sources(
                    group, known[name], kept[name]
                )
        return cls(groups, least, round_to, kept)

    def keeps(self, group: Group) -> frozenset[int]:
        """Return the units of `group` that are never removed."""
        return self.protected.get(group.name, frozenset())

    def step(self, group: Group) -> int:
        """Return the multiple of the number of units kept of `group`."""
        return self.round_to if group.units >= self.round_to else 1

    def floor(self, group: Group) -> int:
        """Return the fewest units of `group` that may be left if it is not removed as a whole."""
        floor = max(group.least, 1, math.ceil(group.units * self.least), len(self.keeps(group)))
        step = self.step(group)
        return min(group.units, step * math.ceil(floor / step))

    def counts(self, group: Group) -> list[int]:
        """Return the permitted numbers of units of `group`, from all of them downwards."""
        fewer = range(self.floor(group), group.units, self.step(group))
        return [group.units, *reversed(fewer)]

    def next_count(self, group: Group, left: int) -> int | None:
        """Return the largest permitted number below `left`, None at the floor."""
        step = self.step(group)
        fewer = step * ((left - 1) // step)
        return fewer if fewer >= self.floor(group) else None

    def count_from(self, group: Group, left: int) -> int:
        """Return the smallest permitted number from `left` upwards."""
        step = self.step(group)
        return min(group.units, step * math.ceil(max(left, self.floor(group)) / step))

    def may_go(self, group: Group) -> bool:
        """Return whether `group` may be removed as a whole, if nothing else prevents it."""
        return group.least == 0 and self.least == 0 and not self.keeps(group)

    def falling(self, tracker: CostTracker, group: Group) -> list[Group]:
        """Return what is removed together with all of `group`; empty if a unit is protected.

        What is removed with it need not be scored: nothing would read it.
        """
        fallen = tracker.falling(group) if self.may_go(group) else []
        return [] if any(map(self.keeps, fallen)) else fallen

    def spare(self, group: Group) -> list[int]:
        """Return the units that are removed when only the fewest are left."""
        free = [u for u in range(group.units) if u not in self.keeps(group)]
        return free[len(free) - (group.units - self.floor(group)) :]

    def least_costs(
        self, pool: Iterable[Group], table: LatencyTable | None = None
    ) -> dict[str, float]:
        """Return, for each currency separately, the least cost of `pool` cut to its floors.

        A selection that costs more bytes (its index) or milliseconds (selecting) than it saves is
        left out. Of the branches that may be removed as a whole, those that save most are removed
        first, and one of each concatenation stays; that is the minimum, or close to it.
        """
        pool = list(pool)
        if not any(self.may_go(group) for group in pool):
            return self._least_costs(pool, table, None)
        currencies = CostTracker(self.groups, table).totals
        return {c: self._least_costs(pool, table, c)[c] for c in currencies}

    def _least_costs(
        self, pool: list[Group], table: LatencyTable | None, first: str | None
    ) -> dict[str, float]:
        """Return the least costs; branches are removed by their saving of the currency `first`."""
        tracker = CostTracker(self.groups, table)
        for group in pool:
            if not group.selects:
                tracker.remove(group, self.spare(group))
        if first is not None:
            self._drop_all_(tracker, pool, first)
        lowest = {c: cost for c, cost in tracker.totals.items() if c in ("bytes", "ms")}
        for group in (g for g in pool if g.selects):
            there = tracker.arrives(group)
            kept = self.keeps(group)
            free = [u for u in there.nonzero()[0].tolist() if u not in kept]
            goes = max(0, int(there.sum()) - self.floor(group))
            before = dict(tracker.totals)
            tracker.remove(group, free[len(free) - min(goes, len(free)) :])
            for currency in lowest:
                lowest[currency] -= max(0, before[currency] - tracker.totals[currency])
        return {**tracker.totals, **lowest}

    def _drop_all_(self, tracker: CostTracker, pool: list[Group], currency: str) -> None:
        """Remove every removable branch, those that save most first, until none is left."""
        going = True
        while going:
            saved = {}
            for group in filter(self.may_go, pool):
                found = tracker.drop(self.falling(tracker, group), trial=True)
                saved[group.name] = found[currency] if found else 0.0
            going = False
            for group in sorted(filter(self.may_go, pool), key=lambda g: -saved[g.name]):
                fallen = self.falling(tracker, group)
                going |= bool(fallen) and tracker.drop(fallen) is not None

    def require_reachable(
        self,
        pool: list[Group],
        limits: Mapping[str, float],
        table: LatencyTable | None,
        left_out: str = "",
    ) -> None:
        """Raise `BudgetError`, with the reachable minimum, if a limit is below it.

        `left_out` says which groups are not in the pool, and why.
        """
        dense = CostTracker(self.groups, table).totals
        lowest = self.least_costs(pool, table)
        bare = all(self.floor(group) == 1 for group in pool)
        whole_too = " that cannot be removed as a whole" * any(self.may_go(group) for group in pool)
        extra = " and ".join(
            words
            for words, there in (
                ("the protected units", any(self.protected.values())),
                (f"multiples of {self.round_to}", self.round_to > 1),
            )
            if there
        )
        for currency, limit in limits.items():
            if lowest[currency] > limit:
                least, whole = lowest[currency], dense[currency]
                raise BudgetError(
                    f"budget {currency} ≤ {written(currency, limit)} cannot be reached: the least "
                    f"is {currency}={written(currency, least)} ({100 * least / whole:.3g}% of "
                    f"{written(currency, whole)}), with everything that cannot be pruned and "
                    f"{'one unit' if bare else 'the least share'} of every group left"
                    f"{whole_too}{', ' * bool(extra)}{extra}; give at least that"
                    + f". What stays whole: {left_out}"
                    * bool(left_out)
                )


def _sources(group: Group, selection: Group, units: frozenset[int]) -> frozenset[int]:
    """Return the units of `group` whose channels hold the positions `units` of `selection`."""
    read = {m.module: m.index[sorted(units)].ravel() for m in selection.members}
    found: set[int] = set()
    for member in group.members:
        if member.axis == "in" and member.module in read:
            held = np.isin(member.index, read[member.module])
            found.update(np.nonzero(held.any(axis=1))[0].tolist())
    return frozenset(found)
