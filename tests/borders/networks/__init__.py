"""The corpus, by kind: importing it fills the table."""

from tests.borders.networks import (
    attention,
    convolutional,
    gates,
    inputs_outputs,
    language,
    pyramids,
    recurrent,
    reparametrised,
    restoration,
    shared,
    wrapped,
    written,
)

__all__ = [
    "attention",
    "convolutional",
    "gates",
    "inputs_outputs",
    "language",
    "pyramids",
    "recurrent",
    "reparametrised",
    "restoration",
    "shared",
    "wrapped",
    "written",
]
