"""Exact last steps of an allocation: `narrow_to_limits_`, `widen_within_limits_`, `swap_widths_`.

Each tries a group's next width and recomputes the cost of the whole network, without linearising.
"""

from __future__ import annotations

import math

from prunus.plan.state import WidthState

__all__ = ["narrow_to_limits_", "swap_widths_", "widen_within_limits_"]


def narrow_to_limits_(state: WidthState) -> None:
    """Narrow groups until the limits are met, each time the one with the least loss per saving.

    Ends above the limits if every group is at its floor.
    """
    limits = state.problem.limits
    while not state.tracker.meets(limits):
        totals, loss = dict(state.tracker.totals), state.loss
        over = [c for c, limit in limits.items() if totals[c] > limit]
        best, chosen = (math.inf, math.inf), None
        for name, here in list(state.left.items()):
            goal = _next(state, name, -1)
            if goal is None:
                continue
            state.move({name: goal})
            share = sum((totals[c] - state.tracker.totals[c]) / limits[c] for c in over)
            rise = state.loss - loss
            state.move({name: here})
            rank = (rise / share if share > 0 else math.inf, rise)
            if chosen is None or rank < best:
                best, chosen = rank, (name, goal)
        if chosen is None:
            return
        state.move(dict([chosen]))


def widen_within_limits_(state: WidthState) -> None:
    """Widen groups while the limits allow it, each time the one that reduces the loss most."""
    while True:
        loss, best, chosen = state.loss, 0.0, None
        for name, here in list(state.left.items()):
            goal = _next(state, name, +1)
            if goal is None:
                continue
            state.move({name: goal})
            fits, won = state.tracker.meets(state.problem.limits), loss - state.loss
            state.move({name: here})
            if fits and won > best:
                best, chosen = won, (name, goal)
        if chosen is None:
            return
        state.move(dict([chosen]))


def swap_widths_(state: WidthState) -> None:
    """Narrow one group by a step to widen another, as long as the loss falls.

    At most 2 · groups swaps, each the best of all pairs.
    """
    for _ in range(2 * len(state.left)):
        widen_within_limits_(state)
        before, best, chosen = state.loss, state.loss, None
        for giver, had in list(state.left.items()):
            fewer = _next(state, giver, -1)
            if fewer is None:
                continue
            for taker, has in list(state.left.items()):
                more = _next(state, taker, +1)
                if taker == giver or more is None:
                    continue
                state.move({giver: fewer, taker: more})
                if state.tracker.meets(state.problem.limits) and state.loss < best:
                    best, chosen = state.loss, {giver: fewer, taker: more}
                state.move({giver: had, taker: has})
        if chosen is None or best >= before:
            return
        state.move(chosen)


def _next(state: WidthState, name: str, way: int) -> int | None:
    """Return the next smaller (−1) or larger (+1) permitted number of units, None at the end."""
    group, left = state.group[name], state.left[name]
    if way < 0:
        return state.problem.rules.next_count(group, left)
    return None if left == group.units else state.problem.rules.count_from(group, left + 1)
