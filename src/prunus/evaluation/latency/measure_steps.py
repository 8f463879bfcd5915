"""Time the costliest layers at consecutive widths: `measure_steps`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

from prunus.evaluation.latency.alone import TimedCall, layer_at
from prunus.evaluation.latency.compare import compare_latency
from prunus.evaluation.latency.steps import STRETCH, WidthSteps
from prunus.evaluation.latency.table import Grid
from prunus.graph import Groups
from prunus.modules import channel_count, is_depthwise

__all__ = ["measure_steps"]

#: Layers to time at 17 widths each, and how often each width is timed.
LAYERS, ROUNDS = 6, 20
#: Narrower axes keep their width: below it, a budget would not choose multiples of 16.
LEAST_WIDTH = 3 * STRETCH
#: Share of a width around which it is timed: what remains after halving the MACs.
KEPT = 0.7


def measure_steps(
    calls: Mapping[str, Sequence[TimedCall]], grids: Mapping[str, Grid], groups: Groups
) -> tuple[WidthSteps, ...]:
    """Time the `LAYERS` prunable layers that take most time, alternately at 17 widths.

    Args:
        calls: the calls of each module in one forward pass: key, module and input shape.
        grids: milliseconds by key, the last at full width.

    The 17 widths are near 70 % of the full width. Both widths of a layer vary together if both can
    be pruned and are at least 48; a layer with neither, and a grouped convolution, are skipped.

    Cost: at most 6 · 17 · 2 · 20 calls of a layer at that width.
    """
    prunable = {
        (member.module, member.axis) for group in groups.values() for member in group.members
    }
    often = Counter(key for each in calls.values() for key, _ in each)
    found: list[WidthSteps] = []
    for key in sorted(often, key=lambda key: -often[key] * grids[key].ms[-1][-1]):
        names = [name for name, each in calls.items() if key in dict(each)]
        module, shape = dict(calls[names[0]])[key]
        varied = {
            "out": any((name, "out") in prunable for name in names),
            "in": any((name, axis) in prunable for name in names for axis in ("in", "select")),
        }
        outs, ins = (_stretch(channel_count(module, axis), varied[axis]) for axis in ("out", "in"))
        if is_depthwise(module):
            ins = outs
        elif getattr(module, "groups", 1) > 1:
            continue
        if len({*outs}) == len({*ins}) == 1:
            continue
        turns = {}
        for out, in_ in zip(outs, ins, strict=True):
            layer, x = layer_at(module, shape, out, in_)
            turns[f"{out}×{in_}"] = partial(layer, x)
        timed = compare_latency(turns, rounds=ROUNDS, seconds=math.inf).seconds
        ms = tuple(tuple(round(1e3 * timed[at][r], 6) for at in turns) for r in range(ROUNDS))
        found.append(WidthSteps(key, often[key], outs, ins, ms))
        if len(found) == LAYERS:
            break
    return tuple(found)


def _stretch(width: int, varied: bool) -> tuple[int, ...]:
    """Return 17 consecutive widths that end at a multiple of 16, or one width 17 times."""
    if not varied or width < LEAST_WIDTH:
        return (width,) * (STRETCH + 1)
    top = STRETCH * max(2, round(KEPT * width / STRETCH))
    return tuple(range(top - STRETCH, top + 1))
