"""The groups that a run may cut: traced according to its settings, and tested by a trial cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from prunus.batches import Example, Inputs
from prunus.core import ConfigError
from prunus.evaluation import LatencyTable
from prunus.graph import Groups, find_groups
from prunus.plan import Budget, check_reachable
from prunus.runs import PruneConfig
from prunus.surgery import sound_branches, unsound_groups

__all__ = [
    "find_sound_groups",
    "ignoring",
    "require_reachable",
    "trace",
    "why_branches_stay",
    "without_ignored",
]


def trace(model: nn.Module, example: Example, config: PruneConfig) -> Groups:
    """Find the groups of `model` according to `config`.

    Raises:
        ConfigError: `drop_branches` is on, and the allocation does not support it.
    """
    if config.drop_branches and (reason := why_branches_stay(config)):
        raise ConfigError(f"{reason}: turn drop_branches off, or choose another allocation")
    example = Inputs.of(example).like(model)
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
    """Return why whole branches cannot be removed with these settings; None if they can."""
    return "allocation 'dp' cannot remove whole branches" if config.allocation == "dp" else None


def find_sound_groups(model: nn.Module, example: Example, config: PruneConfig) -> Groups:
    """Trace `model` and drop the groups whose cut is not equivalent to their mask."""
    groups = trace(model, example, config)
    return groups.without(unsound_groups(groups, example))


def ignoring(config: PruneConfig, groups: Groups) -> PruneConfig:
    """Return the settings with everything that was found unprunable ignored in later traces."""
    names = {*config.ignored_layers, *(u.module for u in groups.unprunable)}
    return replace(config, ignored_layers=tuple(sorted(names)))


def without_ignored(groups: Groups, config: PruneConfig) -> Groups:
    """Return the groups as traced with `config`: an ignored layer selects no inputs."""
    kept = (
        group
        for group in groups.values()
        if not (group.selects and group.members[0].module in config.ignored_layers)
    )
    return replace(groups, entries=tuple(kept))


def require_reachable(
    groups: Groups,
    budget: Budget,
    config: PruneConfig,
    *,
    table: LatencyTable | None = None,
    protected: Mapping[str, list[int]] | None = None,
) -> None:
    """Raise `BudgetError` if no plan with these settings meets the budget, before any work."""
    check_reachable(
        groups,
        budget,
        least=config.least,
        round_to=config.round_to or 1,
        protected=protected or {},
        table=table,
    )
