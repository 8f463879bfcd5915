"""Parameters, bytes and multiply-accumulates, counted on the network as it is."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["count_bytes", "count_macs", "count_params"]


def count_params(model: nn.Module) -> int:
    """Return the number of parameters; a shared one counts once."""
    return sum(p.numel() for p in model.parameters())


def count_bytes(model: nn.Module) -> int:
    """Return the bytes of all parameters and buffers: what a weight file holds."""
    return sum(t.numel() * t.element_size() for t in model.state_dict().values())


def count_macs(model: nn.Module, example: Tensor) -> int:
    """Return the multiply-accumulates of one forward pass of one image (half its FLOPs).

    Counted by PyTorch's own operator counter on a copy without storage, so functional
    operations count and nothing is computed. Normalisation, pooling and activations count 0.
    """
    ghost = copy.deepcopy(model).to("meta").eval()
    one = torch.empty((1, *example.shape[1:]), device="meta", dtype=example.dtype)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        ghost(one)
    return int(counter.get_total_flops()) // 2
