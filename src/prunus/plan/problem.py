"""The input of every allocation: which units may be removed, in which order, for which limits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prunus.core import ConfigError
from prunus.criteria import Scores
from prunus.evaluation import LatencyTable
from prunus.graph import Group, Groups
from prunus.plan.budget import Budget
from prunus.plan.cost_tracker import CostTracker
from prunus.plan.rules import Rules

__all__ = ["Problem"]


@dataclass(frozen=True, eq=False)
class Problem:
    """One allocation: `pool` may shrink within `rules` until `limits` are met."""

    groups: Groups
    pool: list[Group]
    scores: Scores
    limits: Mapping[str, float]
    rules: Rules
    table: LatencyTable | None
    curves: Mapping[str, float] | None

    @classmethod
    def of(
        cls,
        groups: Groups,
        scores: Scores,
        budget: Budget,
        rules: Rules,
        table: LatencyTable | None,
        curves: Mapping[str, float] | None,
    ) -> Problem:
        """Compute the limits in units and check that they can be met.

        Raises:
            BudgetError: a limit cannot be reached or cannot be counted.
            ConfigError: a curve's factor is not a number above 0, or of no group.
        """
        known = [group.name for group in groups.values()]
        for name, factor in (curves or {}).items():
            if name not in known or not 0 < factor < math.inf:
                raise ConfigError(
                    f"curves gives {name!r} the factor {factor!r}: expected a number above 0 for "
                    f"one of the groups {', '.join(known)}"
                )
        dense = CostTracker(groups, table).totals
        limits = budget.absolute(dense)
        pool = [group for group in groups.values() if group.name in scores.groups]
        rules.require_reachable(pool, limits, table, _left_out(scores))
        return cls(groups, pool, scores, limits, rules, table, curves)

    def tracker(self) -> CostTracker:
        """Return a cost tracker of the dense network."""
        return CostTracker(self.groups, self.table)

    def queue(self, group: Group) -> list[int]:
        """Return the units that may be removed, from the first to the last."""
        kept = self.rules.keeps(group)
        return [u for u in self.scores[group.name].order.tolist() if u not in kept]

    def worth(self, group: Group) -> list[float]:
        """Return the value of each unit of a group, on a common scale."""
        values: list[float] = (self.scores[group.name].values * self.factor(group)).tolist()
        return values

    def drop_(self, tracker: CostTracker, branches: Iterable[Group]) -> None:
        """Remove whole branches, in order of the value of their best unit.

        The last branch of a concatenation stays, because its consumer needs an input.
        """
        for group in sorted(branches, key=lambda g: max(self.worth(g))):
            tracker.drop(self.rules.falling(tracker, group))

    def factor(self, group: Group) -> float:
        """Return the factor that puts a group's values on a common scale.

        This is its measured factor if there are curves; otherwise, for scores that share no scale,
        one over the group's mean value.
        """
        if self.curves is not None:
            return self.curves.get(group.name, 1.0)
        if self.scores.comparable:
            return 1.0
        return 1.0 / max(float(self.scores[group.name].values.mean()), 1e-30)


def _left_out(scores: Scores) -> str:
    """Say which groups a criterion does not score, so that they stay whole; empty if none."""
    if not scores.skipped:
        return ""
    reasons: dict[str, list[str]] = {}
    for name, reason in scores.skipped.items():
        reasons.setdefault(reason, []).append(name)
    each = [f"{', '.join(names)} ({reason})" for reason, names in reasons.items()]
    return f"criterion {scores.criterion!r} does not score {'; '.join(each)}"
