"""Masking: the same function as the cut network, at the dense network's cost."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from prunus.modules import (
    TRANSPOSED,
    RawAxis,
    SelectLinear,
    attention_of,
    exchange_,
    has_own_forward,
    is_mixing,
    is_written_norm,
    module_at,
    open_heads_,
)
from prunus.plan import Edit, Plan
from prunus.surgery.cut import replay_

__all__ = ["mask_"]


def mask_(model: nn.Module, plan: Plan) -> nn.Module:
    """Zero, in place, every weight that reads a removed channel; return the model.

    What makes it is zeroed too, for products between activations (queries and keys) read it
    without a weight. A norm that averages over channels averages over those that stay, and so does
    a convolution that standardises its weight.

    The masked network computes what the cut network computes, at the dense network's cost.
    """
    found = {name: module_at(model, name) for name in plan.modules}  # before any is replaced
    for name, module in found.items():
        axes = plan.modules[name]
        if (owner := attention_of(model, name)) is not None:
            open_heads_(owner)  # PyTorch's fused layer would look for the parameters of its norms
        if isinstance(module, RawAxis) and is_written_norm(module.owner):
            name, module = name.rpartition(":")[0].rpartition(".")[0], module.owner  # noqa: PLW2901
            if "out" in axes:
                exchange_(model, name, KeptNorm(module, axes["out"]))
        elif isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
            exchange_(model, name, KeptNorm(module, axes["out"]))
        if not is_mixing(module):
            continue
        if "out" in axes and not isinstance(module, TRANSPOSED):
            _zero_rows_(module, list(axes["out"].removed))
        if "in" in axes and has_own_forward(module):
            exchange_(model, name, KeptInputs(module, axes["in"]))
            continue
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

    def __init__(self, norm: nn.Module, edit: Edit) -> None:
        """Cut a copy of `norm`, each of its parameters, as `edit` says."""
        super().__init__()
        names = ["norm"]
        if is_written_norm(norm):
            own = dict(norm.named_parameters(recurse=False))
            names = [f"norm.{key}:{list(p.shape).index(edit.of)}" for key, p in own.items()]
        plan = Plan(modules={name: {"out": edit} for name in names})
        self.norm = replay_(nn.ModuleDict({"norm": copy.deepcopy(norm)}), plan)["norm"]  # type: ignore[index]
        self.width = edit.of
        device = next((p.device for p in norm.parameters()), None)
        self.register_buffer("kept", torch.tensor(edit.kept(), device=device))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the channels that stay: the second axis of maps, the last of tokens."""
        axis = self._axis(x)
        y = self.norm(x.index_select(axis, self.kept))
        return torch.zeros_like(x).index_copy(axis, self.kept, y)

    def _axis(self, x: Tensor) -> int:
        if isinstance(self.norm, nn.GroupNorm) or x.shape[-1] != self.width:
            return 1
        if type(self.norm) is nn.LayerNorm or x.shape[1] != self.width:
            return -1
        return 1 if "2d" in type(self.norm).__name__.lower() else -1


class KeptInputs(nn.Module):
    """A convolution that computes its weight from the channels that stay, and reads no other."""

    kept: Tensor

    def __init__(self, layer: nn.Module, edit: Edit) -> None:
        """Cut a copy of `layer` as `edit` says."""
        super().__init__()
        plan = Plan(modules={"layer": {"in": edit}})
        self.layer = replay_(nn.ModuleDict({"layer": copy.deepcopy(layer)}), plan)["layer"]  # type: ignore[index]
        device = next((p.device for p in layer.parameters()), None)
        self.register_buffer("kept", torch.tensor(edit.kept(), device=device))

    def forward(self, x: Tensor) -> Tensor:
        """Read the channels that stay."""
        made: Tensor = self.layer(x.index_select(1, self.kept))
        return made


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
