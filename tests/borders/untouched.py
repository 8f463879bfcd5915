"""Whether a call left the user's network, batches and random numbers as they were, bit for bit."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.borders.case import is_lazy, tensors
from tests.borders.known import KNOWN_CHANGES

__all__ = ["state", "untouched", "values"]


@contextmanager
def untouched(model: nn.Module, *examples: Any, writes: tuple[str, ...] = ()) -> Iterator[None]:
    """Raise AssertionError if the block changes the network, the examples or the process.

    `writes` names attributes that the network's own forward pass writes.
    """
    before = state(model, examples, writes)
    yield
    after = state(model, examples, writes)
    changed = [
        key
        for key in {**before, **after}
        if before.get(key) != after.get(key) and key not in KNOWN_CHANGES
    ]
    assert not changed, f"changed: {', '.join(changed[:6])}"


def state(
    model: nn.Module, examples: tuple[Any, ...] = (), writes: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return all of it as values that can be compared."""
    found: dict[str, Any] = {
        "random numbers of PyTorch": torch.get_rng_state().numpy().tobytes(),
        "random numbers of NumPy": np.random.get_state()[1].tobytes(),  # type: ignore[index]
        "random numbers of Python": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "default type": torch.get_default_dtype(),
        "fused attention": torch.backends.mha.get_fastpath_enabled(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "global hooks": [
            len(hooks)
            for name, hooks in sorted(vars(nn.modules.module).items())
            if name.startswith("_global") and isinstance(hooks, dict)
        ],
    }
    for at, tensor in enumerate(tensors(examples)):
        found[f"input {at}"] = (_bits(tensor), tensor.requires_grad)
    for name, module in model.named_modules(remove_duplicate=False):
        found[f"{name} (module)"] = (id(module), type(module))
        found[f"{name}.training"] = module.training
        for key, value in vars(module).items():
            if key not in ("training", *writes):
                found[f"{name}.{key}"] = _plain(value)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name.rpartition(".")[2] in writes:
            continue
        found[name] = (id(tensor), _bits(tensor), tensor.requires_grad)
        found[f"{name}.grad"] = None if tensor.grad is None else _bits(tensor.grad)
    return found


def values(model: nn.Module, writes: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what `undo_` brings back: modes, values, gradients' flags, hooks, attributes.

    Objects may be new.
    """
    found: dict[str, Any] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        found[f"{name} (module)"] = (type(module), module.training)
        for key, value in vars(module).items():
            if key in writes:
                continue
            if "hooks" in key and isinstance(value, dict):
                found[f"{name}.{key}"] = [id(hook) for hook in value.values()]
            elif isinstance(value, (bool, int, float, str, Tensor)):
                found[f"{name}.{key}"] = _plain(value)
    for name, tensor in (
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ):
        found[name] = (type(tensor), _bits(tensor), tensor.requires_grad)
    shared: dict[int, list[str]] = {}
    for name, tensor in model.named_parameters(remove_duplicate=False):
        shared.setdefault(id(tensor), []).append(name)
    found["shared parameters"] = sorted(names for names in shared.values() if len(names) > 1)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return (id(value), _bits(value))
    if isinstance(value, dict):
        return [(str(key), id(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (bool, int, float, str, bytes, type(None))):
        return value
    return id(value)


def _bits(tensor: Tensor) -> Any:
    if is_lazy(tensor) or tensor.is_meta:
        return (type(tensor), str(tensor.dtype))
    held = tensor.detach()
    if held.is_sparse or held.is_quantized:
        held = held.to_dense() if held.is_sparse else held.int_repr()
    held = held.cpu().contiguous()
    raw = held.view(torch.uint8).numpy().tobytes() if held.dim() else str(held.item())
    return (str(tensor.dtype), tuple(tensor.shape), str(tensor.device), raw)
