"""Masking: the same function as the cut network, at the dense network's cost."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from prunus.graph import SelectLinear
from prunus.graph.layers import TRANSPOSED, is_mixing, module_at
from prunus.plan import Edit, Plan
from prunus.surgery.cut import replay_

__all__ = ["mask_"]


def mask_(model: nn.Module, plan: Plan) -> nn.Module:
    """Zero, in place, every weight that reads a removed channel; return the model.

    What makes it is zeroed too, for products between activations (queries and keys) read it
    without a weight. A norm that averages over channels averages over those that stay.

    The masked network computes what the cut network computes, at the dense network's cost.
    """
    for name, axes in plan.modules.items():
        module = module_at(model, name)
        if isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, KeptNorm(module, axes["out"]))
        if not is_mixing(module):
            continue
        if "out" in axes and not isinstance(module, TRANSPOSED):
            _zero_rows_(module, list(axes["out"].removed))
        for axis in ("in", "select"):
            if axis in axes:
                channels = list(axes[axis].removed)
                if isinstance(module, SelectLinear):
                    gone = torch.isin(module.index.cpu().long(), torch.tensor(channels))
                    channels = gone.nonzero()[:, 0].tolist()
                _zero_columns_(module, channels)
    return model


class KeptNorm(nn.Module):
    """A norm over channels, taken over those that stay; the others become 0."""

    kept: Tensor

    def __init__(self, norm: nn.LayerNorm | nn.GroupNorm, edit: Edit) -> None:
        """Cut a copy of `norm` as `edit` says."""
        super().__init__()
        plan = Plan(modules={"norm": {"out": edit}})
        box = replay_(nn.ModuleDict({"norm": copy.deepcopy(norm)}), plan)
        self.norm = box.get_submodule("norm")
        self.width = edit.of
        device = next((p.device for p in norm.parameters()), None)
        self.register_buffer("kept", torch.tensor(edit.kept(), device=device))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the channels that stay: the second axis of maps, the last of tokens."""
        last = type(self.norm) is nn.LayerNorm or x.shape[1] != self.width
        axis = -1 if last and isinstance(self.norm, nn.LayerNorm) else 1
        y = self.norm(x.index_select(axis, self.kept))
        return torch.zeros_like(x).index_copy(axis, self.kept, y)


@torch.no_grad()
def _zero_rows_(module: nn.Module, channels: list[int]) -> None:
    module.get_parameter("weight")[channels] = 0
    if module._parameters.get("bias") is not None:
        module.get_parameter("bias")[channels] = 0


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
