"""Does a plan fit a network? Everything is checked before anything is cut."""

from __future__ import annotations

from torch import nn

from prunus.core import PlanError
from prunus.modules import (
    PASSING,
    TRANSPOSED,
    Baked,
    RawAxis,
    SelectLinear,
    bake_,
    can_be_empty,
    can_select,
    channel_count,
    is_depthwise,
    is_mixing,
    module_at,
    owners_of,
    quotas,
    rolling_back,
)
from prunus.plan import Plan
from prunus.surgery.tied import shared_tensors

__all__ = ["check_plan", "checked_", "columns_read", "planned_module", "planned_width"]

#: What has an `out` axis alone.
PASSED = (*PASSING, RawAxis)


def checked_(model: nn.Module, plan: Plan) -> list[Baked]:
    """Make the weights plain that `plan` cuts (`bake_`), and check the plan; return what was baked.

    Raises:
        PlanError: the plan cannot be executed on `model`; nothing has been changed then.
    """
    with rolling_back(model):
        baked = bake_(model, owners_of(plan.modules))
        check_plan(model, plan)
    return baked


def check_plan(model: nn.Module, plan: Plan) -> None:
    """Raise `PlanError` where `plan` cannot be executed on `model`; nothing is touched."""
    for name, axes in plan.modules.items():
        module = planned_module(model, name)
        kind = type(module).__name__
        if not (is_mixing(module) or is_depthwise(module) or isinstance(module, PASSED)):
            raise PlanError(f"{name!r} is a {kind}: there is no rule to cut its channels")
        for axis, edit in axes.items():
            allowed = ("out", "in", "select") if isinstance(module, nn.Linear) else ("out", "in")
            if axis not in allowed[: 1 if isinstance(module, PASSED) else None]:
                raise PlanError(f"{name!r} is a {kind}: it has no axis {axis!r} to cut")
            width = planned_width(module, axis)
            if width != edit.of:
                raise PlanError(
                    f"the plan does not fit {type(model).__name__}: {name!r} has {width} "
                    f"channels on its {axis} axis, the plan expects {edit.of}. "
                    "Replay it on the network it was made for, before any other cut"
                )
            gone = set(edit.removed)
            if len(gone) != len(edit.removed) or not gone <= set(range(edit.of)):
                raise PlanError(f"the plan removes channels of {name!r} twice, or unknown ones")
            if edit.all_gone and plan.empties(name) and can_be_empty(module):
                continue
            if edit.all_gone:
                raise PlanError(f"the plan leaves no channel on the {axis} axis of {name!r}")
            if axis == "select" and not can_select(module):
                raise PlanError(
                    f"{name!r} is a {kind} with a forward pass of its own: it cannot read a subset "
                    "of its input"
                )
            groups = quotas(module)
            each = [sum(c * groups // edit.of == g for c in gone) for g in range(groups)]
            if len(set(each)) > 1:
                raise PlanError(f"the plan cuts the {groups} groups of {name!r} unevenly")
        if isinstance(module, nn.Linear):
            lost = {c for axis in ("in", "select") if axis in axes for c in axes[axis].removed}
            if lost.issuperset(columns_read(module)):
                raise PlanError(f"the plan leaves {name!r} nothing to read")
    _check_shared(model, plan)


def columns_read(module: nn.Linear) -> list[int]:
    """Return the incoming features a linear layer reads, in the order of its columns."""
    if isinstance(module, SelectLinear):
        return [int(i) for i in module.index]
    return list(range(module.in_features))


def planned_module(model: nn.Module, name: str) -> nn.Module:
    """Return a module of a plan, or raise `PlanError` where the network has none of that name."""
    try:
        return module_at(model, name)
    except AttributeError:
        raise PlanError(
            f"the plan does not fit {type(model).__name__}: it has no module {name!r}"
        ) from None


def planned_width(module: nn.Module, axis: str) -> int:
    """Return the width that a plan means: of what arrives, where a layer selects among it."""
    if isinstance(module, SelectLinear) and axis != "out":
        return module.incoming
    return channel_count(module, "out" if axis == "out" else "in")


def _check_shared(model: nn.Module, plan: Plan) -> None:
    """Raise `PlanError` where modules that share a tensor would be cut differently."""
    shared = shared_tensors(model)
    if not shared:
        return
    names = {module: name for name, module in model.named_modules()}
    edits: dict[tuple[nn.Module, str], dict[int, frozenset[int]]] = {}
    for name, axes in plan.modules.items():
        module = module_at(model, name)
        for axis, edit in axes.items():
            for owner, key, dim in _slices(module, axis):
                edits.setdefault((owner, key), {})[dim] = frozenset(edit.removed)
    for (first, name), *others in shared:
        for module, key in others:
            if edits.get((first, name), {}) != edits.get((module, key), {}):
                one, other = (
                    f"{names[owner]}.{own}".lstrip(".")
                    for owner, own in ((first, name), (module, key))
                )
                raise PlanError(
                    f"{one} and {other} are one tensor, and the plan cuts them differently: make "
                    "the plan with the groups of this network"
                )


def _slices(module: nn.Module, axis: str) -> list[tuple[nn.Module, str, int]]:
    """Return which axis of which tensor a cut of `axis` slices: (module, name, dimension)."""
    if isinstance(module, RawAxis):
        return [] if module.dim is None else [(module.owner, module.key, module.dim)]
    if not is_mixing(module):
        return [(module, name, 0) for name in ("weight", "bias", "running_mean", "running_var")]
    turned = isinstance(module, TRANSPOSED)
    if axis == "out":
        return [(module, "weight", int(turned)), (module, "bias", 0)]
    return [(module, "weight", int(not turned))]
