"""PS-iteration: prune a little, train, and again (seed 000, Algorithm 1).

while the budget is not met and accuracy ≥ threshold:
    S-phase: statistics → scores → plan → surgery, by the local metric
    P-phase: train the parameters, by the external metric
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from prunus.core.errors import BudgetError
from prunus.evaluation import accuracy
from prunus.graph.copies import private_copy
from prunus.pipelines.config import PruneConfig
from prunus.pipelines.iteration import Job, State, floor_of, iterate, targets_of
from prunus.pipelines.latency import costs_of, with_round_to
from prunus.pipelines.protect import find_protected
from prunus.pipelines.rows import describe_groups, say_costs
from prunus.pipelines.s_phase import find_sound_groups, ignoring, measure_information
from prunus.pipelines.session import Session, p_phase_
from prunus.pipelines.smallest import find_smallest
from prunus.plan import Budget, Plan, check_reachable

__all__ = ["ps_iteration"]


def ps_iteration(
    dense: nn.Module, budget: Budget, config: PruneConfig, session: Session, *, example: Tensor
) -> tuple[nn.Module, Plan]:
    """Prune a copy of `dense` down to `budget`; return it with the plan from dense to it.

    With limits alone, iteration i of T aims at the cost dense·(limit/dense)^(i/T) in each
    currency, so each prunes the same share of what is left. Where validation accuracy falls
    below `config.min_accuracy` after a P-phase, the last network that held it is the result.
    With `accuracy>=` the way is searched for (`find_smallest`).

    A last P-phase with `config.final` ends the run; where there is a floor and it ends below,
    the network before it is kept. Whatever the journal holds is taken from there.

    Raises:
        BudgetError: the budget cannot be reached, which is said before any training, or the
            dense network itself is below the floor.
        NothingToPruneError: the network has no group.
    """
    journal, table = session.journal, session.table
    groups = find_sound_groups(dense, example, config)
    rules: dict[str, Any] = {"least": config.least, "table": table}
    check_reachable(groups, budget, round_to=config.round_to or 1, **rules)
    config = ignoring(config, groups)
    costs = costs_of(groups, table)
    journal.append_once("graph", describe_groups(groups))
    start = journal.record.find("iteration", iteration=0)
    if start is None:
        start = {**costs, "validation_accuracy": accuracy(dense, session.loaders.validation)}
        journal.append_once("iteration", start, iteration=0)
    before, floor = start["validation_accuracy"], floor_of(budget, config)
    if floor is not None and before < floor:
        raise BudgetError(
            f"the dense network's validation accuracy is {before:.2%}, below the floor of "
            f"{floor:.2%}: train it longer, or ask for at most accuracy>={before:.4g}"
        )
    protected = find_protected(dense, groups, config, session)
    config = with_round_to(config, budget, groups, session, protected=protected)
    check_reachable(groups, budget, protected=protected, round_to=config.round_to or 1, **rules)
    distilled = config.finetune.distill or config.final.distill
    job = Job(
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
    state = State(iteration=0, model=private_copy(dense), plan=Plan(), costs=costs, accuracy=before)
    state, reason = (to_limits if budget.accuracy is None else find_smallest)(job, state)
    journal.append_once("stop", {"reason": reason})
    session.watch.say(f"stopped: {reason}")
    model = _finish(job, state)
    measure_information(model, config, session, example=example, iteration=state.iteration)
    return model, state.plan


def to_limits(job: Job, state: State) -> tuple[State, str]:
    """Go down to the limits in `config.iterations` equal shares; return why it stopped."""
    T, limits = job.config.iterations, job.budget.absolute(job.costs)
    for i in range(1, T + 1):
        targets = targets_of(job.costs, limits, i / T)
        reached = iterate(job, state, targets, i)
        job.session.watch.say(
            f"iteration {i}/{T}: {say_costs(reached.costs, limits)}, "
            f"validation accuracy {reached.accuracy:.2%}"
        )
        if job.floor is not None and reached.accuracy < job.floor:
            return state, (
                f"validation accuracy fell to {reached.accuracy:.2%}, below the floor of "
                f"{job.floor:.2%}; the network before iteration {i} is kept"
            )
        state = reached
    return state, "the budget is met"


def _finish(job: Job, state: State) -> nn.Module:
    """Return the network after the final training, or before it where that lost the floor."""
    session, config = job.session, job.config
    model = state.model if job.floor is None else private_copy(state.model)
    p_phase_(
        model,
        config.final,
        session,
        phase="final",
        teacher=job.teacher,
        parents=config.parents,
    )
    if job.floor is None or not config.final.epochs:
        return model
    after = accuracy(model, session.loaders.validation)
    kept = after >= job.floor
    row = {"before": state.accuracy, "after": after, "floor": job.floor, "kept": kept}
    session.journal.append_once("final", row)
    if kept:
        return model
    session.watch.say(
        f"final training ended at {after:.2%}, below the floor of {job.floor:.2%}: the network "
        "before it is kept"
    )
    return state.model.eval()
