"""Masking: the same function as the cut network, at the dense network's cost."""

from __future__ import annotations

import torch
from torch import nn

from prunus.graph import SelectLinear
from prunus.graph.layers import TRANSPOSED, is_mixing
from prunus.plan import Plan

__all__ = ["mask_"]


def mask_(model: nn.Module, plan: Plan) -> nn.Module:
    """Zero, in place, every weight that reads a removed channel; return the model.

    The masked network computes what the cut network computes, at the dense network's cost.
    """
    for name, axes in plan.modules.items():
        module = model.get_submodule(name)
        if not is_mixing(module):
            continue
        for axis in ("in", "select"):
            if axis in axes:
                channels = list(axes[axis].removed)
                if isinstance(module, SelectLinear):
                    gone = torch.isin(module.index.cpu().long(), torch.tensor(channels))
                    channels = gone.nonzero()[:, 0].tolist()
                _zero_columns_(module, channels)
    return model


@torch.no_grad()
def _zero_columns_(module: nn.Module, channels: list[int]) -> None:
    weight = module.get_parameter("weight")
    if isinstance(module, TRANSPOSED):
        weight[channels] = 0
        return
    groups = getattr(module, "groups", 1)
    split = weight.view(groups, -1, *weight.shape[1:])  # (g, O/g, I/g, taps…)
    channel = torch.tensor(channels, device=weight.device)
    split[channel // weight.shape[1], :, channel % weight.shape[1]] = 0
