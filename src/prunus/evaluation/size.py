"""Parameters, bytes and multiply-accumulates, counted on the network as it is."""

from __future__ import annotations

from torch import nn

from prunus.graph import count_macs

__all__ = ["count_bytes", "count_macs", "count_params"]


def count_params(model: nn.Module) -> int:
    """Return the number of parameters; a shared one counts once."""
    return sum(p.numel() for p in model.parameters())


def count_bytes(model: nn.Module) -> int:
    """Return the bytes of all parameters and buffers: the content of a weight file."""
    return sum(t.numel() * t.element_size() for t in model.state_dict().values())
