"""Undo a cut: a receipt brings the removed units back."""

from __future__ import annotations

from collections.abc import Mapping

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
    close_heads_,
    exchange_,
    former_of,
    is_functional,
    module_at,
    place_of,
    private_copy,
    read_all_,
    rolling_back,
    select_,
    unbake_,
    unwrapped,
)
from prunus.plan import Edit, Plan
from prunus.surgery.cut import cut_, follow_width_, laid_out
from prunus.surgery.receipt import Memory, Receipt, saved_shapes, state_of, tensors_of
from prunus.surgery.tied import shared_tensors, tie_

__all__ = ["restore_", "undo_"]


@torch.inference_mode(False)
def undo_(model: nn.Module, receipt: Receipt, *, keep_training: bool = False) -> nn.Module:
    """Bring back, in place, what `apply_` took from `model`; return the model.

    By default the network is afterwards what it was before `apply_`, bit by bit: weights, what
    repair had changed, and buffers; whatever was trained in between is lost.

    With `keep_training`, removed units come back with their old weights while kept weights keep
    what training did to them since the cut. What the repair did to them is taken back, because
    the units that they stood in for are here again:

        w = w_now where repair left it alone, else w_dense + (w_now − w_cut);
        σ² = σ²_dense·σ²_now/σ²_cut for running variances, which stay positive.

    Weights that `apply_` made plain (`Receipt.baked`) stay plain then, as they do for a receipt
    that was loaded from a file. Norms hold statistics of two networks: `reestimate_batchnorm_` is
    advised. Parameters keep their device and whether they need gradients; those that change shape
    are new objects, so an optimizer has to be created again.

    Gradients are dropped (`grad` is None), as they belong to weights that are lost. With
    `keep_training` they stay with the kept weights, and are 0 for those that come back.

    All or nothing: whatever is raised, the network is as it was before the call.

    Raises:
        PlanError: the receipt belongs to another network or to another state of this one, or
            keeps no memory; nothing has been changed then.

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
        >>> prunus.undo_(net, receipt)[0].weight.shape
        torch.Size([8, 4])
    """
    whole, model = model, unwrapped(model, in_place=True)
    memory = receipt.memory
    if memory is None:
        raise PlanError(
            "this receipt kept no weights, so nothing can be undone: cut with apply_(undo=True)"
        )
    _check(model, receipt, memory)
    now = state_of(model)
    with rolling_back(model) as before:
        before.keep(tensors_of(model).values(), now.values())
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        for parameter in model.parameters():
            parameter.grad = None
        restore_(model, receipt.plan, memory.dense)
        if not keep_training:
            unbake_(model, memory.baked)
        else:
            positions = state_of(cut_(_numbered(model, memory.dense), receipt.plan))
            _fill_(model, {**memory.dense, **_trained(memory, now, positions)})
            _give_back_(model, gradients, positions)
    return whole


def restore_(model: nn.Module, plan: Plan, dense: Mapping[str, Tensor]) -> None:
    """Give a network that `plan` may have cut its former widths, and the values of `dense`."""
    shared = shared_tensors(model)
    for name, axes in plan.modules.items():
        if attention_of(model, name) is None or not name.endswith(".in_proj"):
            _widen_(model, name, axes, dense)  # of a projection the tensors are all there is
    _fill_(model, dense)
    tie_(model, shared)
    for name in plan.modules:
        if (owner := attention_of(model, name)) is not None:
            close_heads_(owner)


def _check(model: nn.Module, receipt: Receipt, memory: Memory) -> None:
    kind = type(model).__name__
    if receipt.network and kind != receipt.network:
        raise PlanError(
            f"the receipt is of a {receipt.network}, not of a {kind}: give the network it was "
            "made for"
        )
    found = saved_shapes(model)
    if found == memory.shapes:
        return
    extra = tensors_of(model).keys() - found.keys()
    dense = {name: tuple(t.shape) for name, t in memory.dense.items() if name not in extra}
    if found == dense:
        raise PlanError(
            f"this {kind} is as wide as before the cut: it has not been cut, or the receipt has "
            "already been undone"
        )
    names = [*memory.shapes, *(n for n in found if n not in memory.shapes)]
    name = next(n for n in names if found.get(n) != memory.shapes.get(n))
    raise PlanError(
        f"the receipt does not fit this {kind}: tensor {name!r} has shape "
        f"{found.get(name, 'none')}, the cut left {memory.shapes.get(name, 'none')}. Undo later "
        "cuts first, the last one before the others"
    )


