"""Masking: the same function as the cut network, at the dense network's cost."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prunus.modules import (
    BATCHNORMS,
    TRANSPOSED,
    RawAxis,
    SelectLinear,
    attention_of,
    bake_,
    has_own_forward,
    is_depthwise,
    is_mixing,
    is_written_norm,
    module_at,
    open_heads_,
    owners_of,
    rolling_back,
)
from prunus.plan import Edit, Plan
from prunus.surgery.checking import checked_
from prunus.surgery.cut import replay_

__all__ = ["mask_", "masked_"]


def mask_(model: nn.Module, plan: Plan) -> nn.Module:
    """Zero, in place, everything that makes or reads a removed channel; return the model.

    Every weight that reads it is zeroed, of layers and of raw parameters (those of a GRU, a
    codebook). What makes it is zeroed too, for products between activations (queries and keys,
    distances) read it without a weight. A norm that averages over channels averages over those that
    stay, and so does a convolution that standardises its weight.

    The masked network computes what the cut network computes, at the dense network's cost. What a
    gradient holds for the removed channels is zeroed with them. All or nothing: whatever is
    raised, the network is as it was; for this the weights that are masked are copied to main
    memory.

    Raises:
        PlanError: a module is missing or has another width; names the first.
    """
    with rolling_back(model) as before:
        checked_(model, plan)
        for name in plan.modules:
            module = module_at(model, name)
            owner = module.owner if isinstance(module, RawAxis) else module
            for tensor in (*owner.parameters(recurse=False), *owner.buffers(recurse=False)):
                before.keep(with_gradient(tensor))
        return masked_(model, plan)


def masked_(model: nn.Module, plan: Plan) -> nn.Module:
    """Do what `mask_` does with a plan that has been checked and without a way back."""
    bake_(model, owners_of(plan.modules))
    found = {name: module_at(model, name) for name in plan.modules}  # before any is changed
    norms: dict[nn.Module, Edit] = {}
    numbers: dict[nn.Module, list[str]] = defaultdict(list)
    partial: dict[str, nn.Module] = {}
    for name, module in found.items():
        axes = plan.modules[name]
        if (owner := attention_of(model, name)) is not None:
            open_heads_(owner)  # PyTorch's fused layer would look for the parameters of its norms
        if isinstance(module, RawAxis) and is_written_norm(module.owner):
            norms[module.owner] = axes["out"]
            if module.dim is None:
                numbers[module.owner].append(module.key)
            else:
                _zero_gradient_(getattr(module.owner, module.key), axes["out"], module.dim)
        elif isinstance(module, RawAxis):
            _zero_raw_(module, list(axes["out"].removed))
        elif isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
            norms[module] = axes["out"]
            for parameter in module.parameters(recurse=False):
                _zero_gradient_(parameter, axes["out"], parameter.dim() - 1)
        elif isinstance(module, BATCHNORMS):
            _zero_rows_(module, list(axes["out"].removed))
        if not (is_mixing(module) or is_depthwise(module)):
            continue
        if "out" in axes and not isinstance(module, TRANSPOSED):
            _zero_rows_(module, list(axes["out"].removed))
        if is_depthwise(module):
            continue
        if "in" in axes and has_own_forward(module):
            partial[name] = module
            continue
        for axis in ("in", "select"):
            if axis in axes:
                channels = list(axes[axis].removed)
                if isinstance(module, SelectLinear):
                    gone = torch.isin(module.index.cpu().long(), torch.tensor(channels))
                    channels = gone.nonzero()[:, 0].tolist()
                _zero_columns_(module, channels)
    for norm, edit in norms.items():
        norm.forward = KeptNorm(norm, edit, numbers[norm])
    for name, module in partial.items():  # with what they hold, masked
        inner = _read_within(module, name, plan)
        module.forward = KeptInputs(module, plan.modules[name]["in"], inner)  # its hooks stay
    return model


class KeptNorm:
    """The forward pass of a norm over channels, over those that stay; the others become 0."""

    def __init__(self, norm: nn.Module, edit: Edit, numbers: Sequence[str] = ()) -> None:
        """Cut a copy of `norm`, each of its parameters and `numbers`, as `edit` says."""
        names = ["norm"]
        if is_written_norm(norm):
            own = dict(norm.named_parameters(recurse=False))
            names = [f"norm.{key}:{list(p.shape).index(edit.of)}" for key, p in own.items()]
            names += [f"norm:{key}" for key in numbers]
        plan = Plan(modules={name: {"out": edit} for name in names})
        self.whole = _bare(norm)
        self.norm = replay_(nn.ModuleDict({"norm": copy.deepcopy(self.whole)}), plan)["norm"]  # type: ignore[index]
        self.width, self.kept = edit.of, edit.kept()
        self.axes: dict[tuple[int, ...], int] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise the channels that stay, along the axis on which the norm has its channels."""
        shape = tuple(x.shape)
        if shape not in self.axes:
            self.axes[shape] = self._axis(x)
        axis = self.axes[shape]
        kept = torch.tensor(self.kept, device=x.device)
        y = self.norm(x.index_select(axis, kept))
        return torch.zeros_like(x, dtype=y.dtype).index_copy(axis, kept, y)

    def _axis(self, x: Tensor) -> int:
        """Return the axis of the channels: where sizes leave several, it is tried out.

        A norm whose scale and shift are zero but for one channel makes zeros everywhere else; one
        without a scale passes a change of one value on along the axis that it averages over.
        """
        fit = [axis for axis in range(1, x.dim()) if x.shape[axis] == self.width]
        fit = fit or [axis for axis in range(x.dim()) if x.shape[axis] == self.width]
        if len(fit) == 1:
            return fit[0]
        if isinstance(self.norm, nn.GroupNorm):
            return 1
        if type(self.whole) is nn.LayerNorm:
            return x.dim() - 1
        probe = copy.deepcopy(self.whole)
        own = [p for p in probe.parameters(recurse=False) if p.numel() == self.width]
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
        with torch.no_grad():
            for parameter in own:
                parameter.zero_()
                parameter.view(-1)[0] = 1
            y = probe(noise)
            noise.view(-1)[0] += 1
            moved = (probe(noise) - y).abs() > 0
        for axis in fit:
            along = moved[tuple(slice(None) if a == axis else 0 for a in range(x.dim()))]
            if bool(along[1:].any()) if not own else not y.narrow(axis, 1, self.width - 1).any():
                return axis
        return x.dim() - 1


