"""What each ATen operation does to labels: `follow`."""

from __future__ import annotations

import torch

from prunus.graph.labels import Track
from prunus.graph.operations import contraction, reduction, shape
from prunus.graph.operations.call import (
    RULES,
    Call,
    CallSite,
    Reshape,
    Split,
    TraceState,
    opaque,
)
from prunus.graph.operations.elementwise import FRESH, elementwise
from prunus.graph.operations.single import follow_single

__all__ = [
    "FRESH",
    "RULES",
    "Call",
    "CallSite",
    "Reshape",
    "Split",
    "TraceState",
    "Track",
    "contraction",
    "elementwise",
    "follow",
    "follow_single",
    "opaque",
    "reduction",
    "shape",
]


def follow(call: Call) -> list[Track]:
    """Return the tracks of an operation's results."""
    rule = RULES.get(call.name)
    if rule is None and torch.Tag.pointwise in call.func.tags:
        return elementwise(call)
    return opaque(call) if rule is None else rule(call)
