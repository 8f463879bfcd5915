"""PS-iteration: prune a little, train, repeat [Kung-Hou, Algorithm 1].

while the budget is not met and accuracy ≥ threshold:
    S-phase: statistics → scores → plan → surgery, by the local metric
    P-phase: train the parameters, by the external metric
"""

from __future__ import annotations

from torch import nn

from prunus.batches import Example
from prunus.core import BudgetError
from prunus.evaluation import accuracy
from prunus.graph import Groups
from prunus.modules import bake_, baked_words, private_copy
from prunus.pipelines.pruning.accuracy_search import find_smallest
from prunus.pipelines.pruning.groups import (
    find_sound_groups,
    ignoring,
    require_reachable,
    without_ignored,
)
from prunus.pipelines.pruning.iteration import floor_of, iterate, targets_of
from prunus.pipelines.pruning.latency import costs_of, with_round_to
from prunus.pipelines.pruning.protect import find_protected
from prunus.pipelines.pruning.rows import describe_groups, say_costs
from prunus.pipelines.pruning.s_phase import measure_information
from prunus.pipelines.pruning.state import Pruning, PruningState
from prunus.plan import Budget, Plan
from prunus.runs import PruneConfig, Session, last_epoch, p_phase_

__all__ = ["ps_iteration"]


def ps_iteration(
    dense: nn.Module,
    budget: Budget,
    config: PruneConfig,
    session: Session,
    *,
    example: Example,
    groups: Groups | None = None,
) -> tuple[nn.Module, Plan]:
    """Prune a copy of `dense` down to `budget`; return it with its plan relative to `dense`.

    With limits only, iteration i of T aims at the cost dense·(limit/dense)^(i/T) in each
    currency, so each iteration prunes the same share of the rest. If validation accuracy falls
    below `config.min_accuracy` after a P-phase, the last network that kept it is the result.
    With `accuracy>=` the smallest network is searched for (`find_smallest`).

    A final P-phase with `config.final` ends the run; if its accuracy is below the floor, the
    network before it is kept. Steps in the journal are restored, not repeated.

    Args:
        groups: the result of `find_sound_groups` for `dense`, if the caller has it and has
            checked that the budget is reachable; otherwise both are done here.

    Raises:
        BudgetError: the budget cannot be reached (raised before any training), or the dense
            network itself is below the floor.
        NothingToPruneError: the network has no group.
    """
    journal, table = session.journal, session.table
    if groups is None:
        groups = find_sound_groups(dense, example, config)
        require_reachable(groups, budget, config, table=table)
    config = ignoring(config, groups)
    costs = costs_of(groups, table)
    journal.append_once("graph", describe_groups(groups))
    start = journal.record.find("iteration", iteration=0)
    if start is None:
        trained = last_epoch(journal, "dense")
        found = (
            accuracy(dense, session.loaders.validation)
            if trained is None
            else trained["validation_accuracy"]
        )
        start = {**costs, "validation_accuracy": found}
        journal.append_once("iteration", start, iteration=0)
    before, floor = start["validation_accuracy"], floor_of(budget, config)
    if floor is not None and before < floor:
        raise BudgetError(
            f"the dense network's validation accuracy is {before:.2%}, below the floor of "
            f"{floor:.2%}: train it longer, or require at most accuracy>={before:.4g}"
        )
    protected = find_protected(dense, groups, config, session)
    config = with_round_to(config, budget, groups, session, protected=protected)
    if any(protected.values()):  # the remaining units may not suffice
        require_reachable(groups, budget, config, table=table, protected=protected)
    distilled = config.finetune.distill or config.final.distill
    pruning = Pruning(
        dense=dense,
        budget=budget,
        config=config,
        session=session,
        example=example,
        teacher=private_copy(dense) if distilled else None,
        costs=costs,
        protected=protected,
        floor=floor,
    )
    groups = without_ignored(groups, config)
    state = PruningState(
        iteration=0, groups=groups, plan=Plan(), costs=costs, accuracy=before
    ).copied()
    bake_(state.model)
    if groups.baked:
        session.watch.say(baked_words(groups.baked))
    descend = to_limits if budget.accuracy is None else find_smallest
    state, reason = descend(pruning, state)
    journal.append_once("stop", {"reason": reason})
    session.watch.say(f"stopped: {reason}")
    state = _finish(pruning, state)
    measure_information(pruning, state)
    return state.model, state.plan


def to_limits(pruning: Pruning, state: PruningState) -> tuple[PruningState, str]:
    """Prune to the limits in `config.iterations` equal shares; return why it stopped."""
    T, limits = pruning.config.iterations, pruning.budget.absolute(pruning.costs)
    for i in range(1, T + 1):
        targets = targets_of(pruning.costs, limits, i / T)
        reached = iterate(pruning, state, targets, i)
        pruning.session.watch.say(
            f"iteration {i}/{T}: {say_costs(reached.costs, limits)}, "
            f"validation accuracy {reached.accuracy:.2%}"
        )
        if pruning.floor is not None and reached.accuracy < pruning.floor:
            return state, (
                f"validation accuracy fell to {reached.accuracy:.2%}, below the floor of "
                f"{pruning.floor:.2%}; the network before iteration {i} is kept"
            )
        state = reached
    return state, "the budget is met"


def _finish(pruning: Pruning, state: PruningState) -> PruningState:
    """Return the network after the final training, or before it if that fell below the floor."""
    session, config, floor = pruning.session, pruning.config, pruning.floor
    reached = state if floor is None else state.copied()
    trained = p_phase_(
        reached.model,
        config.final,
        session,
        phase="final",
        teacher=pruning.teacher,
        parents=config.parents,
    )
    if trained is None or floor is None:
        return reached
    after = trained["validation_accuracy"]
    kept = after >= floor
    row = {"before": state.accuracy, "after": after, "floor": floor, "kept": kept}
    session.journal.append_once("final", row)
    if kept:
        return reached
    session.watch.say(
        f"final training ended at {after:.2%}, below the floor of {floor:.2%}: the network "
        "before it is kept"
    )
    state.model.eval()
    return state
