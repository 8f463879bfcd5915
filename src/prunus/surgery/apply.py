"""Execute a plan on a network: compensate, cut, re-estimate, and say what was done."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

from torch import Tensor, nn

from prunus.core import ConfigError, DataError
from prunus.graph import Groups, find_groups
from prunus.modules import private_copy
from prunus.plan import Plan
from prunus.statistics import Statistics
from prunus.surgery.batchnorm import reestimate_batchnorm_
from prunus.surgery.cut import check_plan, replay_
from prunus.surgery.receipt import Receipt, remember, state_of
from prunus.surgery.repair import Repair, compensate_, merge_, refit_
from prunus.surgery.undo import restore_

__all__ = ["BATCHNORM_RULES", "COMPENSATIONS", "apply_"]

COMPENSATIONS = ("none", "bias", "pointwise", "patch", "joint", "merge")
BATCHNORM_RULES = ("auto", "always", "never")

Loader = Iterable[tuple[Tensor, Tensor]]


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
            the statistics, else traced anew with the loader's first image.
        compensate: by default `joint` with a loader, else `pointwise` with statistics, else
            `none`.

            | | consumers take over | needs |
            |---|---|---|
            | `none` | nothing | – |
            | `bias` | the mean of what goes | statistics |
            | `pointwise` | what is linear in the channels kept | statistics |
            | `patch` | what is linear in the k×k patches kept | loader, or patch statistics |
            | `joint` | that, and what makes the channels is fitted with it | loader |
            | `merge` | multiples of the most similar filters | groups, no data |

            `patch` with a loader goes layer by layer over the cut network (`refit_`), from the
            pointwise repair where there are statistics.
        ridge: ρ in units of the mean eigenvalue of standardised features.
        batchnorm: whether running statistics are estimated anew after the cut: `auto` does so
            with a loader, but not after `patch` or `joint`, where it lowers accuracy
            (docs/results.md); `always` and `never`.
        shrink: the share of the old running statistics that stays, in [0, 1].
        undo: keep what `undo_` needs, one copy of the dense weights and one of the cut ones, in
            main memory (`Receipt.bytes`). It is also what puts the network back where the cut
            breaks off half-way.

    Gradients are not needed; frozen parameters are cut and stay frozen.

    Raises:
        PlanError: the plan does not fit the network; nothing has been changed then.
        ConfigError: a setting is unknown, or what it needs was not given; nothing has been
            changed then.
        DataError: the loader gave too little; the network is put back if `undo`.
    """
    kind = _checked(compensate, statistics, loader, groups, ridge, batchnorm, shrink)
    check_plan(model, plan)
    if isinstance(loader, Iterator):
        loader = list(loader)  # it is read more than once
    if kind in ("merge", "patch", "joint") and groups is None:
        groups = statistics.groups if statistics is not None else _traced(model, loader)
    before = sum(p.numel() for p in model.parameters())
    state = state_of(model) if undo else None
    try:
        repairs = _cut_(model, plan, kind, statistics, loader, groups, ridge)
        again = batchnorm == "always" or (batchnorm == "auto" and kind not in ("patch", "joint"))
        norms = 0
        if loader is not None and again:
            norms = reestimate_batchnorm_(model, loader, shrink=shrink)
    except BaseException:
        if state is not None:
            restore_(model, plan, state)
        raise
    channels = {
        name: {axis: (e.of, e.of - len(e.removed)) for axis, e in axes.items()}
        for name, axes in plan.modules.items()
    }
    return Receipt(
        params=(before, sum(p.numel() for p in model.parameters())),
        channels=channels,
        repairs=tuple(repairs),
        batchnorms=norms,
        plan=plan,
        network=type(model).__name__,
        memory=None if state is None else remember(state, model),
    )


def _cut_(
    model: nn.Module,
    plan: Plan,
    kind: str,
    statistics: Statistics | None,
    loader: Loader | None,
    groups: Groups | None,
    ridge: float,
) -> list[Repair]:
    """Cut, with the repair that comes before or after it."""
    if kind in ("patch", "joint") and loader is not None:
        assert groups is not None
        dense = private_copy(model)
        first = [] if statistics is None else compensate_(model, plan, statistics, ridge)
        replay_(model, plan)
        whole = replace(groups, model=dense)
        refitted = refit_(model, dense, whole, plan, loader, ridge=ridge, joint=kind == "joint")
        done = {r.module for r in first if not r.reason}  # what no refit reached keeps the first
        better = {r.module: r for r in refitted if not (r.reason and r.module in done)}
        return list({**{r.module: r for r in first}, **better}.values())
    repairs: list[Repair] = []
    if kind == "merge":
        assert groups is not None
        repairs = merge_(model, plan, groups)
    elif kind != "none":
        assert statistics is not None
        repairs = compensate_(model, plan, statistics, ridge, kind)
    replay_(model, plan)
    return repairs


def _checked(
    compensate: str | None,
    statistics: Statistics | None,
    loader: Loader | None,
    groups: Groups | None,
    ridge: float,
    batchnorm: str,
    shrink: float,
) -> str:
    """Return the kind of compensation, once all that it needs is there."""
    if compensate is None:
        compensate = "none" if statistics is None else "pointwise"
        compensate = compensate if loader is None else "joint"
    if compensate not in COMPENSATIONS:
        raise ConfigError(f"compensate {compensate!r}: expected one of {', '.join(COMPENSATIONS)}")
    if batchnorm not in BATCHNORM_RULES:
        raise ConfigError(f"batchnorm {batchnorm!r}: expected one of {', '.join(BATCHNORM_RULES)}")
    if not (ridge > 0 and math.isfinite(ridge)):
        raise ConfigError(f"ridge is {ridge}, expected a positive number such as 1e-3")
    if not 0 <= shrink <= 1:
        raise ConfigError(f"shrink is {shrink}, expected a share of the old statistics in [0, 1]")
    if batchnorm == "always" and loader is None:
        raise ConfigError("batchnorm='always' needs images: give a loader, or say 'auto'")
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
            "find_groups returned, or say compensate='none'"
        )
    return compensate


def _traced(model: nn.Module, loader: Loader | None) -> Groups:
    for x, *_ in loader or ():
        return find_groups(model, x[:1].to(next(model.parameters()).device))
    raise DataError("the calibration loader gave no batch: give it at least one image a class")
