"""Why something cannot be pruned → what to change in the network, and whether it is a fault."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["OUTPUTS", "Advice", "advise"]

#: The reason that is not a problem: the task, not the network, determines the number of outputs.
OUTPUTS = "its outputs are the network's outputs"


@dataclass(frozen=True)
class Advice:
    """What to change. `fault`: pruning would work if the forward pass were written differently."""

    hint: str
    fault: bool


RESHAPE = "use x.shape or -1 in the reshape"
SIZES = "take sizes from x.shape wherever the forward pass reshapes, slices or counts channels"
NOTHING = "nothing: it needs all of its channels"

#: (pattern of the reason, what to change, whether the forward pass is at fault); first match wins.
_ADVICE: tuple[tuple[str, str, bool], ...] = (
    (r"ScriptModule", "prune first, apply torch.jit.script afterwards", False),
    (r"fails when it is cut.*(shape '|view size|reshape)", RESHAPE, True),
    (r"fails when it is cut", SIZES, True),
    (
        r"changes (the shape of the network's output|how many outputs)",
        f"{RESHAPE}, and x.shape[0] for the batch size",
        True,
    ),
    (r"cannot be masked", SIZES, True),
    (r"random in evaluation", "turn dropout and sampling off in evaluation", True),
    (r"mixes or counts its channels", SIZES, True),
    (r"not an operation that can be traced", "use other torch operations", True),
    (
        r"reads all of it in every head|on one axis with heads",
        "nothing while heads are removed; or give every head its own",
        False,
    ),
    (
        r"(places|positions) from it|at given places|by their positions|picks among its",
        NOTHING,
        False,
    ),
    (r"at fixed places", "compute that tensor from x, or make it a parameter", True),
    (r"slice by fixed numbers", "use chunk, or a separate layer for each part", True),
    (r"unequal parts of fixed sizes", "use equal parts, or a separate layer for each part", True),
    (r"an axis that stays whole", "make what it meets prunable", False),
    (r"tensor of fixed size \(the network's input\)", "nothing: it is as wide as the input", False),
    (
        r"tensor of fixed size",
        "compute that tensor from x, or with a layer; nothing if it is the input image",
        True,
    ),
    (r"convolution that belongs to no module", "use nn.Conv2d instead of F.conv2d", True),
    (
        r"as a layer's weight is",
        "use nn.Linear or nn.Conv2d; or multiply by the whole parameter once: x @ w, F.linear",
        True,
    ),
    (r"tokens of an embedding", "nothing: each of them is a token", False),
    (r"convolution in groups masks or shares", "use a convolution without groups there", False),
    (r"there is no rule for that", "move that parameter into a layer or norm", False),
    (r"\(shared\)", "use a separate layer for each call", False),
    (r"padded", "widen with a 1×1 convolution instead of padding or slicing", False),
    (r"several axes|more or other axes", "normalise over the channels only", False),
    (r"runs over its channels", NOTHING, False),
    (r"do not divide|spread evenly", "use the same number of groups everywhere", False),
    (r"several filters per channel", "use one filter per channel, then a 1×1 convolution", False),
    (r"grouped transposed", "use a transposed convolution without groups", False),
    (
        r"does not run in the forward pass",
        "call it as a module where its weight is used; otherwise nothing",
        False,
    ),
    (r"must be pruned together", "nothing; or check for a reshape to fixed sizes", False),
    (
        r"filters channels that stay|normalises stays|what it reads stays",
        "make its input prunable",
        False,
    ),
    (
        r"no prunable group includes them",
        "make the layers that use them prunable, or build it from other layers",
        False,
    ),
)


def advise(reason: str) -> Advice:
    """Return what to change where `reason` keeps something whole."""
    for pattern, hint, fault in _ADVICE:
        if re.search(pattern, reason):
            return Advice(hint, fault)
    return Advice("no known fix", False)
