"""PS-iteration: prune a little, train, and again (seed 000, Algorithm 1).

while the budget is not met and accuracy ≥ threshold:
    S-phase: statistics → scores → plan → surgery, by the local metric
    P-phase: train the parameters, by the external metric
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from prunus.evaluation import accuracy
from prunus.pipelines.config import PruneConfig
from prunus.pipelines.s_phase import describe_groups, find_sound_groups, ignoring, s_phase_
from prunus.pipelines.session import Session, p_phase_
from prunus.plan import Budget, Plan, check_reachable

__all__ = ["ps_iteration"]


def ps_iteration(
    dense: nn.Module, budget: Budget, config: PruneConfig, session: Session, *, example: Tensor
) -> tuple[nn.Module, Plan]:
    """Prune a copy of `dense` down to `budget`; return it with the plan from dense to it.

    Iteration i of T aims at the cost dense·(budget/dense)^(i/T), so each prunes the same share of
    what is left. Where validation accuracy falls below `config.min_accuracy` after a P-phase,
    the last network that held it is the result. A last P-phase with `config.final` ends the run.
    Whatever the journal holds is taken from there.

    Raises:
        BudgetError: the budget cannot be reached; said before any training.
        NothingToPruneError: the network has no group.
    """
    journal, watch, floor = session.journal, session.watch, config.min_accuracy
    groups = find_sound_groups(dense, example, config)
    check_reachable(groups, budget, least=config.least)
    config = ignoring(config, groups)
    cost = {"params": groups.total_params, "macs": groups.total_macs}
    journal.append_once("graph", describe_groups(groups))
    if journal.record.find("iteration", iteration=0) is None:
        before = accuracy(dense, session.loaders.validation)
        journal.record.append("iteration", iteration=0, validation_accuracy=before, **cost)
    teacher = copy.deepcopy(dense) if config.finetune.distill or config.final.distill else None

    model, plan = copy.deepcopy(dense), Plan()
    for i in range(1, config.iterations + 1):
        held = (model, plan)
        targets = {
            currency: max(limit, round(cost[currency] * (limit / cost[currency]) ** (i / T)))
            for T in [config.iterations]
            for currency, limit in budget.absolute(cost).items()
        }
        model, plan, reached = _iteration(
            dense, held, targets, config, session, example=example, i=i, teacher=teacher
        )
        watch.say(
            f"iteration {i}/{config.iterations}: {reached['params']} parameters, "
            f"{reached['macs']} MACs, validation accuracy {reached['validation_accuracy']:.2%}"
        )
        if floor is not None and reached["validation_accuracy"] < floor:
            model, plan = held
            reason = (
                f"validation accuracy fell to {reached['validation_accuracy']:.2%}, below the "
                f"floor of {floor:.2%}; the network before iteration {i} is kept"
            )
            journal.append_once("stop", {"reason": reason})
            watch.say(f"stopped: {reason}")
            break
    journal.append_once("stop", {"reason": "the budget is met"})
    return p_phase_(model, config.final, session, phase="final", teacher=teacher), plan


def _iteration(
    dense: nn.Module,
    held: tuple[nn.Module, Plan],
    targets: dict[str, int],
    config: PruneConfig,
    session: Session,
    *,
    example: Tensor,
    i: int,
    teacher: nn.Module | None,
) -> tuple[nn.Module, Plan, dict[str, Any]]:
    """Do one S-phase and one P-phase, or take them from the journal; `held` is left as it is."""
    journal, step = session.journal, f"{i:03d}"
    done = journal.record.find("iteration", iteration=i)
    if done is not None and journal.has(step):
        return (*journal.restore(step, dense), done)
    cut = journal.record.find("prune", iteration=i)
    if cut is not None and journal.has(f"{step}-cut"):
        model, plan = journal.restore(f"{step}-cut", dense)
    else:
        model = copy.deepcopy(held[0])
        later, cut = s_phase_(model, targets, config, session, example=example, iteration=i)
        plan = held[1].then(later)
        journal.save(f"{step}-cut", model, plan)
        journal.append_once("prune", cut, iteration=i)
    p_phase_(model, config.finetune, session, phase="iteration", iteration=i, teacher=teacher)
    reached = {
        "params": cut["params"],
        "macs": cut["macs"],
        "validation_accuracy": accuracy(model, session.loaders.validation),
    }
    journal.save(step, model, plan)
    journal.append_once("iteration", reached, iteration=i)
    return model, plan, reached