class KeptInputs:
    """The forward pass of a convolution that computes its weight, from the channels that stay."""

    def __init__(self, layer: nn.Module, edit: Edit, inner: dict[str, str]) -> None:
        """Cut a copy of `layer`, and the axes `inner` of what it holds, as `edit` says."""
        held = {f"layer.{name}": {axis: edit} for name, axis in inner.items()}
        plan = Plan(modules={"layer": {"in": edit}, **held})
        self.layer = replay_(nn.ModuleDict({"layer": _bare(layer)}), plan)["layer"]  # type: ignore[index]
        self.whole, self.kept = layer, edit.kept()

    def __call__(self, x: Tensor) -> Tensor:
        """Read the channels that stay, in the mode of the whole layer."""
        for own, its in zip(self.layer.modules(), self.whole.modules(), strict=True):
            own.training = its.training
        kept = torch.tensor(self.kept, device=x.device)
        made: Tensor = self.layer(x.index_select(1, kept))
        return made


def _bare(module: nn.Module) -> nn.Module:
    """Return a copy without hooks, which the module itself calls already."""
    made = copy.deepcopy(module)
    for hooks in (made._forward_hooks, made._forward_pre_hooks):
        hooks.clear()
    return made


def _read_within(layer: nn.Module, name: str, plan: Plan) -> dict[str, str]:
    """Return what a layer holds that is cut with its inputs: a mask's axis, layers that read it."""
    edit, weight = plan.modules[name]["in"], layer.get_parameter("weight")
    made = int(isinstance(layer, TRANSPOSED))
    found = {}
    for other, axes in plan.modules.items():
        path, colon, dim = other.rpartition(":")
        owner, _, key = path.rpartition(".")
        if not colon and other.startswith(f"{name}.") and axes.get("in") == edit:
            found[other.removeprefix(f"{name}.")] = "in"
        if not (colon and dim.isdecimal() and owner == name) or axes.get("out") != edit:
            continue
        tensor = getattr(layer, key)
        by_place = tensor.dim() == weight.dim()  # a mask, or a gain (O, 1, 1): axes as the weight's
        if not by_place or int(dim) == 1 - made:
            found[f"{key}:{dim}"] = "out"
    return found


@torch.no_grad()
def _zero_rows_(module: nn.Module, channels: list[int]) -> None:
    """Zero what a layer makes, or a norm passes on."""
    for name in ("weight", "bias"):
        for tensor in with_gradient(module._parameters.get(name)):
            tensor[channels] = 0


@torch.no_grad()
def _zero_raw_(axis: RawAxis, channels: list[int]) -> None:
    """Zero the removed slices of a parameter, or of a buffer of numbers."""
    tensor = getattr(axis.owner, axis.key)
    if axis.dim is None or not isinstance(tensor, Tensor):
        return
    if tensor.is_floating_point() or tensor.is_complex():
        for each in with_gradient(tensor):
            each.index_fill_(axis.dim, torch.tensor(channels, device=tensor.device), 0)


def _zero_gradient_(tensor: Tensor, edit: Edit, dim: int) -> None:
    """Zero what the gradient of a norm's parameter, which the masked norm does not read, holds."""
    if tensor.grad is not None:
        tensor.grad.index_fill_(dim, torch.tensor(edit.removed, device=tensor.device), 0)


@torch.no_grad()
def _zero_columns_(module: nn.Module, channels: list[int]) -> None:
    groups = getattr(module, "groups", 1)
    for weight in with_gradient(module.get_parameter("weight")):
        if isinstance(module, TRANSPOSED):
            weight[channels] = 0
            continue
        split = torch.unflatten(weight, 0, (groups, -1))  # (g, O/g, I/g, taps…)
        channel = torch.tensor(channels, device=weight.device)
        split[channel // weight.shape[1], :, channel % weight.shape[1]] = 0


def with_gradient(tensor: Tensor | None) -> list[Tensor]:
    """Return a tensor, if there is one, and its gradient, if it has one."""
    return [t for t in (tensor, None if tensor is None else tensor.grad) if t is not None]
