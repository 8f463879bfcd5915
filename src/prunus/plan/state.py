"""A network at chosen widths, its exact cost and its summed loss: `WidthState`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from prunus.graph import Group
from prunus.plan.cost_tracker import CostTracker
from prunus.plan.problem import Problem

__all__ = ["WidthState"]


class WidthState:
    """How many units of each group are kept, each group cut along its own order.

    loss = Σ_groups factor · Σ_{units gone} cost; a position whose channel was removed counts only
    with the channel. In a selection, units that come first in its order and still arrive are
    removed first.

    Attributes:
        group: the groups that may shrink, by name.
        tracker: the exact cost of the network as it is.
        left: the requested number of units of each group. A selection may have fewer, if the
            channels they come from are removed.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.tracker: CostTracker = problem.tracker()
        self.left = {group.name: group.units for group in problem.pool}
        self.group = {group.name: group for group in problem.pool}
        self._selections = [g for g in problem.pool if g.selects]
        self._queue = {g.name: np.array(problem.queue(g), dtype=np.int64) for g in problem.pool}
        self._cost: dict[str, NDArray[np.float64]] = {}
        for group in problem.pool:
            costs = problem.scores[group.name].costs.clamp(min=0).numpy()
            self._cost[group.name] = problem.factor(group) * costs
        self._loss = dict.fromkeys(self.left, 0.0)

    @property
    def loss(self) -> float:
        """The summed loss of the removed units."""
        return sum(self._loss.values())

    def follow(self, tracker: CostTracker) -> None:
        """Move to the widths of another tracker, or to the next larger permitted ones."""
        left = {}
        for group in self.problem.pool:
            there = int(tracker.present(group).sum())
            whole = there == int(tracker.arrives(group).sum())
            left[group.name] = group.units if whole else self.problem.rules.count_from(group, there)
        self.move(left)

    def move(self, left: Mapping[str, int]) -> None:
        """Keep the given number of units of each named group."""
        named = [self.group[name] for name in left]
        changed = [g for g in named if not g.selects and left[g.name] != self._there(g)]
        self.left.update(left)
        if changed:
            for group in self._selections:  # a channel may hold the last positions that are read
                self.tracker.put_back(group, range(group.units))
        for group in changed:
            gone = ~self.tracker.left[group.name]
            wanted = np.zeros(group.units, dtype=bool)
            wanted[self._queue[group.name][: group.units - self.left[group.name]]] = True
            self._turn(group, gone, wanted)
        for group in self._selections:
            arrives = self.tracker.arrives(group)
            waiting = self._queue[group.name]
            waiting = waiting[arrives[waiting]]
            wanted = np.zeros(group.units, dtype=bool)
            wanted[waiting[: max(0, int(arrives.sum()) - self.left[group.name])]] = True
            self._turn(group, ~self.tracker.left[group.name], wanted)

    def _there(self, group: Group) -> int:
        return int(np.count_nonzero(self.tracker.left[group.name]))

    def _turn(self, group: Group, gone: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> None:
        """Put back and remove units so that exactly `wanted` are removed."""
        back, going = (gone & ~wanted).nonzero()[0], (wanted & ~gone).nonzero()[0]
        if len(back):
            self.tracker.put_back(group, back.tolist())
        if len(going):
            self.tracker.remove(group, going.tolist())
        self._loss[group.name] = float(self._cost[group.name][wanted].sum())
