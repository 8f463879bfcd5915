"""A network as exporters take it: tensors in, all output tensors out, each with a name."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from prunus.batches import Inputs, flatten_tensors, name_tensors
from prunus.modules import private_copy, unwrapped

__all__ = ["INPUT", "OUTPUT", "Exportable"]

#: Names of the input and the output of a network that has one of each.
INPUT, OUTPUT = "images", "logits"


class Exportable(nn.Module):
    """A private float32 copy of a network, on the CPU in eval mode.

    Attributes:
        inputs: the names of its input tensors: those of the forward pass, `images` for one alone.
        outputs: the names of its output tensors, in order: those that the network gives them (the
            keys of a mapping, the fields of a named tuple), `logits` for one alone.
        batched: for each input whether its first axis is that of the batch.
    """

    def __init__(self, model: nn.Module, example: Inputs) -> None:
        """Copy `model`, and run it once on `example` for the names of its outputs."""
        super().__init__()
        model = unwrapped(model)
        self.model = private_copy(model).cpu().float().eval()
        self.given = example.to("meta")  # the places of the tensors, without their values
        given = example.to("cpu", torch.float32)
        size = given.size
        self.batched = tuple(bool(t.dim()) and len(t) == size for t in given.tensors)
        with torch.no_grad():
            found = name_tensors(given(self.model))
        self.inputs = _input_names(model, example)
        self.outputs = tuple(name for name, _ in found) if len(found) > 1 else (OUTPUT,)

    def forward(self, *tensors: Tensor) -> Any:
        """Return the only output, or all of them in order."""
        remaining = iter(tensors)
        found = flatten_tensors(self.given.map(lambda _: next(remaining))(self.model))
        return found[0] if len(found) == 1 else tuple(found)


def _input_names(model: nn.Module, example: Inputs) -> tuple[str, ...]:
    """Return a name for each input tensor."""
    if len(example.args) == 1 and not example.kwargs and isinstance(example.args[0], Tensor):
        return (INPUT,)
    names = list(inspect.signature(model.forward).parameters)
    names += [f"input_{i}" for i in range(len(names), len(example.args))]
    given = dict(zip(names, example.args, strict=False)) | example.kwargs
    return tuple(name for name, _ in name_tensors(given))
