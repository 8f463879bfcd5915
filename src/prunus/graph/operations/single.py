"""A single channel: the label that no array can hold.

An array of size 1 along an axis means that labels do not vary there, so a tensor of one channel has
no array for it: that channel cannot be removed while its layer must keep one. If whole branches may
be removed, it can. Then such a tensor carries the label in addition to its arrays, from the
convolution that makes it through norms, activations and pooling to the concatenation or convolution
that reads it; any other operation that reads it fixes it.
"""

from __future__ import annotations

import torch

from prunus.graph.labels import Track
from prunus.graph.operations.call import RULES, Call
from prunus.graph.operations.elementwise import elementwise, same
from prunus.graph.operations.reduction import over_positions

__all__ = ["follow_single"]

#: Rules of operations on one tensor that pass each channel on independently.
BY_CHANNEL = (elementwise, same, over_positions)


def follow_single(call: Call, made: list[Track]) -> None:
    """Pass the label of a single channel on to the results `made`, or fix it."""
    if not call.tracks:
        return
    labels, x = call.labels, call.tracks[0]
    given = [track.single for track in call.tracks if track.single is not None]
    if "conv" in call.name:
        read, out = call.site.filters
        if x.single is not None and read is not None and len(read) == 1:
            labels.join(read, x.single)
            given = []
        if out is not None and len(out) == 1 == made[0].shape[1]:
            made[0].single = out
    elif "batch_norm" in call.name and x.single is not None:
        own = call.site.own("out", 1)
        if own is not None:
            labels.join(own, x.single)
            made[0].single = x.single
            return
    elif call.name in ("cat", "concat") and call.argument(1, "dim", 0) % len(call.shape) == 1:
        if call.shape[1] == 1:
            made[0].single = next(iter(given), None)
        return
    elif len(call.tracks) == 1 and _is_by_channel(call):
        for track in made:
            if len(track.shape) == len(x.shape) and track.shape[1] == 1:
                track.single = x.single
        return
    for label in given:
        labels.fix(label, f"{call.name!r} reads it by itself")


def _is_by_channel(call: Call) -> bool:
    rule = RULES.get(call.name)
    return rule in BY_CHANNEL or (rule is None and torch.Tag.pointwise in call.func.tags)
