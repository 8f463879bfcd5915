"""An optimiser follows a cut: its parameters are exchanged, its state sliced as they were."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from prunus.modules import private_copy, rolling_back
from prunus.plan import Plan
from prunus.surgery.cut import cut_
from prunus.surgery.receipt import tensors_of
from prunus.surgery.undo import restore_

__all__ = ["cut_state_"]


@torch.no_grad()
def cut_state_(
    optimizer: Optimizer, before: Mapping[str, Tensor], model: nn.Module, plan: Plan
) -> list[str]:
    """Let `optimizer` train the parameters of the cut `model`, with the state of what stayed.

    A cut makes new parameter objects. They take the old ones' places in `param_groups`, whose
    settings stay, and what the state holds an element of a parameter (momenta, second moments)
    is sliced as the parameter was. The optimizer itself, its groups and its state stay the same
    objects, so schedulers and gradient scalers go on with it. What is gone as a whole leaves them.
    All or nothing: whatever is raised, the optimizer is as it was before the call. It belongs to
    the dense network then: `prunus.undo_` brings that back.

    Args:
        before: `tensors_of(model)`, taken before the cut.
        plan: what was cut since.

    Returns:
        The parameters whose state is reset, because it holds a tensor that is no slice of
        theirs (Adafactor's factors, quantised moments).
    """
    with rolling_back(optimizer):
        return _cut_state_(optimizer, before, model, plan)


def _cut_state_(
    optimizer: Optimizer, before: Mapping[str, Tensor], model: nn.Module, plan: Plan
) -> list[str]:
    now = tensors_of(model)
    heirs: dict[Tensor, list[str]] = {}
    for name, old in before.items():
        if isinstance(old, nn.Parameter) and now.get(name) is not old:
            heirs.setdefault(old, []).append(name)
    places = _places(before, model, plan) if heirs else {}
    reset: list[str] = []
    for group in optimizer.param_groups:
        params: list[Tensor] = []
        for old in group["params"]:
            left = [name for name in heirs.get(old, []) if name in now]
            for name in left:
                state = optimizer.state.get(old)
                if state is not None:
                    sliced = _sliced(state, old, places[name])
                    reset += [name] * (sliced is None)
                    optimizer.state[now[name]] = sliced or {}
            params += [now[name] for name in left] if old in heirs else [old]
        group["params"][:] = params
    for old in heirs:
        optimizer.state.pop(old, None)
    return reset


def _places(before: Mapping[str, Tensor], model: nn.Module, plan: Plan) -> dict[str, Tensor]:
    """Return, for every tensor of the cut network, where each element was before the cut.

    A copy is widened again, filled with each element's own place, and cut like the network.
    """
    numbered = {
        name: torch.arange(t.numel(), dtype=torch.float64).view(t.shape)
        if isinstance(t, nn.Parameter)
        else t.detach().cpu()
        for name, t in before.items()
    }
    ghost = private_copy(model).cpu()
    restore_(ghost, plan, numbered)
    return tensors_of(cut_(ghost, plan))


def _sliced(state: Mapping[str, object], old: Tensor, place: Tensor) -> dict[str, object] | None:
    """Return the state of what stayed of a parameter, None where that is unknown."""
    found: dict[str, object] = {}
    for key, value in state.items():
        if isinstance(value, Tensor) and value.shape == old.shape:
            flat = value.reshape(-1)
            value = flat[place.flatten().long().to(value.device)].view(place.shape)  # noqa: PLW2901
        elif isinstance(value, Tensor) and value.numel() > 1:
            return None
        found[key] = value
    return found
