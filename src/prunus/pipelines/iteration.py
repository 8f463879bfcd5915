"""One PS-iteration: a cut, its P-phase, and the network that comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from prunus.evaluation import accuracy
from prunus.graph.copies import private_copy
from prunus.pipelines.config import PruneConfig
from prunus.pipelines.latency import costs_of
from prunus.pipelines.s_phase import s_phase_, trace
from prunus.pipelines.session import Session, p_phase_
from prunus.plan import Budget, Plan

__all__ = ["Job", "State", "floor_of", "iterate", "targets_of"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """What stays the same through all iterations.

    `costs` are those of the dense network by currency, `protected` its units that never go, and
    `floor` the validation accuracy that must be kept.
    """

    dense: nn.Module
    budget: Budget
    config: PruneConfig
    session: Session
    example: Tensor
    teacher: nn.Module | None
    costs: Mapping[str, float]
    protected: Mapping[str, list[int]]
    floor: float | None


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """A network on the way: the iteration it came from, its plan, costs and accuracy."""

    iteration: int
    model: nn.Module
    plan: Plan
    costs: Mapping[str, float]
    accuracy: float


def floor_of(budget: Budget, config: PruneConfig) -> float | None:
    """Return the validation accuracy that must be kept: the higher of the two asked for."""
    asked = [floor for floor in (budget.accuracy, config.min_accuracy) if floor is not None]
    return max(asked, default=None)


def targets_of(
    dense: Mapping[str, float], limits: Mapping[str, float], way: float
) -> dict[str, float]:
    """Return dense·(limit/dense)^way of each limited currency.

    Equal ways cut equal shares of what is left; 0 is the dense network, 1 the limits.
    """
    targets = {}
    for currency, limit in limits.items():
        aim = dense[currency] * (limit / dense[currency]) ** way
        targets[currency] = max(limit, aim if currency == "ms" else round(aim))
    return targets


def iterate(job: Job, held: State, targets: Mapping[str, float], i: int) -> State:
    """Do S-phase and P-phase `i`, or take them from the journal; `held` is left as it is.

    Raises:
        BudgetError: no plan can meet the targets.
    """
    journal, config, session = job.session.journal, job.config, job.session
    step = f"{i:03d}"
    done = journal.record.find("iteration", iteration=i)
    if done is not None and journal.has(step):
        model, plan = journal.restore(step, job.dense)
        return _state(job, i, model, plan, done["validation_accuracy"])
    cut = journal.record.find("prune", iteration=i)
    if cut is not None and journal.has(f"{step}-cut"):
        model, plan = journal.restore(f"{step}-cut", job.dense)
    else:
        model = private_copy(held.model)
        later, cut = s_phase_(
            model,
            targets,
            config,
            session,
            example=job.example,
            iteration=i,
            held=(held.iteration, held.plan),
            protected=job.protected,
        )
        plan = held.plan.then(later)
        journal.save(f"{step}-cut", model, plan)
        journal.append_once("prune", cut, iteration=i)
    p_phase_(
        model,
        config.finetune,
        session,
        phase="iteration",
        iteration=i,
        teacher=job.teacher,
        parents=config.parents,
    )
    found = accuracy(model, session.loaders.validation)
    reached: dict[str, Any] = {**_costs(job, model), "validation_accuracy": found}
    if job.floor is not None:
        reached["kept"] = found >= job.floor
    journal.save(step, model, plan)
    journal.append_once("iteration", reached, iteration=i)
    return _state(job, i, model, plan, found)


def _state(job: Job, i: int, model: nn.Module, plan: Plan, found: float) -> State:
    costs = _costs(job, model)
    return State(iteration=i, model=model, plan=plan, costs=costs, accuracy=found)


def _costs(job: Job, model: nn.Module) -> dict[str, float]:
    return costs_of(trace(model, job.example, job.config), job.session.table)
