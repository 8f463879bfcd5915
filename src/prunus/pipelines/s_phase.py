"""The S-phase: statistics → scores → plan → surgery, and what was measured on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from prunus.core import seed_everything
from prunus.core.errors import ConfigError
from prunus.criteria import has_intervals, needs_of, rank_layers, score
from prunus.evaluation import accuracy
from prunus.graph import Groups, find_groups
from prunus.pipelines.config import PruneConfig
from prunus.pipelines.curves import IMAGES, measure_curves
from prunus.pipelines.latency import costs_of
from prunus.pipelines.protect import still_protected
from prunus.pipelines.rows import (
    information_row,
    prediction_row,
    say_prediction,
    say_targets,
    score_rows,
)
from prunus.pipelines.session import Session, spread
from prunus.pipelines.settings import criterion_of
from prunus.pipelines.traces import add_traces
from prunus.plan import Plan, make_plan, predict_loss
from prunus.statistics import Statistics, collect
from prunus.surgery import apply_, sound_branches, unsound_groups

__all__ = ["find_sound_groups", "ignoring", "measure_information", "s_phase_", "trace"]


def s_phase_(
    model: nn.Module,
    targets: Mapping[str, float],
    config: PruneConfig,
    session: Session,
    *,
    example: Tensor,
    iteration: int,
    held: tuple[int, Plan] = (0, Plan()),
    protected: Mapping[str, list[int]] | None = None,
) -> tuple[Plan, dict[str, Any]]:
    """Score, plan and cut `model` in place; return the plan and a row for the journal.

    `held` is the iteration that `model` comes from, where it is journalled what its layers
    explain, and the plan from the dense network, in whose indices `protected` units come.
    """
    seed_everything(session.seed, "S-phase", iteration)
    loaders = session.loaders
    before = accuracy(model, loaders.validation)
    groups = trace(model, example, config)
    rule = criterion_of(config, seed=session.seed, iteration=iteration)
    statistics = _collect(
        model,
        groups,
        config,
        session,
        title=f"S-phase {iteration}: statistics",
        gradients="gradients" in needs_of(rule),
    )
    _note_information(groups, statistics, session, iteration=held[0])
    if "traces" in needs_of(rule):
        statistics, latent = add_traces(
            model,
            groups,
            statistics,
            config.latent,
            calibration=loaders.calibration,
            validation=loaders.validation,
            progress=session.watch.batches(f"S-phase {iteration}: tracing"),
        )
        session.journal.append_once("latent", latent, iteration=iteration)
    intervals = config.intervals and statistics.blocks > 1 and has_intervals(rule)
    scores = score(groups, statistics, rule, intervals=intervals)
    repair: dict[str, Any] = {"compensate": config.compensate, "ridge": config.ridge}
    curves = None
    if config.allocation == "dp":
        curves = measure_curves(
            model, groups, scores, statistics, spread(loaders.calibration, IMAGES), **repair
        )
    plan = make_plan(
        groups,
        scores,
        targets,
        allocation=config.allocation,
        least=config.least,
        round_to=config.round_to or 1,
        protected=still_protected(protected or {}, held[1], groups),
        table=session.table,
        curves=curves,
    )
    predicted = prediction_row(predict_loss(scores, plan, groups, curves=curves))
    session.watch.say(f"cut {iteration} to {say_targets(targets)}: {say_prediction(predicted)}")
    receipt = apply_(
        model,
        plan,
        statistics,
        loader=spread(loaders.calibration, config.repair_images or _repair_images(groups, example)),
        groups=groups,
        batchnorm=config.batchnorm,
        shrink=config.shrink,
        undo=False,
        **repair,
    )
    return plan, {
        "target": say_targets(targets),
        **costs_of(trace(model, example, config), session.table),
        "validation_before": before,
        "validation_cut": accuracy(model, loaders.validation),
        "predicted": predicted,
        "curves": curves,
        "groups": score_rows(groups, scores, plan),
        "compensated": [r.module for r in receipt.repairs if not r.reason],
        "not_compensated": [
            {"module": r.module, "reason": r.reason} for r in receipt.repairs if r.reason
        ],
    }


def _repair_images(groups: Groups, example: Tensor) -> int:
    """Return how many images a repair sees: enough for the widest linear layer, in 1 GB."""
    widths = [layer.in_ for layer in groups.layers.values() if layer.kind == "Linear"]
    wanted = max([2_048, *(16 * width for width in widths)])
    return max(1, min(wanted, 10**9 // max(example[:1].nbytes, 1)))


def measure_information(
    model: nn.Module, config: PruneConfig, session: Session, *, example: Tensor, iteration: int
) -> None:
    """Journal what the layers of the finished network explain: one pass of its own."""
    if session.journal.record.find("information", iteration=iteration, final=True) is None:
        groups = trace(model, example, config)
        statistics = _collect(model, groups, config, session, title="layers' information")
        _note_information(groups, statistics, session, iteration=iteration, final=True)


def trace(model: nn.Module, example: Tensor, config: PruneConfig) -> Groups:
    """Find the groups of `model` as `config` asks.

    Raises:
        ConfigError: whole branches may go, and the allocation cannot have it.
    """
    if config.drop_branches and (reason := why_branches_stay(config)):
        raise ConfigError(f"{reason}: leave drop_branches off, or take another")
    example = example.to(next(model.parameters()).device)
    groups = find_groups(
        model,
        example,
        ignored_layers=config.ignored_layers,
        inputs=config.inputs,
        heads=config.heads,
        drop_branches=config.drop_branches,
    )
    return sound_branches(groups, example) if config.drop_branches else groups


def why_branches_stay(config: PruneConfig) -> str | None:
    """Return why whole branches cannot go with these settings; None where they can."""
    return "allocation 'dp' cannot let whole branches go" if config.allocation == "dp" else None


def find_sound_groups(model: nn.Module, example: Tensor, config: PruneConfig) -> Groups:
    """Trace `model` and leave out the groups whose cut would not equal their mask."""
    groups = trace(model, example, config)
    return groups.without(unsound_groups(groups, example.to(next(model.parameters()).device)))


def ignoring(config: PruneConfig, groups: Groups) -> PruneConfig:
    """Let later traces leave whole what the first one found unprunable."""
    names = {*config.ignored_layers, *(u.module for u in groups.unprunable)}
    return replace(config, ignored_layers=tuple(sorted(names)))


def _collect(
    model: nn.Module,
    groups: Groups,
    config: PruneConfig,
    session: Session,
    *,
    title: str,
    gradients: bool = False,
) -> Statistics:
    return collect(
        model,
        session.loaders.calibration,
        groups,
        parents=config.parents,
        sampling=config.sampling,
        blocks=config.blocks,
        gradients=gradients,
        batches=config.calibration_batches,
        progress=session.watch.batches(title),
    )


def _note_information(
    groups: Groups, statistics: Statistics, session: Session, **keys: Any
) -> None:
    if session.journal.record.find("information", **keys) is None:
        row = information_row(rank_layers(groups, statistics))
        session.journal.append_once("information", row, **keys)
