"""The output tensors of a network: all of them, and the main one."""

from __future__ import annotations

from typing import Any

from torch import Tensor

__all__ = ["flatten_tensors", "primary"]


def flatten_tensors(value: Any) -> list[Tensor]:
    """Return the tensors inside nested tuples, lists and dicts, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in flatten_tensors(item)]
    if hasattr(value, "__dict__"):
        return flatten_tensors(vars(value))
    return []


def primary(output: Any) -> Tensor:
    """Return a network's main output: itself, or the first of several (auxiliary heads follow)."""
    return flatten_tensors(output)[0]
