"""The S-phase: statistics → scores → plan → surgery, and what was measured on the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunus.core import derive_seed, seed_everything
from prunus.criteria import Scores, score
from prunus.evaluation import accuracy
from prunus.graph import Groups, find_groups
from prunus.pipelines.config import PruneConfig
from prunus.pipelines.session import Session
from prunus.plan import Plan, make_plan
from prunus.statistics import collect
from prunus.surgery import apply_, unsound_groups

__all__ = ["describe_groups", "find_sound_groups", "ignoring", "s_phase_", "trace"]

#: Bars of a score histogram.
BINS = 24


def s_phase_(
    model: nn.Module,
    targets: dict[str, int],
    config: PruneConfig,
    session: Session,
    *,
    example: Tensor,
    iteration: int,
) -> tuple[Plan, dict[str, Any]]:
    """Score, plan and cut `model` in place; return the plan and a row for the journal."""
    seed_everything(session.seed, "S-phase", iteration)
    loaders = session.loaders
    before = accuracy(model, loaders.validation)
    groups = trace(model, example, config)
    options = dict(config.options)
    if config.criterion == "random":
        options.setdefault("seed", derive_seed(session.seed, "random", iteration))
    statistics = collect(
        model,
        loaders.calibration,
        groups,
        batches=config.calibration_batches,
        progress=session.watch.batches(f"S-phase {iteration}: statistics"),
    )
    scores = score(groups, statistics, config.criterion, **options)
    plan = make_plan(groups, scores, targets, allocation=config.allocation, least=config.least)
    receipt = apply_(
        model,
        plan,
        statistics,
        loader=loaders.calibration,
        compensate=config.compensate,
        ridge=config.ridge,
    )
    after = trace(model, example, config)
    return plan, {
        "target": ", ".join(f"{currency} ≤ {limit:,}" for currency, limit in targets.items()),
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


def trace(model: nn.Module, example: Tensor, config: PruneConfig) -> Groups:
    """Find the groups of `model` as `config` asks."""
    device = next(model.parameters()).device
    return find_groups(
        model, example.to(device), ignored_layers=config.ignored_layers, inputs=config.inputs
    )


def find_sound_groups(model: nn.Module, example: Tensor, config: PruneConfig) -> Groups:
    """Trace `model` and leave out the groups whose cut would not equal their mask."""
    groups = trace(model, example, config)
    return groups.without(unsound_groups(groups, example.to(next(model.parameters()).device)))


def ignoring(config: PruneConfig, groups: Groups) -> PruneConfig:
    """Let later traces leave whole what the first one found unprunable."""
    names = {*config.ignored_layers, *(u.module for u in groups.unprunable)}
    return replace(config, ignored_layers=tuple(sorted(names)))


def describe_groups(groups: Groups) -> dict[str, Any]:
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
            edges = np.histogram_bin_edges(values, bins=BINS)
            row["histogram"] = {
                "edges": edges.tolist(),
                "kept": np.histogram(values[~removed], edges)[0].tolist(),
                "removed": np.histogram(values[removed], edges)[0].tolist(),
            }
        else:
            row["not_scored"] = scores.skipped[group.name]
        rows.append(row)
    return rows
