"""The `dp` allocation: the least summed loss along each group's own order.

Choose how many units n_g each group keeps so that Σ_g loss_g(n_g) is least and cost(n) ≤ limit.
Source: dynamic programming over measured curves, [SPDY]; theory.md (52), (56).
Its costs add up over layers; ours do not (a layer costs out·in), so the cost is linearised at the
current widths n* as cost(n*) + Σ_g [cost(n* with n_g) − cost(n*)], solved, and linearised again at
the solution; an exact local search follows. That part is a reconstruction of ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunus.plan.cost_tracker import CostTracker
from prunus.plan.global_ import allocate_global
from prunus.plan.local_search import narrow_to_limits_, swap_widths_, widen_within_limits_
from prunus.plan.problem import Problem
from prunus.plan.state import WidthState
from prunus.plan.uniform import allocate_uniform

__all__ = ["allocate_dp", "knapsack"]

ROUNDS = 8
BUCKETS = 4000

Floats = NDArray[np.float64]


def allocate_dp(problem: Problem) -> CostTracker:
    """Minimise the summed loss within the limits.

    It starts from the uniform and from the global plan and never ends with a greater loss than
    either. Several limits are solved as one, their shares weighted by how far each is exceeded.

    Cost: at most 2 · 8 rounds of O(Σ_g counts_g · (members_g + 4000)), and for the last step
    O(groups²) exact costs per swap, of which there are at most 2 · groups.
    """
    state = WidthState(problem)
    best = _Best(dict(state.left))
    for start in (allocate_uniform, allocate_global):
        state.follow(start(problem))
        best.note(state)
        _search_locally_(state, best)
        weights = dict.fromkeys(problem.limits, 1.0)
        seen: set[tuple[int, ...]] = set()
        for _ in range(ROUNDS):
            state.move(_solve(state, weights))
            reached = tuple(state.left.values())
            if reached in seen:
                break
            seen.add(reached)
            if len(weights) > 1:
                for currency, limit in problem.limits.items():
                    weights[currency] *= (state.tracker.totals[currency] / max(limit, 1e-30)) ** 2
            _search_locally_(state, best)
    if best.loss == math.inf:
        return state.tracker  # at its floors, but still above the limits
    state.move(best.left)
    swap_widths_(state)
    return state.tracker


@dataclass
class _Best:
    """The widths with the least loss that met the limits so far."""

    left: dict[str, int]
    loss: float = math.inf

    def note(self, state: WidthState) -> None:
        if state.tracker.meets(state.problem.limits) and state.loss < self.loss:
            self.left, self.loss = dict(state.left), state.loss


def _search_locally_(state: WidthState, best: _Best) -> None:
    """Make the state meet the limits exactly, use what they leave, and record it."""
    narrow_to_limits_(state)
    widen_within_limits_(state)
    best.note(state)


def _solve(state: WidthState, weights: dict[str, float]) -> dict[str, int]:
    """Return the widths that minimise the loss by the cost linearised at `state`'s widths."""
    problem, here = state.problem, dict(state.left)

    def spent() -> float:
        totals = state.tracker.totals
        return sum(w * totals[c] / max(problem.limits[c], 1e-30) for c, w in weights.items())

    now = spent()
    counts, costs, losses = [], [], []
    for group in problem.pool:
        options, cost, loss = problem.rules.counts(group), [], []
        for left in options:
            state.move({group.name: left})
            cost.append(spent() - now)
            loss.append(state.loss)
        state.move({group.name: here[group.name]})
        counts.append(options)
        costs.append(np.array(cost))
        losses.append(np.array(loss))
    chosen = knapsack(costs, losses, sum(weights.values()) - now)
    return {g.name: counts[i][chosen[i]] for i, g in enumerate(problem.pool)}


def knapsack(costs: list[Floats], losses: list[Floats], limit: float) -> list[int]:
    """Return one option per group with the least Σ loss and Σ cost ≤ `limit`.

    Costs are counted in 4000 steps, rounded to the nearest; if no choice fits, each group's
    cheapest option is returned.
    """
    lowest = [float(cost.min()) for cost in costs]
    room = limit - sum(lowest)
    if room <= 0:
        return [int(cost.argmin()) for cost in costs]
    width = room / BUCKETS
    best = np.zeros(BUCKETS + 1)  # best[b]: the least loss of the groups so far within b steps
    picks = []
    for cost, low, loss in zip(costs, lowest, losses, strict=True):
        steps = np.rint((cost - low) / width).astype(np.int64)
        longer = np.full(BUCKETS + 1, np.inf)
        pick = np.zeros(BUCKETS + 1, dtype=np.int64)
        for option in np.argsort(loss, kind="stable"):
            step = int(steps[option])
            if step > BUCKETS:
                continue
            candidate = best[: BUCKETS + 1 - step] + loss[option]
            better = candidate < longer[step:]
            longer[step:][better] = candidate[better]
            pick[step:][better] = option
        best = longer
        picks.append((pick, steps))
    chosen, b = [], BUCKETS
    for pick, steps in reversed(picks):
        option = int(pick[b])
        chosen.append(option)
        b -= int(steps[option])
    return chosen[::-1]
