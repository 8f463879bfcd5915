"""What each ATen operation does to labels: `follow`."""

from __future__ import annotations

import torch

from prunus.graph.labels import Track
from prunus.graph.operations import contraction, places, reduction, shape
from prunus.graph.operations.call import (
    RULES,
    Call,
    CallSite,
    Reshape,
    Split,
    TraceState,
    opaque,
)
from prunus.graph.operations.elementwise import LABELLING, elementwise
from prunus.graph.operations.single import follow_single

__all__ = [
    "LABELLING",
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
    "places",
    "reduction",
    "shape",
]


def follow(call: Call) -> list[Track]:
    """Return the tracks of an operation's results.

    An operation whose rule does not take these arguments is treated as one without a rule, so that
    one unusual call does not keep a whole network from being followed.
    """
    rule = RULES.get(call.name)
    if rule is None and torch.Tag.pointwise in call.func.tags:
        rule = elementwise
    try:
        return opaque(call) if rule is None else rule(call)
    except AssertionError:
        raise
    except Exception:  # a rule can fail in any way on arguments that it was not written for
        return opaque(call, " with these arguments")
