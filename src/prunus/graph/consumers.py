"""Which features statistics are kept for: one consumer per mixing module that runs."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from torch import nn

from prunus.graph.groups import Consumer, Group, Index
from prunus.graph.probe import Probe
from prunus.modules import SelectLinear, channel_count, module_at

__all__ = ["find_consumers"]


def find_consumers(
    model: nn.Module,
    wide: nn.Module,
    mixing: list[str],
    seen: Probe,
    groups: list[Group],
    feature_limit: int,
) -> dict[str, Consumer]:
    """Return a consumer for every mixing module that runs.

    A flattened input wider than `feature_limit` is folded to one feature per channel; what cannot
    be folded is `wide`.
    """
    flattened: dict[str, list[Index]] = defaultdict(list)
    for group in groups:
        for member in group.consumers:
            if (positions := group.positions(member)) > 1:
                flattened[member.module].append(member.index.reshape(-1, positions))
    consumers = {}
    for name in mixing:
        module = module_at(model, name)
        if name not in seen.positions:
            continue
        incoming = channel_count(module_at(wide, name), "in")
        read = np.arange(incoming)[:, None]
        if isinstance(module, SelectLinear):
            read = np.sort(module.index.cpu().numpy().astype(np.int64))[:, None]
        wide_input = len(read) > feature_limit
        if wide_input and (folded := _fold(flattened[name], incoming)) is not None:
            read, wide_input = folded, False
        consumers[name] = Consumer(name, incoming, read, wide_input)
    return consumers


def _fold(flattened: list[Index], incoming: int) -> Index | None:
    """Return the positions of each channel of a flattened map; None where not all have as many."""
    if len({index.shape[1] for index in flattened}) != 1:
        return None
    read: Index = np.concatenate(flattened)
    return read if read.size == incoming else None
