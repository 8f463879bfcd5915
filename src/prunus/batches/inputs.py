"""What a network is called with: one tensor, several, or named ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from prunus.core import DataError, PrunusError

__all__ = ["Example", "Inputs"]

#: What may be given as an example: a tensor, the positional arguments, the named ones, or both.
Example = Any


@dataclass(frozen=True, eq=False)
class Inputs:
    """The arguments of one forward pass.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> inputs = Inputs.of((torch.zeros(3, 4), torch.ones(3, 4)))
        >>> inputs.size, inputs.first(1)(nn.CosineSimilarity()).shape
        (3, torch.Size([1]))
    """

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, example: Example) -> Inputs:
        """Return the arguments that an example stands for.

        A tuple holds the positional arguments, a mapping with words as keys the named ones
        (`BatchEncoding` too); anything else is the only argument.
        """
        if isinstance(example, Inputs):
            return example
        if isinstance(example, Mapping) and all(isinstance(key, str) for key in example):
            return cls(kwargs=dict(example))
        if isinstance(example, tuple):
            return cls(args=tuple(example))
        return cls(args=(example,))

    def __call__(self, model: Callable[..., Any]) -> Any:
        """Run `model` on these arguments."""
        return model(*self.args, **self.kwargs)

    def run(self, model: nn.Module) -> Any:
        """Run `model` on a batch of the user's data.

        Raises:
            DataError: the network fails on it; gives the shapes and the error.
        """
        try:
            return self(model)
        except (PrunusError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # networks' code can raise anything
            text = " ".join(str(error).split())[:300]
            inner = getattr(model, "module", None)  # of a wrapper of training
            kind = type(inner if isinstance(inner, nn.Module) else model).__name__
            raise DataError(
                f"{kind} fails on a batch of shape {self.shapes()} "
                f"({', '.join(sorted({str(t.dtype) for t in self.tensors}))}): "
                f"{type(error).__name__}: {text}"
            ) from error

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor among the arguments, in order."""
        found: list[Tensor] = []

        def note(tensor: Tensor) -> Tensor:
            found.append(tensor)
            return tensor

        self.map(note)
        return found

    @property
    def size(self) -> int:
        """The number of examples: the length of the first tensor that has a first axis.

        Raises:
            DataError: there is no such tensor.
        """
        for tensor in self.tensors:
            if tensor.dim():
                return len(tensor)
        raise DataError(
            "the network's arguments hold no tensor with a batch axis: give a batch of examples"
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        """Return the arguments with `change` applied to every tensor."""
        return Inputs(
            tuple(_mapped(a, change) for a in self.args),
            {key: _mapped(a, change) for key, a in self.kwargs.items()},
        )

    def first(self, count: int) -> Inputs:
        """Return the first `count` examples."""
        return self.rows(lambda t: t[:count])

    def repeated(self, count: int) -> Inputs:
        """Return a batch of `count` copies of the first example."""
        return self.rows(lambda t: t[:1].expand(count, *t.shape[1:]).contiguous())

    def rows(self, chosen: Callable[[Tensor], Tensor]) -> Inputs:
        """Return other examples, `chosen` from each tensor; those without a batch axis stay."""
        size = self.size
        return self.map(lambda t: chosen(t) if t.dim() and len(t) == size else t)

    @staticmethod
    def joined(parts: Sequence[Inputs]) -> Inputs:
        """Return the examples of all parts as one batch.

        What has no batch axis is taken from the first part.

        Raises:
            DataError: examples of different sizes cannot be joined.
        """
        first = parts[0]
        whole = [iter(part.tensors) for part in parts]
        sizes = [part.size for part in parts]

        def join(tensor: Tensor) -> Tensor:
            own = [next(tensors) for tensors in whole]
            if any(t.dim() == 0 or len(t) != n for t, n in zip(own, sizes, strict=True)):
                return tensor
            if len({t.shape[1:] for t in own}) > 1:
                shapes = ", ".join(sorted({str(tuple(t.shape[1:])) for t in own}))
                raise DataError(
                    f"the loader gives examples of several sizes ({shapes}), and here they must "
                    "be in one batch: give examples of one size for this step"
                )
            return torch.cat(own)

        return first.map(join)

    def to(self, device: torch.device | str | None, dtype: torch.dtype | None = None) -> Inputs:
        """Return the arguments on a device; floating-point tensors in `dtype`, if one is given."""
        return self.map(
            lambda t: t.to(device=device, dtype=dtype if t.is_floating_point() else None)
        )

    def like(self, model: nn.Module) -> Inputs:
        """Return the arguments on the device of a network and in its floating-point type."""
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                return self.to(tensor.device, tensor.dtype)
        return self

    def detached(self, *, gradient: bool = False) -> Inputs:
        """Return copies that share no graph; floating-point ones need a gradient if asked for."""
        return self.map(
            lambda t: t.detach().clone().requires_grad_(gradient and t.is_floating_point())
        )

    def shapes(self) -> str:
        """Return the shapes of all tensors, for messages."""
        return ", ".join(str(tuple(t.shape)) for t in self.tensors) or "no tensor"

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.tensors)


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a value with `change` applied to the tensors in tuples, lists and mappings."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(item, change) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(_mapped(item, change) for item in value)
    if isinstance(value, dict):
        return {key: _mapped(item, change) for key, item in value.items()}
    return value
