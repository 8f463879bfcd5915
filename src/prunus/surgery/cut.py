"""Physical removal: one rule per kind of module, and `replay_`, which needs no tracing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prunus.core import PlanError
from prunus.modules import (
    BATCHNORMS,
    CONVOLUTIONS,
    PASSING,
    TRANSPOSED,
    Baked,
    RawAxis,
    SelectLinear,
    attention_of,
    bake_,
    can_be_empty,
    can_select,
    channel_count,
    emptied,
    exchange_,
    is_depthwise,
    is_functional,
    is_mixing,
    module_at,
    open_heads_,
    owners_of,
    place_of,
    quotas,
    read_all_,
    select_,
    set_functional_,
    set_in_projection_,
    unbake_,
)
from prunus.plan import Edit, Plan

__all__ = [
    "check_plan",
    "checked_",
    "follow_width_",
    "laid_out",
    "replay_",
    "shared_tensors",
    "tie_",
]


#: What has an `out` axis alone.
PASSED = (*PASSING, RawAxis)

#: Numbers in which modules of many libraries write down a width that their forward pass reads.
WIDTHS = (
    "normalized_shape", "num_features", "num_channels", "embed_dim", "dim", "channels",
    "hidden_size", "in_features", "out_features", "in_channels", "out_channels",
)  # fmt: skip


def replay_(model: nn.Module, plan: Plan) -> nn.Module:
    """Remove from `model`, in place, every channel the plan removes; return the model.

    Weights that stay are copied bit by bit. The whole plan is checked before the first cut. Modules
    stay the objects that they are, with their hooks and attributes, and a parameter that several
    of them share stays one; only a convolution that makes nothing any more is replaced, by an
    `Empty`.

    Raises:
        PlanError: a module is missing or has another width; names the first.
    """
    checked_(model, plan)
    shared = shared_tensors(model)
    for name, axes in plan.modules.items():
        module = _module(model, name)
        if plan.empties(name):
            exchange_(model, name, emptied(module))
            continue
        widths = tuple(channel_count(module, a) for a in ("out", "in") if is_functional(module))
        depthwise = is_depthwise(module)  # checked before the cut: one channel left looks plain
        if "out" in axes:
            _cut_out_(module, _kept(axes["out"], module))
        if not depthwise and ("in" in axes or "select" in axes):
            _cut_in_(module, axes.get("in"), axes.get("select"))
        if is_functional(module):
            set_functional_(model, name, module)
            for axis, width in zip(("out", "in"), widths, strict=True):
                follow_width_(place_of(model, name)[0], width, channel_count(module, axis), axis)
        if (owner := attention_of(model, name)) is not None:
            open_heads_(owner)
            if name.rpartition(".")[2] == "in_proj":
                assert isinstance(module, nn.Linear)
                set_in_projection_(owner, module)
    tie_(model, shared)
    return model


def checked_(model: nn.Module, plan: Plan) -> list[Baked]:
    """Make the weights plain that `plan` cuts (`bake_`), and check the plan; return what was baked.

    Raises:
        PlanError: the plan cannot be executed on `model`; nothing has been changed then.
    """
    baked = bake_(model, owners_of(plan.modules))
    try:
        check_plan(model, plan)
    except PlanError:
        unbake_(model, baked)
        raise
    return baked


def check_plan(model: nn.Module, plan: Plan) -> None:
    """Raise `PlanError` where `plan` cannot be executed on `model`; nothing is touched."""
    for name, axes in plan.modules.items():
        module = _module(model, name)
        kind = type(module).__name__
        if not (is_mixing(module) or is_depthwise(module) or isinstance(module, PASSED)):
            raise PlanError(f"{name!r} is a {kind}: there is no rule to cut its channels")
        for axis, edit in axes.items():
            allowed = ("out", "in", "select") if isinstance(module, nn.Linear) else ("out", "in")
            if axis not in allowed[: 1 if isinstance(module, PASSED) else None]:
                raise PlanError(f"{name!r} is a {kind}: it has no axis {axis!r} to cut")
            width = _width(module, axis)
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
            if lost.issuperset(_read(module)):
                raise PlanError(f"the plan leaves {name!r} nothing to read")
    _check_shared(model, plan)


def _read(module: nn.Linear) -> list[int]:
    """Return the incoming features a linear layer reads, in the order of its columns."""
    if isinstance(module, SelectLinear):
        return [int(i) for i in module.index]
    return list(range(module.in_features))


def _module(model: nn.Module, name: str) -> nn.Module:
    try:
        return module_at(model, name)
    except AttributeError:
        raise PlanError(
            f"the plan does not fit {type(model).__name__}: it has no module {name!r}"
        ) from None


def _width(module: nn.Module, axis: str) -> int:
    if isinstance(module, SelectLinear) and axis != "out":
        return module.incoming
    return channel_count(module, "out" if axis == "out" else "in")


def _kept(edit: Edit, module: nn.Module) -> Tensor:
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    return torch.tensor(edit.kept(), dtype=torch.long, device=device)


def laid_out(value: Tensor, like: Tensor) -> Tensor:
    """Return a value in the memory format of `like`: channels last, or contiguous."""
    last = torch.channels_last
    four = like.dim() == value.dim() == 4
    if four and not like.is_contiguous() and like.is_contiguous(memory_format=last):
        return value.contiguous(memory_format=last)
    return value.contiguous()


def _take_(module: nn.Module, name: str, kept: Tensor, dim: int) -> None:
    """Replace a parameter or buffer by its slices `kept` along `dim`."""
    tensor = getattr(module, name, None)
    if not isinstance(tensor, Tensor) or tensor.dim() <= dim:
        return
    taken = laid_out(tensor.detach().index_select(dim, kept), tensor)
    if isinstance(tensor, nn.Parameter):
        setattr(module, name, nn.Parameter(taken, requires_grad=tensor.requires_grad))
    else:
        setattr(module, name, taken)


def follow_width_(
    owner: nn.Module, old: int, new: int, axis: str = "", *, dim: int | None = None
) -> None:
    """Write a parameter's new width into the numbers of its module that held the old one.

    With an axis, of two numbers that are named after both that of the other one keeps its value;
    the second dimension `dim` of a recurrent layer's weight is the size of its input.
    """
    own, other = {"out": ("out_", "in_"), "in": ("in_", "out_")}.get(axis, ("", ""))
    recurrent = isinstance(owner, (nn.RNNBase, nn.RNNCellBase))
    for name in ("input_size",) if recurrent and dim == 1 else WIDTHS:
        if old == new or (
            other and name.startswith(other) and name.replace(other, own) in owner.__dict__
        ):
            continue
        value = owner.__dict__.get(name)
        if isinstance(value, tuple) and value and value[-1] == old:
            setattr(owner, name, (*value[:-1], new))
        elif value == old and isinstance(value, int):
            setattr(owner, name, new)


def _cut_out_(module: nn.Module, kept: Tensor) -> None:
    if isinstance(module, CONVOLUTIONS):
        second = isinstance(module, TRANSPOSED) and not is_depthwise(module)
        if second and module.groups > 1:
            _cut_group_axis_(module, kept, module.out_channels)
        else:
            _take_(module, "weight", kept, 1 if second else 0)
        _take_(module, "bias", kept, 0)
        if is_depthwise(module):
            module.groups = module.in_channels = len(kept)
        module.out_channels = len(kept)
    elif isinstance(module, nn.Linear):
        _take_(module, "weight", kept, 0)
        _take_(module, "bias", kept, 0)
        module.out_features = len(kept)
    elif isinstance(module, (BATCHNORMS, nn.modules.instancenorm._InstanceNorm)):
        for name in ("weight", "bias", "running_mean", "running_var"):
            _take_(module, name, kept, 0)
        module.num_features = len(kept)
    elif isinstance(module, nn.LayerNorm):
        _take_(module, "weight", kept, module.weight.dim() - 1 if module.elementwise_affine else 0)
        _take_(module, "bias", kept, 0)
        module.normalized_shape = (*module.normalized_shape[:-1], len(kept))
    elif isinstance(module, nn.GroupNorm):
        _take_(module, "weight", kept, 0)
        _take_(module, "bias", kept, 0)
        if module.num_groups == module.num_channels:
            module.num_groups = len(kept)
        module.num_channels = len(kept)
    elif isinstance(module, nn.PReLU):
        if module.num_parameters > 1:
            _take_(module, "weight", kept, 0)
            module.num_parameters = len(kept)
    elif isinstance(module, RawAxis):
        if module.dim is None:
            setattr(module.owner, module.key, len(kept))
            return
        old, tensor = module.num_channels, getattr(module.owner, module.key)
        _take_(module.owner, module.key, kept.to(tensor.device), module.dim)
        axis = "out" if tensor.dim() == 1 else ""  # a bias
        follow_width_(module.owner, old, len(kept), axis, dim=module.dim)
    else:
        raise PlanError(f"no rule to cut the channels of a {type(module).__name__}")


def _cut_in_(module: nn.Module, gone: Edit | None, deselected: Edit | None) -> None:
    """Cut what a module reads."""
    if isinstance(module, nn.Linear):
        _cut_linear_in_(module, gone, deselected)
        return
    if deselected is not None:
        raise PlanError(f"a {type(module).__name__} cannot select among its inputs")
    if gone is None:
        return
    kept = _kept(gone, module)
    assert isinstance(module, CONVOLUTIONS)
    if module.groups == 1 or isinstance(module, TRANSPOSED):
        _take_(module, "weight", kept, 0 if isinstance(module, TRANSPOSED) else 1)
    else:
        _cut_group_axis_(module, kept, module.in_channels)
    module.in_channels = len(kept)


def _cut_group_axis_(module: nn.Module, kept: Tensor, width: int) -> None:
    """Cut the second axis of a convolution's weight: the channels of each of its groups.

    It is the input's axis, or the output's where the convolution is transposed. Each group keeps
    equally many, but not the same ones.
    """
    assert isinstance(module, CONVOLUTIONS)
    each = kept.view(module.groups, -1) % (width // module.groups)
    split = module.weight.detach().view(module.groups, -1, *module.weight.shape[1:])
    taken = [w.index_select(1, own) for w, own in zip(split, each, strict=True)]
    module.weight = nn.Parameter(torch.cat(taken), module.weight.requires_grad)


def _cut_linear_in_(module: nn.Linear, gone: Edit | None, deselected: Edit | None) -> None:
    """Slice columns; where features still arrive that are not read, the layer selects."""
    incoming = _width(module, "in")
    arriving = gone.kept() if gone else list(range(incoming))
    dropped = set(deselected.removed) if deselected else set()
    column = {position: c for c, position in enumerate(_read(module))}
    index = [i for i, p in enumerate(arriving) if p in column and p not in dropped]
    columns = torch.tensor([column[arriving[i]] for i in index], device=module.weight.device)
    weight = module.weight.detach().index_select(1, columns)
    module.weight = nn.Parameter(weight, module.weight.requires_grad)
    if len(index) < len(arriving):
        select_(module, torch.tensor(index), len(arriving))
        return
    read_all_(module)
    module.in_features = len(index)


#: A parameter or buffer by its module and its name there.
Place = tuple[nn.Module, str]


def shared_tensors(model: nn.Module) -> list[list[Place]]:
    """Return the places of every parameter and buffer that several modules of a network share."""
    places: dict[int, list[Place]] = {}
    for module in model.modules():
        for key, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                places.setdefault(id(tensor), []).append((module, key))
    return [owners for owners in places.values() if len(owners) > 1]


def tie_(model: nn.Module, shared: list[list[Place]]) -> None:
    """Let modules share the tensors again that they shared before they were cut."""
    for (first, name), *others in shared:
        tensor = getattr(first, name, None)
        for module, key in others:
            other = getattr(module, key, None)
            if tensor is not None and other is not None and other.shape == tensor.shape:
                setattr(module, key, tensor)


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
