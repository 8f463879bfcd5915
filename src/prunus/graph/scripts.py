"""ScriptModules within a network: they run, and nothing can look into them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from prunus.core.errors import TraceError
from prunus.graph.labels import Labels, Track

__all__ = ["OPAQUE", "Scripted", "hide_scripts_", "keep_whole"]

#: What every reason says that is due to a ScriptModule.
OPAQUE = "a ScriptModule, which cannot be looked into"


class Scripted(nn.Module):
    """Runs a ScriptModule as one layer, for ScriptModules take no hooks.

    Its parameters and inner modules are not registered.
    """

    def __init__(self, script: nn.Module) -> None:
        """Run `script`."""
        super().__init__()
        self.hidden = (script,)

    def __getattr__(self, name: str) -> Any:
        """Return what the network around it asks the script for."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__") or "hidden" not in vars(self):  # asked by copy.deepcopy
                raise
            return getattr(self.hidden[0], name)

    def train(self, mode: bool = True) -> Scripted:
        """Set the mode of the script too."""
        self.hidden[0].train(mode)
        return super().train(mode)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the script."""
        return self.hidden[0](*args, **kwargs)


def hide_scripts_(model: nn.Module) -> nn.Module:
    """Put every ScriptModule of a private copy into a `Scripted`, in place; return the copy.

    Raises:
        TraceError: the network itself is one.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise TraceError(
            f"the network is {OPAQUE}: give the nn.Module that it was scripted or traced from"
        )
    for name, child in model.named_children():
        if isinstance(child, torch.jit.ScriptModule):
            setattr(model, name, Scripted(child))
        else:
            hide_scripts_(child)
    return model


def keep_whole(
    labels: Labels, name: str, tracks: list[Track], outputs: list[Tensor]
) -> list[Track]:
    """Keep what an operation in the ScriptModule `name` reads, and what will meet its results."""
    reason = f"it meets {name!r}, {OPAQUE}"
    for array in (a for track in tracks for a in track.arrays):
        labels.fix(array, reason)
    made = []
    for tensor in outputs:
        rank = tensor.dim()
        track = Track(tuple(tensor.shape))
        for axis in range(1, rank):  # the first is the images'
            nodes = labels.new(tensor.shape[axis])
            labels.fix(nodes, reason)
            track.arrays.append(nodes.view([-1 if d == axis else 1 for d in range(rank)]))
        made.append(track)
    return made
