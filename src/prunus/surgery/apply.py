"""Execute a plan on a network: compensate, cut, re-estimate, and return a receipt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from prunus.batches import Loader, read, rereadable
from prunus.core import ConfigError, DataError, keeping_random_state
from prunus.graph import Groups, find_groups
from prunus.modules import (
    Snapshot,
    bake_,
    module_at,
    owners_of,
    private_copy,
    rolling_back,
    unbake_,
    unwrapped,
)
from prunus.plan import Plan
from prunus.statistics import Statistics
from prunus.surgery.batchnorm import reestimate_batchnorm_
from prunus.surgery.checking import checked_
from prunus.surgery.config import RepairConfig
from prunus.surgery.cut import cut_
from prunus.surgery.receipt import Receipt, remember, state_of, tensors_of
from prunus.surgery.repair import Repair, compensate_, merge_, refit_

__all__ = ["apply_"]


@dataclass(frozen=True, kw_only=True)
class _Sources:
    """What a repair can learn from; None for what was not given."""

    statistics: Statistics | None
    loader: Loader | None
    groups: Groups | None


@torch.inference_mode(False)
@keeping_random_state("apply")
def apply_(
    model: nn.Module,
    plan: Plan,
    statistics: Statistics | None = None,
    *,
    loader: Loader | None = None,
    groups: Groups | None = None,
    compensate: str | None = None,
    ridge: float = 1e-3,
    batchnorm: str = "auto",
    shrink: float = 0.0,
    undo: bool = True,
) -> Receipt:
    """Cut `model` in place as `plan` says, and return the receipt.

    Args:
        statistics: of the dense network's consumers, for `bias`, `pointwise` and `patch`.
        loader: calibration batches, for `patch` and `joint` layer by layer and for BatchNorm.
        groups: what the plan was made with, for `merge`, `patch` and `joint`; by default those of
            the statistics, else traced with the loader's first image.
        compensate: by default `joint` with a loader, else `pointwise` with statistics, else
            `none`.

            | | consumers take over | needs |
            |---|---|---|
            | `none` | nothing | – |
            | `bias` | the mean of what is removed | statistics |
            | `pointwise` | what is linear in the channels kept | statistics |
            | `patch` | what is linear in the k×k patches kept | loader, or patch statistics |
            | `joint` | that, and what makes the channels is fitted with it | loader |
            | `merge` | multiples of the most similar filters | groups, no data |

            `patch` with a loader goes layer by layer over the cut network (`refit_`), from the
            pointwise repair where there are statistics.
        ridge: ρ in units of the mean eigenvalue of standardised features.
        batchnorm: whether running statistics are re-estimated after the cut: `auto` does so
            with a loader, but not after `patch` or `joint`, where it lowers accuracy
            (docs/results.md); `always` and `never`.
        shrink: the share of the old running statistics that is kept, in [0, 1].
        undo: keep what `undo_` needs, one copy of the dense weights and one of what the cut
            changed, in main memory (`Receipt.bytes`).

    Gradients are not needed. Where parameters have some, they are cut with them, as an optimiser's
    state is (`prunus.surgery.cut_state_`): what is left of `grad` is that of the dense network.
    Frozen parameters are cut and stay frozen. A weight that is computed before each forward pass
    (weight norm, spectral norm, a pruning mask) is cut with its present value and is a plain
    parameter afterwards, without a gradient (`Receipt.baked`); layers that the plan does not cut
    keep theirs.

    All or nothing: whatever is raised (by the loader, by the network itself, an interruption),
    every module, parameter and buffer is the object that it was, with the values, gradients, modes
    and hooks that it had. For this the dense weights stay until the cut ones are complete, so both
    are in memory for a moment; a repair from statistics without `undo` also copies the weights of
    the layers that lose inputs, to main memory.

    Raises:
        PlanError: the plan does not fit the network.
        ConfigError: a setting is unknown, or what it needs was not given.
        DataError: the loader gave too few images.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import prunus
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> groups = prunus.find_groups(net, torch.zeros(1, 4))
        >>> loader = [(torch.randn(32, 4), torch.arange(32) % 2)]
        >>> statistics = prunus.collect(net, loader, groups)
        >>> scores = prunus.score(groups, statistics)
        >>> plan = prunus.make_plan(groups, scores, "macs=50%")
        >>> receipt = prunus.apply_(net, plan, statistics)
        >>> receipt.params[0], receipt.params[1] < 58, net(torch.zeros(1, 4)).shape
        (58, True, torch.Size([1, 2]))
    """
    model = unwrapped(model, in_place=True)
    config = RepairConfig(compensate=compensate, ridge=ridge, batchnorm=batchnorm, shrink=shrink)
    sources = _Sources(statistics=statistics, loader=loader, groups=groups)
    config = _settled(config, sources)
    with rolling_back(model) as before:
        return _apply_(model, plan, config, sources, before, undo=undo)


def _apply_(
    model: nn.Module,
    plan: Plan,
    config: RepairConfig,
    sources: _Sources,
    before: Snapshot,
    *,
    undo: bool,
) -> Receipt:
    unbake_(model, checked_(model, plan))
    sources = _complete(model, config, sources)
    params = sum(p.numel() for p in model.parameters())
    baked = bake_(model, owners_of(plan.modules))
    state = state_of(model) if undo else None
    dense = private_copy(model) if config.refits and sources.loader is not None else None
    _keep_values(model, plan, config, before, state, dense)
    repairs = _cut_(model, dense, plan, config, sources)
    norms = 0
    if sources.loader is not None and config.reestimates:
        norms = reestimate_batchnorm_(model, sources.loader, shrink=config.shrink)
    channels = {
        name: {axis: (e.of, e.of - len(e.removed)) for axis, e in axes.items()}
        for name, axes in plan.modules.items()
    }
    return Receipt(
        params=(params, sum(p.numel() for p in model.parameters())),
        channels=channels,
        repairs=tuple(repairs),
        batchnorms=norms,
        plan=plan,
        network=type(model).__name__,
        memory=None if state is None else remember(state, model, baked),
        baked={each.name: each.kind for each in baked},
    )


def _keep_values(
    model: nn.Module,
    plan: Plan,
    config: RepairConfig,
    before: Snapshot,
    state: Mapping[str, Tensor] | None,
    dense: nn.Module | None,
) -> None:
    """Keep the values of what a repair and its forward passes may write into.

    Where a copy of the dense network is there already, for `undo_` or to refit the cut one, its
    weights serve; else those of the layers that lose inputs are copied.
    """
    before.keep(model.buffers())
    named = dict(model.named_parameters())
    if state is not None:
        before.keep(named.values(), [state[name] for name in named])
    elif dense is not None:
        copies = tensors_of(dense)
        before.keep(named.values(), [copies[name].detach() for name in named])
    elif config.compensate != "none":
        losing = [n for n, axes in plan.modules.items() if "in" in axes or "select" in axes]
        before.keep(p for n in losing for p in module_at(model, n).parameters(recurse=False))


def _cut_(
    model: nn.Module, dense: nn.Module | None, plan: Plan, config: RepairConfig, sources: _Sources
) -> list[Repair]:
    """Cut, with the repair before or after it."""
    kind, ridge = config.compensate, config.ridge
    statistics, loader, groups = sources.statistics, sources.loader, sources.groups
    if dense is not None:
        assert groups is not None and loader is not None
        first = [] if statistics is None else compensate_(model, plan, statistics, ridge)
        cut_(model, plan)
        whole = replace(groups, model=dense)
        refitted = refit_(model, dense, whole, plan, loader, ridge=ridge, joint=kind == "joint")
        done = {r.module for r in first if not r.reason}  # what no refit reached keeps the first
        better = {r.module: r for r in refitted if not (r.reason and r.module in done)}
        return list({**{r.module: r for r in first}, **better}.values())
    repairs: list[Repair] = []
    if kind == "merge":
        assert groups is not None
        repairs = merge_(model, plan, groups)
    elif kind is not None and kind != "none":
        assert statistics is not None
        repairs = compensate_(model, plan, statistics, ridge, kind)
    cut_(model, plan)
    return repairs


def _settled(config: RepairConfig, sources: _Sources) -> RepairConfig:
    """Return the settings with the kind of compensation chosen, once all that it needs is there.

    Raises:
        ConfigError: what a setting needs was not given.
    """
    statistics, loader, groups = sources.statistics, sources.loader, sources.groups
    compensate = config.compensate
    if compensate is None:
        compensate = "none" if statistics is None else "pointwise"
        compensate = compensate if loader is None else "joint"
    if config.batchnorm == "always" and loader is None:
        raise ConfigError("batchnorm='always' needs images: give a loader, or pass 'auto'")
    lacking = {
        "bias": "statistics" if statistics is None else "",
        "pointwise": "statistics" if statistics is None else "",
        "patch": "a loader, or statistics" if statistics is None and loader is None else "",
        "joint": "a loader" if loader is None else "",
        "merge": "groups" if groups is None and statistics is None and loader is None else "",
    }.get(compensate)
    if lacking:
        raise ConfigError(
            f"compensate={compensate!r} needs {lacking}: give what prunus.collect or "
            "find_groups returned, or pass compensate='none'"
        )
    return replace(config, compensate=compensate)


def _complete(model: nn.Module, config: RepairConfig, sources: _Sources) -> _Sources:
    """Return the sources with a loader that can be read twice, and the groups where needed."""
    loader, groups, statistics = sources.loader, sources.groups, sources.statistics
    if loader is not None:
        loader = rereadable(loader)
    if config.compensate in ("merge", "patch", "joint") and groups is None:
        groups = statistics.groups if statistics is not None else _traced(model, loader)
    return replace(sources, loader=loader, groups=groups)


def _traced(model: nn.Module, loader: Loader | None) -> Groups:
    for batch in read(loader or (), model):
        return find_groups(model, batch.inputs.first(1))
    raise DataError("the calibration loader gave no batch: give it at least one image per class")
