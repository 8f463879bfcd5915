"""Tensors that several modules of a network share: where they are, and shared again after a cut."""

from __future__ import annotations

from torch import nn

__all__ = ["Place", "shared_tensors", "tie_"]

#: A parameter or buffer by its module and its name there.
Place = tuple[nn.Module, str]


def shared_tensors(model: nn.Module) -> list[list[Place]]:
    """Return the places of every parameter and buffer that several modules of a network share."""
    places: dict[int, list[Place]] = {}
    for module in model.modules():
        for key, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                places.setdefault(id(tensor), []).append((module, key))
    return [owners for owners in places.values() if len(owners) > 1]


def tie_(model: nn.Module, shared: list[list[Place]]) -> None:
    """Let modules share the tensors again that they shared before they were cut."""
    for (first, name), *others in shared:
        tensor = getattr(first, name, None)
        for module, key in others:
            other = getattr(module, key, None)
            if tensor is not None and other is not None and other.shape == tensor.shape:
                setattr(module, key, tensor)
