"""PS-iteration: prune a little, train, and again (seed 000, Algorithm 1).

while the budget is not met and accuracy ≥ threshold:
    S-phase: statistics → scores → plan → surgery, by the local metric
    P-phase: train the parameters, by the external metric
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from prunus.core import derive_seed, seed_everything
from prunus.criteria import Scores, score
from prunus.evaluation import accuracy
from prunus.graph import Groups, find_groups
from prunus.pipelines.config import PruneConfig
from prunus.pipelines.journal import Journal
from prunus.pipelines.watch import Watch
from prunus.plan import Budget, Plan, make_plan
from prunus.statistics import collect
from prunus.surgery import apply_, unsound_groups
from prunus.training import TrainConfig, fit_

__all__ = ["Loaders", "find_sound_groups", "ps_iteration", "train_phase_"]

Loader = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Loaders:
    """What a pipeline reads: training batches, the same images in a fixed order, validation."""

    train: Loader
    calibration: Loader
    validation: Loader


def ps_iteration(
    dense: nn.Module,
    loaders: Loaders,
    budget: Budget,
    config: PruneConfig,
    *,
    example: Tensor,
    fabric: Fabric,
    seed: int,
    journal: Journal,
    watch: Watch,
) -> tuple[nn.Module, Plan]:
    """Prune a copy of `dense` down to `budget`; return it with the plan from dense to it.

    Iteration i of T aims at the geometric mean cost dense·(budget/dense)^(i/T), so each prunes
    the same share of what is left. Where validation accuracy falls below
    `config.min_accuracy` after a P-phase, the last network that held it is the result. A last
    P-phase with `config.final` ends the run.

    Raises:
        BudgetError: the budget cannot be reached; said before any training.
        NothingToPruneError: the network has no group.
    """
    groups = find_sound_groups(dense, example, config)
    config = _ignoring(config, groups)
    groups.require_any()
    limits = budget.absolute({"params": groups.total_params, "macs": groups.total_macs})
    dense_cost = {"params": groups.total_params, "macs": groups.total_macs}
    journal.append_once("graph", _describe_groups(groups))
    teacher = copy.deepcopy(dense) if config.finetune.distill or config.final.distill else None
    model, plan = copy.deepcopy(dense), Plan()
    if journal.record.find("iteration", iteration=0) is None:
        row = {"validation_accuracy": accuracy(model, loaders.validation), **dense_cost}
        journal.record.append("iteration", iteration=0, **row)

    for i in range(1, config.iterations + 1):
        step = f"{i:03d}"
        held = (model, plan)
        if journal.record.find("iteration", iteration=i) is not None:
            model, plan = journal.restore(step, dense)
        else:
            targets = {
                currency: max(limit, round(dense_cost[currency] * share))
                for currency, limit in limits.items()
                for share in [(limit / dense_cost[currency]) ** (i / config.iterations)]
            }
            if journal.has(f"{step}-cut"):
                model, plan = journal.restore(f"{step}-cut", dense)
            else:
                model = copy.deepcopy(model)
                later, row = _s_phase_(model, loaders, targets, config, example, seed, i, watch)
                plan = plan.then(later)
                journal.save(f"{step}-cut", model, plan)
                journal.append_once("prune", row, iteration=i)
            model = train_phase_(
                model,
                loaders,
                config.finetune,
                phase="iteration",
                iteration=i,
                teacher=teacher,
                fabric=fabric,
                seed=seed,
                journal=journal,
                watch=watch,
            )
            found = _find(model, example, config)
            row = {
                "params": found.total_params,
                "macs": found.total_macs,
                "validation_accuracy": accuracy(model, loaders.validation),
            }
            journal.save(step, model, plan)
            journal.record.append("iteration", iteration=i, **row)
        reached = journal.record.find("iteration", iteration=i)
        assert reached is not None
        watch.say(
            f"iteration {i}/{config.iterations}: {reached['params']} parameters, "
            f"{reached['macs']} MACs, validation accuracy "
            f"{reached['validation_accuracy']:.2%}"
        )
        floor = config.min_accuracy
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
    model = train_phase_(
        model,
        loaders,
        config.final,
        phase="final",
        iteration=None,
        teacher=teacher,
        fabric=fabric,
        seed=seed,
        journal=journal,
        watch=watch,
    )
    return model, plan


def train_phase_(
    model: nn.Module,
    loaders: Loaders,
    config: TrainConfig,
    *,
    phase: str,
    iteration: int | None,
    teacher: nn.Module | None,
    fabric: Fabric,
    seed: int,
    journal: Journal,
    watch: Watch,
) -> nn.Module:
    """Run one P-phase in place, journalled by its epochs; return the model."""
    step = phase if iteration is None else f"{iteration:03d}"
    with watch.epochs(_title(phase, iteration), config.epochs) as on_epoch:
        rows = fit_(
            model,
            loaders.train,
            config,
            validation=loaders.validation,
            teacher=teacher,
            fabric=fabric,
            seed=derive_seed(seed, phase, iteration),
            checkpoint=journal.checkpoint(step),
            on_epoch=on_epoch,
        )
    journal.append_once("fit", {"epochs": rows}, phase=phase, iteration=iteration)
    return model


def _title(phase: str, iteration: int | None) -> str:
    return {"dense": "training the dense network", "final": "final training"}.get(
        phase, f"P-phase {iteration}"
    )


def _s_phase_(
    model: nn.Module,
    loaders: Loaders,
    targets: dict[str, int],
    config: PruneConfig,
    example: Tensor,
    seed: int,
    iteration: int,
    watch: Watch,
) -> tuple[Plan, dict[str, Any]]:
    """Score, plan and cut `model` in place; return the plan and what was measured."""
    seed_everything(seed, "S-phase", iteration)
    before = accuracy(model, loaders.validation)
    groups = _find(model, example, config)
    options = dict(config.options)
    if config.criterion == "random":
        options.setdefault("seed", derive_seed(seed, "random", iteration))
    statistics = collect(
        model,
        loaders.calibration,
        groups,
        batches=config.calibration_batches,
        progress=watch.batches(f"S-phase {iteration}: statistics"),
    )
    scores = score(groups, statistics, config.criterion, **options)
    plan = make_plan(groups, scores, targets, allocation=config.allocation, least=config.least)
    receipt = apply_(
        model,
        plan,
        groups,
        statistics,
        loader=loaders.calibration,
        compensate=config.compensate,
        ridge=config.ridge,
    )
    after = _find(model, example, config)
    return plan, {
        "target": ", ".join(f"{c} ≤ {limit:,}" for c, limit in targets.items()),
        "params": after.total_params,
        "macs": after.total_macs,
        "validation_before": before,
        "validation_cut": accuracy(model, loaders.validation),
        "groups": _score_rows(groups, scores, plan),
        "compensated": [r.module for r in receipt.repairs if not r.reason],
        "not_compensated": [
            {"module": r.module, "reason": r.reason} for r in receipt.repairs if r.reason
        ],
    }


def find_sound_groups(model: nn.Module, example: Tensor, config: PruneConfig) -> Groups:
    """Trace `model` and leave out the groups whose cut would not equal their mask."""
    groups = _find(model, example, config)
    return groups.without(unsound_groups(groups, example.to(next(model.parameters()).device)))


def _ignoring(config: PruneConfig, groups: Groups) -> PruneConfig:
    """Let later traces leave whole what this one found unprunable."""
    names = {*config.ignored_layers, *(u.module for u in groups.unprunable)}
    return replace(config, ignored_layers=tuple(sorted(names)))


def _find(model: nn.Module, example: Tensor, config: PruneConfig) -> Groups:
    device = next(model.parameters()).device
    return find_groups(
        model,
        example.to(device),
        ignored_layers=config.ignored_layers,
        inputs=config.inputs,
    )


def _describe_groups(groups: Groups) -> dict[str, Any]:
    """Return the groups and what stays whole, as a row of the journal."""
    return {
        "groups": [
            {
                "name": g.name,
                "kind": g.kind,
                "units": g.units,
                "consumers": [m.module for m in g.consumers],
            }
            for g in groups
        ],
        "unprunable": [{"module": u.module, "reason": u.reason} for u in groups.unprunable],
    }


def _score_rows(groups: Groups, scores: Scores, plan: Plan) -> list[dict[str, Any]]:
    """Return, for each group, how its scores are distributed over kept and removed units."""
    rows = []
    for group in groups:
        edit = plan.groups.get(group.name)
        removed = np.zeros(group.units, dtype=bool)
        removed[list(edit.removed) if edit else []] = True
        row: dict[str, Any] = {
            "name": group.name,
            "units": group.units,
            "before": group.units,
            "after": int((~removed).sum()),
            "score_unit": scores.unit,
        }
        if group.name in scores.groups:
            values = torch.nan_to_num(scores[group.name].values).numpy()
            edges = np.histogram_bin_edges(values, bins=24)
            row["histogram"] = {
                "edges": edges.tolist(),
                "kept": np.histogram(values[~removed], edges)[0].tolist(),
                "removed": np.histogram(values[removed], edges)[0].tolist(),
            }
        else:
            row["not_scored"] = scores.skipped[group.name]
        rows.append(row)
    return rows
