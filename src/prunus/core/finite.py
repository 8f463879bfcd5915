"""Which tensors of a network may be infinite, and which are not finite but should be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["first_non_finite"]


def first_non_finite(model: nn.Module, state: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first tensor of `state` that holds NaN or infinity, or None.

    `state` has the names of the state dict of `model`. A buffer may hold infinities (the bounds
    of a clamp, a mask), but not one of BatchNorm.
    """
    import torch  # noqa: PLC0415 - torch takes seconds, and `prunus --help` needs none

    norms = torch.nn.modules.batchnorm._BatchNorm
    buffers = {
        f"{path}.{key}".lstrip(".")
        for path, module in model.named_modules()
        if not isinstance(module, norms)
        for key, _ in module.named_buffers(recurse=False)
    }
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            continue
        # half precision and the smaller floats have no isfinite of their own everywhere
        values = tensor.double()
        bad = torch.isnan(values) if name in buffers else ~torch.isfinite(values)
        if bool(bad.any()):
            return name
    return None