def _widen_(
    model: nn.Module, name: str, axes: Mapping[str, Edit], dense: Mapping[str, Tensor]
) -> None:
    """Give one module the widths that it had; its tensors follow in `_fill_`."""
    module = module_at(model, name)
    if (former := former_of(module)) is not None:  # tensors of no size, for `_fill_`
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        exchange_(model, name, former.to(device).train(module.training))
        module = former
    if is_functional(module):  # the tensor follows in `_fill_`
        for axis, edit in axes.items():
            follow_width_(place_of(model, name)[0], channel_count(module, axis), edit.of, axis)
        return
    if isinstance(module, RawAxis):  # the tensor follows in `_fill_`
        if module.dim is None:
            setattr(module.owner, module.key, axes["out"].of)
        else:
            axis = "out" if getattr(module.owner, module.key).dim() == 1 else ""  # a bias
            follow_width_(module.owner, module.num_channels, axes["out"].of, axis, dim=module.dim)
        return
    out = axes["out"].of if "out" in axes else channel_count(module, "out")
    incoming = next((axes[a].of for a in ("in", "select") if a in axes), None)
    if isinstance(module, nn.Linear):
        if incoming is not None:
            _read_again_(module, name, incoming, dense)
        module.out_features = out
    elif isinstance(module, CONVOLUTIONS):
        module.out_channels = out
        module.in_channels = incoming or module.in_channels
        whole = out if isinstance(module, TRANSPOSED) else module.in_channels
        module.groups = whole // dense[f"{name}.weight"].shape[1]
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = (*module.normalized_shape[:-1], out)
    elif isinstance(module, nn.GroupNorm):
        if module.num_groups == module.num_channels > 1:  # one channel per group, before and after
            module.num_groups = out
        module.num_channels = out
    elif isinstance(module, nn.PReLU):
        module.num_parameters = out
    elif isinstance(module, (BATCHNORMS, nn.modules.instancenorm._InstanceNorm)):
        module.num_features = out


def _read_again_(module: nn.Linear, name: str, incoming: int, dense: Mapping[str, Tensor]) -> None:
    """Let a linear layer read `incoming` features, all or those it read before."""
    weight, index = dense[f"{name}.weight"].to(module.weight.device), dense.get(f"{name}.index")
    module.weight = nn.Parameter(weight.clone(), module.weight.requires_grad)
    if index is None:
        read_all_(module)
        module.in_features = incoming
    else:
        select_(module, index, incoming)


@torch.no_grad()
def _fill_(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Set every tensor to its value in `state`; those that change shape or type are replaced.

    A tensor that several modules share stays one.
    """
    shared = shared_tensors(model)
    for name, value in state.items():
        parent, _, leaf = name.rpartition(".")
        module = model.get_submodule(parent)
        old = getattr(module, leaf)
        if old is None:  # a non-persistent cache that has been dropped since
            continue
        if old.shape == value.shape and old.dtype == value.dtype:
            old.copy_(value)
        elif isinstance(old, nn.Parameter):
            setattr(
                module, leaf, nn.Parameter(laid_out(value.to(old.device), old), old.requires_grad)
            )
        else:
            setattr(module, leaf, laid_out(value.to(old.device, copy=True), old))
    tie_(model, shared)


@torch.no_grad()
def _numbered(model: nn.Module, dense: Mapping[str, Tensor]) -> nn.Module:
    """Return a float64 copy on the CPU whose every element is its own place in its tensor.

    Cut as the network was, it shows where each element that was kept came from.
    """
    numbered = private_copy(model).cpu().double()
    state = tensors_of(numbered)
    for name, tensor in dense.items():
        if tensor.is_floating_point():
            places = torch.arange(tensor.numel(), dtype=torch.float64)
            state[name].copy_(places.view(tensor.shape))
    return numbered


def _give_back_(
    model: nn.Module, gradients: Mapping[str, Tensor], positions: Mapping[str, Tensor]
) -> None:
    """Give each parameter the gradient of its kept elements again, and 0 for the others."""
    for name, gradient in gradients.items():
        parameter = model.get_parameter(name)
        if gradient.shape == parameter.shape:
            parameter.grad = gradient
            continue
        place = positions[name].flatten().long().to(gradient.device)
        whole = gradient.new_zeros(parameter.shape, layout=torch.strided)
        whole.view(-1)[place] = gradient.detach().to_dense().flatten()
        parameter.grad = laid_out(whole, parameter)


def _trained(
    memory: Memory, now: Mapping[str, Tensor], positions: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the dense tensors with what training did to their kept elements."""
    trained = {}
    for name, dense in memory.dense.items():
        if name not in now or now[name].shape != positions[name].shape:
            continue  # the index of a layer that has nothing to select any more, or a cache
        if not dense.is_floating_point():
            if name not in memory.cut or dense.dim() == 0:  # a counter, or none of ours
                trained[name] = now[name]
            continue
        place = positions[name].flatten().long()
        here, was = now[name].to(dense.dtype).flatten(), dense.flatten()[place]
        cut = memory.cut[name].flatten() if name in memory.cut else was
        moved = was * here / cut if name.endswith("running_var") else was + (here - cut)
        moved = torch.where(here == cut, was, moved)
        moved = torch.where(cut == was, here, moved)
        whole = dense.flatten().clone()
        whole[place] = moved
        trained[name] = whole.view(dense.shape)
    return trained
