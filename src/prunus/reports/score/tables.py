"""`scores.json` → tables of formatted strings: layers by class information, units by cost."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from prunus.core import Row
from prunus.reports.numbers import NBSP, counted, grouped, measure, percent, points
from prunus.reports.run import explained, gain

__all__ = [
    "GroupSummary",
    "LayerRank",
    "UnitRow",
    "could_go",
    "group_summary",
    "has_width",
    "interval",
    "layer_ranks",
    "ranked",
    "score_title",
    "unit_row",
    "verdict",
]


@dataclass(frozen=True, kw_only=True)
class LayerRank:
    """One layer: its position in execution order, what its input explains, its gain."""

    module: str
    place: int
    features: int
    share: float
    step: float
    explained: str
    gain: str


@dataclass(frozen=True, kw_only=True)
class UnitRow:
    """One unit: its place in the removal order and its cost; `free` if that may be zero."""

    unit: int
    place: int
    cost: str
    free: bool


@dataclass(frozen=True, kw_only=True)
class GroupSummary:
    """One group in a line: its size, median cost, and the units that may cost nothing."""

    name: str
    size: str
    median: str
    free: str
    free_units: str
    consumers: str


def ranked(content: Row) -> list[Row]:
    """Return the layers by the share they explain, largest first."""
    return sorted(content["layers"], key=lambda layer: -float(layer["share"]))


def layer_ranks(content: Row) -> list[LayerRank]:
    """Return the ranking of layers as text."""
    places = {layer["module"]: at for at, layer in enumerate(content["layers"], 1)}
    return [
        LayerRank(
            module=layer["module"],
            place=places[layer["module"]],
            features=layer["features"],
            share=layer["share"],
            step=layer["gain"],
            explained=explained(layer),
            gain=gain(layer),
        )
        for layer in ranked(content)
    ]


def could_go(group: Row) -> list[bool] | None:
    """Return for each unit whether its interval includes 0; None if there are no intervals."""
    if all(low is None for low in group["low"]):
        return None
    return [low is not None and low <= 0 for low in group["low"]]


def has_width(content: Row) -> bool:
    """Return whether any unit's interval has a nonzero width."""
    return any(
        low is not None and high is not None and low < high
        for group in content["groups"]
        for low, high in zip(group["low"], group["high"], strict=True)
    )


def group_summary(group: Row) -> GroupSummary:
    """Return the summary of a group."""
    costs = [cost for cost in group["costs"] if cost is not None]
    free = could_go(group)
    return GroupSummary(
        name=group["name"],
        size=counted(group["units"], group["kind"].removesuffix("s")),
        median=measure(statistics.median(costs)) if costs else "–",
        free=_share(free),
        free_units="" if free is None else grouped(sum(free)),
        consumers=", ".join(group["consumers"]),
    )


def unit_row(group: Row, place: int) -> UnitRow:
    """Return the unit that is the `place`-th (from 1) to be removed."""
    unit = group["order"][place - 1]
    free = could_go(group)
    return UnitRow(
        unit=unit, place=place, cost=interval(group, unit), free=bool(free and free[unit])
    )


def interval(group: Row, unit: int) -> str:
    """Return a unit's cost as `0.0123 (0.0101–0.0145)` or `1.3 (1.1–1.5) × 10⁻⁷`.

    The interval is omitted if it is unknown or has no width.
    """
    cost, low, high = (group[key][unit] for key in ("costs", "low", "high"))
    if cost is None:
        return "–"
    if low is None or high is None or low == high:
        return measure(cost)
    text = measure(cost)
    mantissa, times, power = text.partition(f"{NBSP}×")
    if not times:
        return f"{text} ({measure(low)}–{measure(high)})"
    unit = cost / float(mantissa)
    ends = "–".join(_digits(end / unit) for end in (low, high))
    return f"{mantissa} ({ends}){times}{power}"


def score_title(content: Row) -> str:
    """Return what was scored: `resnet20 on digits`, marked as pruned for a run's network."""
    return f"{content['model']}{', pruned,' if content['run'] else ''} on {content['data']}"


def verdict(content: Row) -> str:
    """Return the most informative layer, the largest gain, and the units that may cost nothing."""
    layers, groups = content["layers"], content["groups"]
    text = ""
    if layers:
        most = ranked(content)[0]
        share = percent(most["share"], 1)
        text = f"The input of {most['module']} explains the class labels best, {share}."
    if len(layers) > 1:
        step = max(layers[1:], key=lambda layer: float(layer["gain"]))
        text += f" The largest gain is at {step['module']}: {points(0.0, step['gain'])}."
    flags = [free for group in groups for free in could_go(group) or ()]
    if flags:
        text += f" {grouped(sum(flags))} of {counted(len(flags), 'unit')} may cost nothing."
    return text.strip()


def _share(flags: Iterable[bool] | None) -> str:
    if flags is None:
        return "–"
    found = list(flags)
    return f"{grouped(sum(found))} ({percent(sum(found) / max(1, len(found)), 0)})"


def _digits(number: float) -> str:
    return "0" if number == 0 else grouped(number, 1 if abs(number) < 9.95 else 0)
