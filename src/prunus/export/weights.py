"""Weights as safetensors: the same network always gives the same bytes."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save
from torch import nn

from prunus.core import write_whole

__all__ = ["save_weights"]


def save_weights(model: nn.Module, path: Path) -> int:
    """Write the state dict of `model`; return the file's size in bytes.

    Tensors that share memory (tied weights) are each written as a copy; the constructor ties them
    again on loading. No metadata is written: safetensors writes several keys in random order, and
    equal networks must give equal files.
    """
    state = {name: t.detach().cpu().clone().contiguous() for name, t in model.state_dict().items()}
    content = save(state)
    write_whole(path, content)
    return len(content)
