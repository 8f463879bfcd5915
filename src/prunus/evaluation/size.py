"""Parameters, bytes and multiply-accumulates, counted on the network as it is."""

from __future__ import annotations

from torch import nn

from prunus.graph import count_bytes, count_macs

__all__ = ["count_bytes", "count_macs", "count_params"]


def count_params(model: nn.Module) -> int:
    """Return the number of parameters; a shared one counts once."""
    return sum(p.numel() for p in model.parameters())
