"""One PS-iteration: a cut, its P-phase, and the resulting network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from prunus.pipelines.pruning.groups import trace
from prunus.pipelines.pruning.latency import costs_of
from prunus.pipelines.pruning.s_phase import s_phase_
from prunus.pipelines.pruning.state import Pruning, PruningState
from prunus.plan import Budget
from prunus.runs import PruneConfig, p_phase_

__all__ = ["floor_of", "iterate", "targets_of"]


def floor_of(budget: Budget, config: PruneConfig) -> float | None:
    """Return the validation accuracy that must be kept: the higher of the two settings."""
    asked = [floor for floor in (budget.accuracy, config.min_accuracy) if floor is not None]
    return max(asked, default=None)


def targets_of(
    dense: Mapping[str, float], limits: Mapping[str, float], way: float
) -> dict[str, float]:
    """Return dense·(limit/dense)^way of each limited currency.

    Equal steps of `way` cut equal shares of the rest; 0 is the dense network, 1 the limits.
    """
    targets = {}
    for currency, limit in limits.items():
        aim = dense[currency] * (limit / dense[currency]) ** way
        targets[currency] = max(limit, aim if currency == "ms" else round(aim))
    return targets


def iterate(
    pruning: Pruning, held: PruningState, targets: Mapping[str, float], i: int
) -> PruningState:
    """Run S-phase and P-phase `i`, or restore them from the journal; `held` is not changed.

    Raises:
        BudgetError: no plan can meet the targets.
    """
    config, session = pruning.config, pruning.session
    journal, step = session.journal, f"{i:03d}"
    done = journal.record.find("iteration", iteration=i)
    if done is not None and journal.has(step):
        return _restored(pruning, step, i, done["validation_accuracy"])
    cut = journal.record.find("prune", iteration=i)
    if cut is not None and journal.has(f"{step}-cut"):
        reached = _restored(pruning, f"{step}-cut", i, cut["validation_cut"])
    else:
        made = s_phase_(pruning, held.copied(), targets, i)
        reached = made.state
        journal.save(f"{step}-cut", reached.model, reached.plan)
        journal.append_once("prune", made.row, iteration=i)
    trained = p_phase_(
        reached.model,
        config.finetune,
        session,
        phase="iteration",
        iteration=i,
        teacher=pruning.teacher,
        parents=config.parents,
    )
    if trained is not None:
        reached = replace(reached, accuracy=trained["validation_accuracy"])
    row = {**reached.costs, "validation_accuracy": reached.accuracy}
    if pruning.floor is not None:
        row["kept"] = reached.accuracy >= pruning.floor
    journal.save(step, reached.model, reached.plan)
    journal.append_once("iteration", row, iteration=i)
    return reached


def _restored(pruning: Pruning, step: str, i: int, accuracy: float) -> PruningState:
    """Return the state after a step of the journal; its network is traced again."""
    session = pruning.session
    model, plan = session.journal.restore(step, pruning.dense)
    groups = trace(model, pruning.example, pruning.config)
    costs = costs_of(groups, session.table)
    return PruningState(iteration=i, groups=groups, plan=plan, costs=costs, accuracy=accuracy)
