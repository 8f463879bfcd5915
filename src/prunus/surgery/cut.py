"""Physical removal: one rule per kind of module, and `replay_`, which needs no tracing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from prunus.core import PlanError
from prunus.modules import (
    BATCHNORMS,
    CONVOLUTIONS,
    TRANSPOSED,
    RawAxis,
    attention_of,
    channel_count,
    emptied,
    exchange_,
    is_depthwise,
    is_functional,
    open_heads_,
    place_of,
    read_all_,
    rolling_back,
    select_,
    set_functional_,
    set_in_projection_,
)
from prunus.plan import Edit, Plan
from prunus.surgery.checking import checked_, columns_read, planned_module, planned_width
from prunus.surgery.tied import shared_tensors, tie_

__all__ = ["cut_", "follow_width_", "laid_out", "replay_"]

#: Numbers in which modules of many libraries write down a width that their forward pass reads.
WIDTHS = (
    "normalized_shape", "num_features", "num_channels", "embed_dim", "dim", "channels",
    "hidden_size", "in_features", "out_features", "in_channels", "out_channels",
)  # fmt: skip


def replay_(model: nn.Module, plan: Plan) -> nn.Module:
    """Remove from `model`, in place, every channel the plan removes; return the model.

    Weights that stay are copied bit by bit, and their gradients with them. The whole plan is
    checked before the first cut, and where one fails nothing has been cut: the former tensors are
    held beside the new ones until all are made. Modules stay the objects that they are, with their
    hooks and attributes, and a parameter that several of them share stays one; only a convolution
    that makes nothing any more is replaced, by an `Empty`.

    Raises:
        PlanError: a module is missing or has another width; names the first.
    """
    with rolling_back(model):
        checked_(model, plan)
        return cut_(model, plan)


def cut_(model: nn.Module, plan: Plan) -> nn.Module:
    """Do what `replay_` does with a plan that has been checked and without a way back."""
    shared = shared_tensors(model)
    for name, axes in plan.modules.items():
        module = planned_module(model, name)
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


def _kept(edit: Edit, module: nn.Module) -> Tensor:
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    return torch.tensor(edit.kept(), dtype=torch.long, device=device)


def laid_out(value: Tensor, like: Tensor) -> Tensor:
    """Return a value in the memory format of `like`: channels last, or contiguous."""
    if value.layout is not torch.strided:
        return value
    last = torch.channels_last
    four = like.dim() == value.dim() == 4
    if four and not like.is_contiguous() and like.is_contiguous(memory_format=last):
        return value.contiguous(memory_format=last)
    return value.contiguous()


def _part_of(old: Tensor, take: Callable[[Tensor], Tensor]) -> nn.Parameter:
    """Return a parameter of what `take` leaves of another one, and of its gradient."""
    made = nn.Parameter(laid_out(take(old.detach()), old), requires_grad=old.requires_grad)
    if old.grad is not None:
        made.grad = laid_out(take(old.grad.detach()), old.grad)
    return made


def _take_(module: nn.Module, name: str, kept: Tensor, dim: int) -> None:
    """Replace a parameter or buffer by its slices `kept` along `dim`."""
    tensor = getattr(module, name, None)
    if not isinstance(tensor, Tensor) or tensor.dim() <= dim:
        return
    if isinstance(tensor, nn.Parameter):
        setattr(module, name, _part_of(tensor, lambda t: t.index_select(dim, kept)))
    else:
        setattr(module, name, laid_out(tensor.detach().index_select(dim, kept), tensor))


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
    groups = module.groups
    each = kept.view(groups, -1) % (width // groups)

    def take(tensor: Tensor) -> Tensor:
        split = tensor.chunk(groups)
        return torch.cat([w.index_select(1, own) for w, own in zip(split, each, strict=True)])

    module.weight = _part_of(module.weight, take)


def _cut_linear_in_(module: nn.Linear, gone: Edit | None, deselected: Edit | None) -> None:
    """Slice columns; where features still arrive that are not read, the layer selects."""
    incoming = planned_width(module, "in")
    arriving = gone.kept() if gone else list(range(incoming))
    dropped = set(deselected.removed) if deselected else set()
    column = {position: c for c, position in enumerate(columns_read(module))}
    index = [i for i, p in enumerate(arriving) if p in column and p not in dropped]
    columns = torch.tensor([column[arriving[i]] for i in index], device=module.weight.device)
    module.weight = _part_of(module.weight, lambda t: t.index_select(1, columns))
    if len(index) < len(arriving):
        select_(module, torch.tensor(index), len(arriving))
        return
    read_all_(module)
    module.in_features = len(index)
