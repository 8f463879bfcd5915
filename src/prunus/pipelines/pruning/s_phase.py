"""The S-phase (prune step): statistics → scores → plan → surgery, and their measurements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prunus.batches import Example, Inputs
from prunus.core import memory_limit, seed_everything
from prunus.criteria import needs_of, rank_layers, score
from prunus.evaluation import accuracy
from prunus.graph import Groups
from prunus.pipelines.latent import add_traces
from prunus.pipelines.pruning.checks import criterion_of
from prunus.pipelines.pruning.curves import IMAGES, measure_curves
from prunus.pipelines.pruning.groups import trace
from prunus.pipelines.pruning.latency import costs_of
from prunus.pipelines.pruning.protect import still_protected
from prunus.pipelines.pruning.rows import (
    information_row,
    prediction_row,
    say_prediction,
    say_targets,
    score_rows,
)
from prunus.pipelines.pruning.state import Pruning, PruningState
from prunus.plan import Plan, make_plan, predict_loss
from prunus.runs import PruneConfig, Session, spread
from prunus.statistics import Statistics, collect
from prunus.surgery import apply_

__all__ = ["Cut", "measure_information", "s_phase_"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Cut:
    """The result of an S-phase: the pruned network, the edit, and a row for the journal."""

    state: PruningState
    edit: Plan
    row: dict[str, Any]


def s_phase_(
    pruning: Pruning, state: PruningState, targets: Mapping[str, float], iteration: int
) -> Cut:
    """Score, plan and cut the network of `state` in place.

    The information of its layers is journalled under the iteration that produced it.

    Raises:
        BudgetError: no plan can meet the targets.
    """
    config, session, example = pruning.config, pruning.session, pruning.example
    seed_everything(session.seed, "S-phase", iteration)
    loaders, model, groups = session.loaders, state.model, state.groups
    rule = criterion_of(config, seed=session.seed, iteration=iteration)
    statistics = _collect(
        groups,
        config,
        session,
        title=f"prune step {iteration}: statistics",
        gradients="gradients" in needs_of(rule),
    )
    _note_information(groups, statistics, session, iteration=state.iteration)
    if "traces" in needs_of(rule):
        statistics, latent = add_traces(
            model,
            groups,
            statistics,
            config.latent,
            calibration=loaders.calibration,
            validation=loaders.validation,
            progress=session.watch.batches(f"prune step {iteration}: tracing"),
        )
        session.journal.append_once("latent", latent, iteration=iteration)
    scores = score(groups, statistics, rule, intervals=None if config.intervals else False)
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
        protected=still_protected(pruning.protected, state.plan, groups),
        table=session.table,
        curves=curves,
    )
    predicted = prediction_row(predict_loss(scores, plan, groups, curves=curves))
    session.watch.say(f"cut {iteration} to {say_targets(targets)}: {say_prediction(predicted)}")
    images = config.repair_images or _repair_images(groups, example)
    receipt = apply_(
        model,
        plan,
        statistics,
        loader=spread(loaders.calibration, images),
        groups=groups,
        batchnorm=config.batchnorm,
        shrink=config.shrink,
        undo=False,
        **repair,
    )
    left = trace(model, example, config)
    reached = PruningState(
        iteration=iteration,
        groups=left,
        plan=state.plan.then(plan),
        costs=costs_of(left, session.table),
        accuracy=accuracy(model, loaders.validation),
    )
    row = {
        "target": say_targets(targets),
        **reached.costs,
        "validation_before": state.accuracy,
        "validation_cut": reached.accuracy,
        "predicted": predicted,
        "curves": curves,
        "groups": score_rows(groups, scores, plan),
        "compensated": [r.module for r in receipt.repairs if not r.reason],
        "not_compensated": [
            {"module": r.module, "reason": r.reason} for r in receipt.repairs if r.reason
        ],
    }
    return Cut(state=reached, edit=plan, row=row)


def _repair_images(groups: Groups, example: Example) -> int:
    """Return how many images a repair uses: enough for the widest linear layer, within 1 GB.

    Where this process may use less than 8 GB, within an eighth of that.
    """
    widths = [layer.in_ for layer in groups.layers.values() if layer.kind == "Linear"]
    size = sum(t.nbytes for t in Inputs.of(example).first(1).tensors)
    wanted = max([2_048, *(16 * width for width in widths)])
    return max(1, min(wanted, min(10**9, memory_limit() // 8) // max(size, 1)))


def measure_information(pruning: Pruning, state: PruningState) -> None:
    """Journal the information of the finished network's layers: one separate pass."""
    session, keys = pruning.session, {"iteration": state.iteration, "final": True}
    if session.journal.record.find("information", **keys) is None:
        statistics = _collect(state.groups, pruning.config, session, title="layers' information")
        _note_information(state.groups, statistics, session, **keys)


def _collect(
    groups: Groups,
    config: PruneConfig,
    session: Session,
    *,
    title: str,
    gradients: bool = False,
) -> Statistics:
    return collect(
        groups.model,
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
