"""What keeps a pass safe: memory that is free, gradients kept off parameters, the first NaN."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from torch import Tensor, nn

__all__ = ["first_bad", "free_memory", "only_activations"]


def free_memory(device: torch.device) -> int:
    """Return how many bytes can still be allocated on a GPU of CUDA, otherwise in main memory."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


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


def first_bad(model: nn.Module, x: Tensor) -> str:
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
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    if not torch.isfinite(x).all():
        return "the calibration images hold NaN or infinity: clean the data first"
    where = found[0] if found else "the network"
    return (
        f"the activations of module {where!r} hold NaN or infinity on calibration images: "
        "prune a network that trained without diverging, or leave half precision"
    )
