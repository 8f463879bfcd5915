"""What a loader gives and a network returns: inputs, labels, outputs."""

from prunus.batches.inputs import Example, Inputs
from prunus.batches.labels import (
    IGNORED,
    Matched,
    are_shares,
    check_range,
    class_axis,
    class_labels,
    finest,
    match,
)
from prunus.batches.outputs import (
    Heads,
    OutputChoice,
    auxiliary,
    choose_output,
    flatten_tensors,
    name_tensors,
    primary,
)
from prunus.batches.reading import (
    Batch,
    Batches,
    Loader,
    count_batches,
    length,
    parse,
    read,
    rereadable,
)

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
    "check_range",
    "choose_output",
    "class_axis",
    "class_labels",
    "count_batches",
    "finest",
    "flatten_tensors",
    "length",
    "match",
    "name_tensors",
    "parse",
    "primary",
    "read",
    "rereadable",
]
