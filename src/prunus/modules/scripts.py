"""ScriptModules within a network: they run, but cannot be traced."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from prunus.core import TraceError

__all__ = ["OPAQUE", "Scripted", "hide_scripts_"]

#: The text in every reason that is due to a ScriptModule.
OPAQUE = "a ScriptModule, which cannot be traced"


class Scripted(nn.Module):
    """Runs a ScriptModule as one layer, because ScriptModules accept no hooks.

    Its parameters and inner modules are not registered.
    """

    def __init__(self, script: nn.Module) -> None:
        """Run `script`."""
        super().__init__()
        self.hidden = (script,)

    def __getattr__(self, name: str) -> Any:
        """Forward attributes that the surrounding network reads from the script."""
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
    """Wrap every ScriptModule of a private copy in a `Scripted`, in place; return the copy.

    Raises:
        TraceError: the network itself is a ScriptModule.
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
