"""`scores.json` → plotly figures: the gain from layer to layer, the sorted costs of a group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from prunus.core import Row
from prunus.reports.canvas import (
    GHOST,
    INK,
    KEPT,
    MUTED,
    REMOVED,
    empty_figure,
    short_name,
    size_axis,
)
from prunus.reports.numbers import grouped
from prunus.reports.score.tables import could_go, interval

__all__ = ["gain_figure", "unit_figure"]

#: Up to this number of units each has its own whisker; more share a band.
WHISKERS = 32
#: Number of decades below the largest cost that a logarithmic axis shows.
DECADES = 5


def gain_figure(layers: Sequence[Row]) -> go.Figure:
    """Return one bar per layer in execution order: its gain over the layer before it."""
    gains = [100 * layer["gain"] for layer in layers]
    figure = empty_figure(height=64 + 25 * len(layers))
    figure.add_bar(
        x=gains,
        y=list(range(len(layers))),
        orientation="h",
        marker={"color": [KEPT if gain >= 0 else REMOVED for gain in gains]},
        text=[f"{'−' if gain < 0 else '+'}{abs(gain):.1f}" for gain in gains],
        textposition="outside",
        textfont={"color": INK},
        cliponaxis=False,
        hoverinfo="skip",
    )
    low, high = min(0.0, *gains), max(0.0, *gains)
    room = 0.18 * max(high - low, 1e-9)
    figure.update_layout(bargap=0.3)
    figure.update_xaxes(
        title_text="gain, percentage points",
        range=[low - (room if low < 0 else 0), high + room],
        zeroline=True,
        zerolinecolor=MUTED,
        zerolinewidth=1,
    )
    figure.update_yaxes(
        tickvals=list(range(len(layers))),
        ticktext=[short_name(layer["module"]) for layer in layers],
        range=[len(layers) - 0.4, -0.6],
        showgrid=False,
    )
    return figure


def unit_figure(group: Row) -> go.Figure:
    """Return the cost of each unit along the removal order, with its interval.

    Orange diamonds are units whose interval includes 0. The axis is logarithmic if the costs
    differ by more than a factor of 10; smaller values are drawn at its end.
    """
    order = [unit for unit in group["order"] if group["costs"][unit] is not None]
    costs, low, high = ([group[key][unit] for unit in order] for key in ("costs", "low", "high"))
    sure = all(bound is not None for bound in (*low, *high))
    free = could_go(group) or [False] * group["units"]
    axis, floor = _cost_axis([*costs, *high] if sure else costs)
    places = list(range(1, len(order) + 1))
    drawn = [max(cost, floor) for cost in costs]
    figure = empty_figure(height=230)
    if sure and any(a < b for a, b in zip(low, high, strict=True)):
        ends = ([max(end, floor) for end in side] for side in (low, high))
        _add_interval(figure, places, drawn, *ends)
    for flag, colour, symbol in ((False, KEPT, "circle"), (True, REMOVED, "diamond")):
        at = [index for index, unit in enumerate(order) if free[unit] is flag]
        figure.add_scatter(
            x=[places[index] for index in at],
            y=[drawn[index] for index in at],
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 7 if len(order) <= 100 else 4},
            text=[
                f"<b>unit {order[index]}</b><br>{interval(group, order[index])}"
                f"<br>{grouped(places[index])} of {grouped(len(order))} to be removed"
                for index in at
            ],
            hoverinfo="text",
        )
    pad = max(0.6, 0.02 * len(order))
    ticks = {"dtick": 1} if len(order) <= 8 else {"nticks": 7}
    figure.update_xaxes(range=[1 - pad, len(order) + pad], showgrid=False, **ticks)
    figure.update_xaxes(title_text="place in the removal order")
    figure.update_yaxes(**axis)
    figure.update_layout(margin={"l": 4, "r": 8, "t": 8, "b": 4}, font={"size": 11})
    return figure


def _add_interval(
    figure: go.Figure,
    places: Sequence[int],
    costs: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
) -> None:
    """Add whiskers for few units, a band for many."""
    if len(places) > WHISKERS:
        figure.add_scatter(
            x=[*places, *reversed(places)],
            y=[*high, *reversed(low)],
            mode="lines",
            line={"width": 0},
            fill="toself",
            fillcolor=GHOST,
            hoverinfo="skip",
        )
        return
    figure.add_scatter(
        x=places,
        y=costs,
        mode="markers",
        marker={"color": INK, "size": 1},
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [b - cost for b, cost in zip(high, costs, strict=True)],
            "arrayminus": [cost - a for a, cost in zip(low, costs, strict=True)],
            "color": MUTED,
            "thickness": 1.2,
            "width": 3,
        },
        hoverinfo="skip",
    )


def _cost_axis(values: Sequence[float]) -> tuple[dict[str, Any], float]:
    """Return the axis for `values`, and the smallest value on it."""
    positive = [value for value in values if value > 0]
    if not positive:
        return {"rangemode": "tozero", "nticks": 4}, 0.0
    floor = max(min(positive) / 2, max(positive) / 10**DECADES)
    axis = size_axis([max(value, floor) for value in values])
    return (axis, floor) if axis.get("type") == "log" else ({**axis, "tickformat": "~g"}, 0.0)
