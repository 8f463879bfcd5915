"""What keeps a pass safe: memory that is free, gradients kept off parameters, the first NaN."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from prunus.batches import Inputs
from prunus.core import ConfigError

__all__ = ["MemoryGuard", "first_bad", "free_memory", "only_activations"]


def free_memory(device: torch.device) -> int:
    """Return how many bytes can still be allocated on a GPU of CUDA, otherwise in main memory."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


class MemoryGuard:
    """Refuses Gram matrices that would not fit into the memory that was free at the start."""

    def __init__(self, device: torch.device) -> None:
        self._free, self._reserved = free_memory(device), 0

    def reserve(self, name: str, features: int, blocks: int) -> None:
        """Count the Gram matrices of one consumer, which take no memory until written to.

        Raises:
            ConfigError: they and those before would not fit.
        """
        need = 8 * blocks * features**2
        self._reserved += need
        if self._reserved > self._free:
            raise ConfigError(
                f"module {name!r} reads {features} features, whose Gram matrices take "
                f"{need / 1e9:.1f} GB in {blocks} blocks, {self._reserved / 1e9:.1f} GB with "
                f"those before, and {self._free / 1e9:.1f} GB are free: pass sampling='dual' or "
                "'pool:1', pool first ('flatten:4'), or fewer blocks"
            )


@contextmanager
def only_activations(model: nn.Module, gradients: bool) -> Iterator[None]:
    """Switch gradients on for activations and off for parameters, or off altogether."""
    if not gradients:
        with torch.no_grad():
            yield
        return
    wanted = [p for p in model.parameters() if p.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


def first_bad(model: nn.Module, inputs: Inputs) -> str:
    """Run the batch again and name the first module whose output is not finite."""
    found: list[str] = []
    names = {module: name for name, module in model.named_modules()}

    def look(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and not torch.isfinite(output).all():
            found.append(names[module])

    hooked = [m for m in names if not isinstance(m, torch.jit.ScriptModule)]  # they take no hooks
    handles = [m.register_forward_hook(look) for m in hooked]
    try:
        with torch.no_grad():
            inputs(model)
    finally:
        for handle in handles:
            handle.remove()
    if not all(bool(torch.isfinite(t).all()) for t in inputs.tensors):
        return "the calibration images hold NaN or infinity: clean the data first"
    where = found[0] if found else "the network"
    return (
        f"the activations of module {where!r} hold NaN or infinity on calibration images: "
        "prune a network that trained without diverging, or leave half precision"
    )
