"""What a loader gives and a network returns: inputs, labels, outputs."""

from prunus.batches.inputs import Example, Inputs
from prunus.batches.outputs import (
    Heads,
    OutputChoice,
    auxiliary,
    choose_output,
    flatten_tensors,
    primary,
)

__all__ = [
    "Example",
    "Heads",
    "Inputs",
    "OutputChoice",
    "auxiliary",
    "choose_output",
    "flatten_tensors",
    "primary",
]
