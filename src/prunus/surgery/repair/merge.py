"""Data-free repair: each removed unit is read as a multiple of the kept unit most like it.

Let unit u of a producer be v_u = (γ/σ·w_u, β + γ/σ·(b_u − μ)): its filter and bias with the
BatchNorm that follows folded in (γ, β, μ, σ; 1, 0, 0, 1 without one). Where v_p = s·v_k with
s > 0, and what lies between is positively homogeneous (ReLU, leaky ReLU, pooling, nothing),
channel p is s times channel k, and its consumers may read k instead: W_k += s·W_p loses nothing.
Otherwise k is the kept unit of largest cosine with p, s the projection ⟨v_p, v_k⟩/‖v_k‖², and

    left = Σ_p ‖v_p − s·v_k‖²·‖W_p‖² / Σ_p ‖v_p‖²·‖W_p‖²

is the share of the energy that stays lost if the producer's inputs are white. Units whose best
cosine is not positive are not merged. After other activations (GELU, sigmoid) it is exact for
s = 1 alone.

Source: [Srinivas-Babu] (equal neurons); [Neuron-merging] (scaled ones, with BatchNorm). Folding the
bias into one cosine, and the projection in place of the ratio of norms, are reconstructions of
ours.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from prunus.core import PlanError
from prunus.graph import Group, Groups, Member
from prunus.modules import (
    BATCHNORMS,
    SelectLinear,
    channel_count,
    input_columns,
    is_depthwise,
    is_mixing,
    module_at,
    set_input_columns_,
)
from prunus.plan import Edit, Plan
from prunus.surgery.repair.closed_form import Repair

__all__ = ["merge_"]


def merge_(model: nn.Module, plan: Plan, groups: Groups) -> list[Repair]:
    """Add the consumers' weights of removed units to those of similar kept ones, before the cut.

    Needs no data. Groups that cannot be merged are left as they are, with the reason. A consumer
    has one repair for each group that it loses units of. Cost per group: O(units²·fan-in).

    Raises:
        PlanError: the plan was made for other groups; nothing has been changed then.
    """
    known = {group.name: group for group in groups.values()}
    for name, edit in plan.groups.items():
        if name not in known or known[name].units != edit.of:
            found = f"{known[name].units} units" if name in known else "no such group"
            raise PlanError(
                f"the plan removes units of a group {name!r} of {edit.of}, and the network has "
                f"{found}: give the groups that the plan was made with"
            )
    repairs = []
    for name, edit in plan.groups.items():
        group = known[name]
        reason = _obstacle(model, groups, group)
        if edit.all_gone:
            reason = "none of them is left"
        if reason:  # positions whose whole channel is removed belong to that channel's group
            consumers = {
                m.module: None
                for m in group.consumers
                if m.axis in plan.modules[m.module] and not plan.empties(m.module)
            }
            repairs += [
                Repair(n, None, f"channels of {name!r} not merged: {reason}") for n in consumers
            ]
        else:
            repairs += _merge_group_(model, plan, groups, group, edit)
    return repairs


def _obstacle(model: nn.Module, groups: Groups, group: Group) -> str:
    """Return why a group's units cannot be compared by their weights; empty where they can."""
    members = [(m, module_at(model, m.module)) for m in group.members]
    makers = [m for m, module in members if m.axis == "out" and is_mixing(module)]
    if not makers:
        return "no module makes them: they are the network's inputs or positions of a map"
    if len(makers) > 1:
        return f"{' and '.join(m.module for m in makers)} make them together"
    if makers[0].index.shape[1] > 1:
        return "a unit is several channels, one in each group of a grouped convolution"
    for member, module in members:
        if reason := groups.unfit(member.module):
            return f"{member.module!r} cannot change: {reason}"
        if member.axis != "out" or member is makers[0]:
            continue
        if isinstance(module, BATCHNORMS):
            if member.module != groups.normalizer.get(makers[0].module):
                return f"the norm {member.module!r} does not follow {makers[0].module!r} directly"
            if module.running_mean is None or module.running_var is None:
                return f"the norm {member.module!r} has no running statistics"
        elif is_depthwise(module):
            return f"{member.module!r} filters each channel by itself"
        elif isinstance(module, nn.PReLU):
            if bool((module.weight != module.weight[0]).any()):
                return f"the slopes of {member.module!r} differ between channels"
        else:
            return f"{member.module!r} ({type(module).__name__}) depends on each input's own mean"
    return ""


