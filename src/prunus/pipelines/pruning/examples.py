"""The first batch: the example that a network is traced with, and which of its outputs is meant."""

from __future__ import annotations

import torch
from torch import nn

from prunus.batches import Batch, Inputs, flatten_tensors, primary
from prunus.core import keeping_random_state
from prunus.modules import evaluating
from prunus.runs import Watch

__all__ = ["one_example", "say_output"]


def one_example(model: nn.Module, inputs: Inputs) -> Inputs:
    """Return one example to trace `model` with; two where it drops axes of size 1.

    A network that ends in `.squeeze()` has one axis less for a batch of one.
    """
    one, two = inputs.first(1), inputs.first(2)
    try:
        with torch.no_grad(), keeping_random_state(), evaluating(model):
            ranks = [[t.dim() for t in flatten_tensors(i.like(model)(model))] for i in (one, two)]
    except Exception:  # the trace says what fails
        return one
    return one if ranks[0] == ranks[1] else two


def say_output(model: nn.Module, batch: Batch, watch: Watch) -> None:
    """Say which of several outputs is taken for the class scores.

    Raises:
        DataError: that is not known (`primary`).
    """
    try:
        with torch.no_grad(), keeping_random_state(), evaluating(model):
            made = batch.inputs.first(2)(model)
    except Exception:  # the trace says what fails
        return
    tensors, main = flatten_tensors(made), primary(made)
    if len(tensors) > 1:
        shapes = ", ".join(str(tuple(t.shape[1:])) for t in tensors)
        watch.say(
            f"the network returns {len(tensors)} tensors (of shapes {shapes} per example); the one "
            f"of shape {tuple(main.shape[1:])} is taken for the class scores: output= chooses"
        )
