"""The output tensors of a network: all of them, the main one, and the auxiliary ones."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from prunus.core import DataError

__all__ = [
    "Heads",
    "OutputChoice",
    "auxiliary",
    "choose_output",
    "flatten_tensors",
    "name_tensors",
    "primary",
]

#: Which output is the task's: its name or index, or a function from all that the network returns.
OutputChoice = str | int | Callable[[Any], Tensor]

#: Names under which libraries return the scores of a task, in the order in which they are tried.
MAIN = ("logits", "out", "output", "scores", "pred", "prediction", "predictions")

#: The choices of the contexts that are open, the innermost last.
_CHOICES: list[OutputChoice | None] = []
_LOCK = threading.Lock()


class Heads(tuple[Tensor, ...]):
    """Outputs of one task by a network that says so: the main one first, auxiliary ones after it.

    A network returns it in training, so that the auxiliary outputs are trained as well.

    Example:
        >>> import torch
        >>> outputs = Heads((torch.zeros(2, 10), torch.ones(2, 10)))
        >>> primary(outputs).sum(), len(auxiliary(outputs))
        (tensor(0.), 1)
    """

    __slots__ = ()


def flatten_tensors(value: Any) -> list[Tensor]:
    """Return the tensors inside nested tuples, lists and mappings, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in flatten_tensors(item)]
    if hasattr(value, "__dict__") and not isinstance(value, type):
        return flatten_tensors(vars(value))
    return []


def name_tensors(value: Any) -> list[tuple[str, Tensor]]:
    """Return the tensors inside an output in the order of `flatten_tensors`, each with a name.

    Parts of a mapping or a named tuple have its names, those of a plain tuple `output_0`, ….
    """
    named = _fields(value)
    if not named:
        parts = value if isinstance(value, (tuple, list)) else [value]
        named = {f"output_{i}": part for i, part in enumerate(parts)}
    found = []
    for name, part in named.items():
        inside = flatten_tensors(part)
        if isinstance(part, Tensor):
            found.append((name, part))
        else:
            found += [(f"{name}_{i}", tensor) for i, tensor in enumerate(inside)]
    return found


@contextmanager
def choose_output(choice: OutputChoice | None) -> Iterator[None]:
    """Within the context, `choice` is the main output of every network; None leaves it open.

    A name is a key or an attribute of what the network returns, an index its place among all
    tensors, in order.

    Example:
        >>> import torch
        >>> both = {"features": torch.zeros(2, 64), "classes": torch.ones(2, 10)}
        >>> with choose_output("classes"):
        ...     primary(both).shape
        torch.Size([2, 10])
    """
    with _LOCK:
        _CHOICES.append(choice)
    try:
        yield
    finally:
        with _LOCK:
            _CHOICES.pop()


def primary(output: Any) -> Tensor:
    """Return a network's main output.

    That is what `choose_output` names; else the output itself, the first of a tuple, or of a
    mapping or a named tuple the only tensor or the one under a usual name (`logits`, `out`, …).

    Raises:
        DataError: there is no tensor, or it is not known which of several is the main one.
    """
    choice = next((c for c in reversed(_CHOICES) if c is not None), None)
    if choice is not None and not isinstance(output, Tensor):
        return _chosen(output, choice)
    if callable(choice):
        return _chosen(output, choice)
    found = flatten_tensors(output)
    if not found:
        raise DataError(
            f"the network returns a {type(output).__name__} without a tensor: pass output=, a "
            "function from what it returns to the tensor of class scores"
        )
    if isinstance(output, Tensor) or len(found) == 1:
        return found[0]
    named = _fields(output)
    for name in MAIN:
        if isinstance(main := named.get(name), Tensor):
            return main
    if named:
        raise DataError(
            f"the network returns {_listed(output)}: pass output=, the name of the tensor that "
            "its task is about"
        )
    return found[0]


def auxiliary(output: Any) -> list[Tensor]:
    """Return the outputs that the network itself says are auxiliary heads of the same task.

    Those after the first of `Heads`, and the fields of a mapping or a named tuple whose name
    begins with `aux`. Everything else that a network returns (features, a transform, a cache) is
    no output of the task.
    """
    if isinstance(output, Heads):
        return [head for head in output[1:] if head is not None]
    return [
        value
        for name, value in _fields(output).items()
        if name.startswith("aux") and isinstance(value, Tensor)
    ]


def _chosen(output: Any, choice: OutputChoice) -> Tensor:
    """Return the output that the user asked for."""
    found: Any = None
    if callable(choice):
        found = choice(output)
    elif isinstance(choice, str):
        found = _fields(output).get(choice)
    else:
        tensors = flatten_tensors(output)
        found = tensors[choice] if -len(tensors) <= choice < len(tensors) else None
    if isinstance(found, Tensor):
        return found
    raise DataError(
        f"output={choice!r} is no tensor among what the network returns: {_listed(output)}"
    )


def _fields(output: Any) -> dict[str, Any]:
    """Return the named parts of an output; empty for a plain tuple or list."""
    if isinstance(output, Mapping):
        return {str(key): value for key, value in output.items()}
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return dict(zip(output._fields, output, strict=True))
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return {f.name: getattr(output, f.name) for f in dataclasses.fields(output)}
    if isinstance(output, (Tensor, Sequence)):
        return {}
    return dict(vars(output)) if hasattr(output, "__dict__") else {}


def _listed(output: Any) -> str:
    """Return what a network returns, in words: names or indices with shapes."""
    named = _fields(output)
    parts: list[tuple[Any, Any]] = (
        list(named.items()) if named else list(enumerate(flatten_tensors(output)))
    )
    shown = [
        f"{key} {tuple(value.shape)}" if isinstance(value, Tensor) else f"{key}"
        for key, value in parts
    ]
    return ", ".join(shown) or type(output).__name__