@torch.no_grad()
def _merge_group_(
    model: nn.Module, plan: Plan, groups: Groups, group: Group, edit: Edit
) -> list[Repair]:
    V = _folded_filters(model, groups, group)  # (units, fan-in + 1)
    P, K = torch.tensor(edit.removed), torch.tensor(edit.kept())
    V_P, V_K = V[P], V[K]
    energy = V_P.square().sum(1)
    norms = V_K.square().sum(1).clamp(min=torch.finfo(V.dtype).tiny)
    best = (V_P @ V_K.T / norms.sqrt()).argmax(1)  # the cosine, but for ‖v_p‖
    scale = ((V_P * V_K[best]).sum(1) / norms[best]).clamp(min=0)
    lost = (V_P - scale[:, None] * V_K[best]).square().sum(1)
    repairs = []
    for member in group.consumers:
        if plan.empties(member.module):
            continue
        module = module_at(model, member.module)
        W = input_columns(module).double().cpu()  # (in, outputs·taps)
        column, there = _columns(module, member, plan)
        p, k = column[P], column[K[best]]  # (|P|, positions of a channel)
        merged = there[K[best]] & (p >= 0) & (scale > 0)[:, None]
        weight = torch.where(p >= 0, W[p].square().sum(2), 0.0)  # ‖W_p‖², −1 wraps and is masked
        left = torch.where(merged, lost[:, None], energy[:, None])
        before = float((weight * energy[:, None]).sum())
        added = scale[:, None, None] * W[p]
        W.index_add_(0, k[merged], added[merged])
        W[p[p >= 0]] = 0  # zero also for the groups that this module makes
        set_input_columns_(module, W.to(module.get_parameter("weight")))
        share = float((weight * left).sum()) / before if before > 0 else 0.0
        repairs.append(Repair(member.module, min(max(share, 0.0), 1.0)))
    return repairs


def _folded_filters(model: nn.Module, groups: Groups, group: Group) -> Tensor:
    """Return v_u of each unit: the filter and bias with the norm folded in. (units, fan-in + 1)."""
    member = next(m for m in group.producers if is_mixing(module_at(model, m.module)))
    module = module_at(model, member.module)
    columns = input_columns(module).double().cpu()
    outputs = channel_count(module, "out")
    w = columns.view(len(columns), outputs, -1).transpose(0, 1).flatten(1)  # (outputs, in·taps)
    b = w.new_zeros(outputs)
    if getattr(module, "bias", None) is not None:
        b = module.get_parameter("bias").double().cpu()
    norm = groups.normalizer.get(member.module)
    if norm in {m.module for m in group.producers}:
        bn = module_at(model, norm)
        assert isinstance(bn, BATCHNORMS)
        mean, var = (bn.get_buffer(f"running_{n}").double().cpu() for n in ("mean", "var"))
        gain = (var + bn.eps).rsqrt()
        beta = torch.zeros_like(mean)
        if bn.affine:
            gain = gain * bn.weight.double().cpu()
            beta = bn.bias.double().cpu()
        w, b = gain[:, None] * w, beta + gain * (b - mean)
    return torch.cat([w, b[:, None]], 1)[torch.from_numpy(member.index[:, 0])]


def _columns(module: nn.Module, member: Member, plan: Plan) -> tuple[Tensor, Tensor]:
    """Return which column of `module`'s weight reads each of a member's channels, and if it stays.

    Shapes (units, positions); the column is −1 where the channel is not read.
    """
    width = channel_count(module, "in")
    column = np.arange(width)
    if isinstance(module, SelectLinear):
        column = np.full(module.incoming, -1)
        column[module.index.cpu().numpy()] = np.arange(width)
    there = column >= 0
    axes = plan.modules.get(member.module, {})
    for axis in ("in", "select"):
        if axis in axes:
            there[list(axes[axis].removed)] = False
    return torch.from_numpy(column[member.index]), torch.from_numpy(there[member.index])
