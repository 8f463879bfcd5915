"""The smallest network that keeps an accuracy: step down, step back, step less.

s ← step;  while 1 − s ≥ 3 %:
    aim at s·(present cost), cut and train
    accuracy ≥ floor on validation: continue from there
    else: go back, s ← √s
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from prunus.core import BudgetError
from prunus.pipelines.pruning.iteration import iterate
from prunus.pipelines.pruning.protect import still_protected
from prunus.pipelines.pruning.rows import say_costs
from prunus.pipelines.pruning.state import Pruning, PruningState
from prunus.plan import least_costs

__all__ = ["find_smallest"]

#: An attempt that would save less of the present cost is not worth its training.
LEAST_SAVING = 0.03


def find_smallest(pruning: Pruning, state: PruningState) -> tuple[PruningState, str]:
    """Return the last network that kept `pruning.floor` on validation, and why the search stopped.

    The search minimises the multiply-accumulates (MACs), down to the least that any plan can
    keep. If the budget has limits too, it reduces their currencies down to the limits and no
    further: the limits determine the size, and accuracy is the floor on the way there. An attempt
    aims at `config.step` of the present cost in each currency. After a failure the logarithm of
    the step is halved. There are at most `config.iterations_max` attempts.

    The network is selected by validation accuracy, which is therefore optimistic by the noise of
    the split; the test accuracy is not. The search by halved steps is our reconstruction,
    theory.md (60); [Kung-Hou, Algorithm 1] stops at the first failure.
    """
    config, watch = pruning.config, pruning.session.watch
    assert pruning.floor is not None
    limits = pruning.budget.absolute(pruning.costs)
    log_step = math.log(config.step)
    lost: dict[str, float] = {}
    i = 1
    while True:
        if limits and all(state.costs[c] <= limit for c, limit in limits.items()):
            return state, "the budget is met"
        if i > config.iterations_max:
            return state, _no_smaller(pruning, limits, f"iterations_max={i - 1} reached")
        if 1 - math.exp(log_step) < LEAST_SAVING:
            return state, _no_smaller(
                pruning, limits, f"at {math.exp(2 * log_step):.1%} of its cost it falls below"
            )
        targets = _targets(pruning, state, math.exp(log_step), limits)
        if all(state.costs[currency] <= target for currency, target in targets.items()):
            return state, _no_smaller(pruning, limits, "nothing more can be removed")
        if targets == lost:  # already at the least: the same cut again
            log_step /= 2
            continue
        try:
            reached = iterate(pruning, state, targets, i)
        except BudgetError as error:
            return state, _no_smaller(pruning, limits, str(error))
        kept = reached.accuracy >= pruning.floor
        watch.say(
            f"attempt {i}: {say_costs(reached.costs, targets)}, validation accuracy "
            f"{reached.accuracy:.2%}, {'kept' if kept else 'below the floor: one step back'}"
        )
        i += 1
        if kept:
            state, lost = reached, {}
        else:
            log_step, lost = log_step / 2, targets


def _targets(
    pruning: Pruning, state: PruningState, step: float, limits: Mapping[str, float]
) -> dict[str, float]:
    """Return the targets of the next attempt: the step, but no less than the limit or the least."""
    groups = state.groups
    least = least_costs(
        groups,
        least=pruning.config.least,
        round_to=pruning.config.round_to or 1,
        protected=still_protected(pruning.protected, state.plan, groups),
        table=pruning.session.table,
    )
    targets = {}
    for currency in limits or ("macs",):
        aim = max(step * state.costs[currency], least[currency], limits.get(currency, 0.0))
        targets[currency] = aim if currency == "ms" else math.floor(aim)
    return targets


def _no_smaller(pruning: Pruning, limits: Mapping[str, float], why: str) -> str:
    """Return why the search stopped, and whether limits were not met."""
    kept = (
        f"the smallest network found with {pruning.floor:.2%} or more on validation is kept ({why})"
    )
    return f"the limits {pruning.budget} could not all be met: {kept}" if limits else kept
