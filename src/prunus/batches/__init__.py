"""What a loader gives and a network returns: inputs, labels, outputs."""

from prunus.batches.inputs import Example, Inputs
from prunus.batches.labels import IGNORED, Matched, are_shares, class_axis, class_labels, match
from prunus.batches.outputs import (
    Heads,
    OutputChoice,
    auxiliary,
    choose_output,
    flatten_tensors,
    name_tensors,
    primary,
)
from prunus.batches.reading import Batch, Batches, Loader, length, parse, read, rereadable

__all__ = [
    "IGNORED",
    "Batch",
    "Batches",
    "Example",
    "Heads",
    "Inputs",
    "Loader",
    "Matched",
    "OutputChoice",
    "are_shares",
    "auxiliary",
    "choose_output",
    "class_axis",
    "class_labels",
    "flatten_tensors",
    "length",
    "match",
    "name_tensors",
    "parse",
    "primary",
    "read",
    "rereadable",
]
