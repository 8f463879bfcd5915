"""Rows of a run's journal → plotly figures: accuracy, layers, knowledge, scores, training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import plotly.graph_objects as go

from prunus.core import Row, last, of_event, rejected, trajectory
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
from prunus.reports.numbers import grouped, percent, short

__all__ = [
    "accuracy_figure",
    "knowledge_figure",
    "layer_figure",
    "score_figures",
    "training_figure",
]

#: Curves over the epochs: key of the journal → name, colour, dash.
LINES = {
    "loss": {"loss": ("training loss", INK, "solid")},
    "accuracy": {
        "train_accuracy": ("training", MUTED, "dot"),
        "validation_accuracy": ("validation", KEPT, "solid"),
    },
    "push": {
        "push_loss": ("weighted sum", INK, "solid"),
        "push_lda": ("separation of the classes (LDA)", KEPT, "solid"),
        "push_cov": ("covariance", REMOVED, "solid"),
        "push_align": ("alignment", MUTED, "dot"),
    },
}
TITLES = {"loss": "training loss", "push": "push terms"}


def accuracy_figure(rows: Sequence[Row], cost: str, title: str) -> go.Figure:
    """Return validation accuracy in percent against `cost` (`params` or `macs`) by iteration."""
    steps, cuts = trajectory(rows, "iteration"), trajectory(rows, "prune")
    figure = empty_figure(height=330)
    won_x: list[float | None] = []
    won_y: list[float | None] = []
    for at, cut in cuts.items():
        if at in steps:
            won_x += [cut[cost], steps[at][cost], None]
            accuracies = cut["validation_cut"], steps[at]["validation_accuracy"]
            won_y += [100 * accuracies[0], 100 * accuracies[1], None]
    figure.add_scatter(
        x=won_x, y=won_y, mode="lines", line={"color": MUTED, "width": 1, "dash": "dot"}
    ).update_traces(hoverinfo="skip")
    figure.add_scatter(
        x=[cut[cost] for cut in cuts.values()],
        y=[100 * cut["validation_cut"] for cut in cuts.values()],
        mode="markers",
        marker={"color": REMOVED, "symbol": "diamond", "size": 8},
        text=[_hover(cut, "validation_cut", f"cut {at}") for at, cut in cuts.items()],
        hoverinfo="text",
    )
    names = {at: f"after iteration {at}" if at else "dense" for at in steps}
    figure.add_scatter(
        x=[step[cost] for step in steps.values()],
        y=[100 * step["validation_accuracy"] for step in steps.values()],
        mode="lines+markers",
        line={"color": KEPT, "width": 2},
        marker={"color": KEPT, "size": 8},
        text=[_hover(step, "validation_accuracy", names[at]) for at, step in steps.items()],
        hoverinfo="text",
    )
    back = rejected(rows)
    if back:
        figure.add_scatter(
            x=[step[cost] for step in back],
            y=[100 * step["validation_accuracy"] for step in back],
            mode="markers",
            marker={"color": MUTED, "symbol": "x-thin-open", "size": 8},
            text=[_hover(step, "validation_accuracy", "rejected") for step in back],
            hoverinfo="text",
        )
    result = last(rows, "result")
    if result is not None:
        pruned = result["pruned"]
        figure.add_scatter(
            x=[pruned[cost]],
            y=[100 * pruned["validation_accuracy"]],
            mode="markers",
            marker={"color": KEPT, "symbol": "circle-open", "size": 14, "line": {"width": 2}},
            text=[_hover(pruned, "validation_accuracy", "finished")],
            hoverinfo="text",
        )
    costs = [step[cost] for step in (*steps.values(), *cuts.values(), *back)]
    figure.update_xaxes(title_text=title, **size_axis(costs))
    figure.update_yaxes(title_text="validation accuracy, %")
    return figure


def layer_figure(layers: Sequence[Row], key: str, title: str) -> go.Figure:
    """Return one bar of `key` (`out`, `params`, `macs`) per layer: pruned over dense network."""
    before, after = ([layer[key][at] for layer in layers] for at in (0, 1))
    label = [
        short(b) if a == b else f"{short(a)} of {short(b)}"
        for b, a in zip(before, after, strict=True)
    ]
    figure = _layer_bars(layers, before, after, label)
    figure.update_xaxes(
        title_text=title,
        range=[0, 1.65 * max(1, *before)],
        tickformat="~s",
        nticks=5,
        zeroline=False,
    )
    return figure


def knowledge_figure(layers: Sequence[Row]) -> go.Figure:
    """Return one bar per layer: the explained share of the class labels (span) out of 100 %.

    Whiskers are the 95 % intervals, clipped to 0 to 100 %, if they were measured.
    """
    shares = [100 * layer["share"] for layer in layers]
    label = [percent(layer["share"], 1) for layer in layers]
    figure = _layer_bars(layers, [100.0] * len(layers), shares, label)
    ends = ("high", "low")
    sure = {
        at: [100 * abs(min(max(layer[end], 0.0), 1.0) - layer["share"]) for end in ends]
        for at, layer in enumerate(layers)
        if all(layer[end] is not None for end in ends)
    }
    whiskers = {"type": "data", "symmetric": False, "color": INK, "thickness": 1.2, "width": 3}
    whiskers |= {
        key: [reach[side] for reach in sure.values()]
        for side, key in enumerate(("array", "arrayminus"))
    }
    figure.add_scatter(
        x=[shares[at] for at in sure],
        y=list(sure),
        mode="markers",
        marker={"color": INK, "size": 1},
        error_x=whiskers,
        hoverinfo="skip",
    )
    figure.update_xaxes(title_text="explained, %", range=[0, 128], tickvals=[0, 25, 50, 75, 100])
    return figure


def score_figures(rows: Sequence[Row], iteration: int | None = None) -> dict[str, go.Figure]:
    """Return one small histogram per scored group: kept and removed units, at the latest cut."""
    cuts = trajectory(rows, "prune")
    if not cuts:
        return {}
    row = cuts[max(cuts) if iteration is None else iteration]
    return {
        group["name"]: _histogram(group["histogram"])
        for group in row["groups"]
        if "histogram" in group
    }


def training_figure(rows: Sequence[Row], quantity: str) -> go.Figure:
    """Return `loss`, `accuracy` or `push` over all epochs of the run, with separate phases.

    A value missing in an epoch is a gap in its line.
    """
    lines = LINES[quantity]
    fits = [row for row in of_event(rows, "fit") if row["epochs"]]
    scale = 100 if quantity == "accuracy" else 1
    figure = empty_figure(height=300)
    starts = [0]
    for row in fits:
        starts.append(starts[-1] + len(row["epochs"]))
    for key, (name, colour, dash) in lines.items():
        x: list[float | None] = []
        y: list[float | None] = []
        for row, start in zip(fits, starts, strict=False):
            x += [*range(start + 1, start + 1 + len(row["epochs"])), None]
            values = [epoch.get(key) for epoch in row["epochs"]]
            y += [*(None if value is None else scale * value for value in values), None]
        if all(value is None for value in y):
            continue
        lonely = any(len(row["epochs"]) == 1 for row in fits)
        figure.add_scatter(
            x=x,
            y=y,
            mode="lines+markers" if lonely else "lines",
            line={"color": colour, "width": 2, "dash": dash},
            marker={"color": colour, "size": 4},
            hovertemplate=f"epoch %{{x}}: {name} %{{y:.4~g}}<extra></extra>",
        )
    every = max(1, math.ceil(len(fits) / 12))
    line = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "layer": "below"}
    line |= {"line": {"color": GHOST, "width": 1}}
    note = {"yref": "paper", "y": 1, "showarrow": False, "xanchor": "left", "yanchor": "bottom"}
    note |= {"font": {"size": 11, "color": MUTED}}
    places = [start + 0.5 for start in starts[:-1]]
    names = [str(row["iteration"]) if row["phase"] == "iteration" else row["phase"] for row in fits]
    figure.update_layout(
        shapes=[{**line, "x0": place, "x1": place} for place in places],
        annotations=[
            {**note, "x": place, "text": name}
            for at, (place, name) in enumerate(zip(places, names, strict=True))
            if at % every == 0 or not name.isdigit()
        ],
    )
    figure.update_xaxes(title_text="epoch", showgrid=False, range=[0.3, max(starts) + 0.7])
    if quantity == "accuracy":
        figure.update_yaxes(title_text="accuracy, %")
        return figure
    found = [value for trace in figure.data for value in trace.y if value is not None]
    steep = min(found) > 0 and max(found) > 10 * min(found)
    axis = size_axis(found) if steep else {"rangemode": "tozero"}
    figure.update_yaxes(title_text=TITLES[quantity], **axis)
    return figure


def _layer_bars(
    layers: Sequence[Row], whole: Sequence[float], part: Sequence[float], label: Sequence[str]
) -> go.Figure:
    """Return one bar per layer, first on top: `part` in blue over `whole` in grey, with a label."""
    figure = empty_figure(height=64 + 25 * len(layers))
    places = list(range(len(layers)))
    figure.add_bar(
        x=whole,
        y=places,
        orientation="h",
        marker={"color": GHOST},
        text=label,
        textposition="outside",
        textfont={"color": INK},
        cliponaxis=False,
        hoverinfo="skip",
    )
    figure.add_bar(x=part, y=places, orientation="h", marker={"color": KEPT}, hoverinfo="skip")
    figure.update_layout(barmode="overlay", bargap=0.3)
    figure.update_yaxes(
        tickvals=places,
        ticktext=[short_name(layer["module"]) for layer in layers],
        range=[len(layers) - 0.4, -0.6],
        showgrid=False,
    )
    return figure


def _histogram(histogram: Row) -> go.Figure:
    edges = histogram["edges"]
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    least = 1e-3 * (max(map(abs, edges)) or 1.0)  # equal scores still give a visible bar
    widths = [max(high - low, least) for low, high in pairwise(edges)]
    figure = empty_figure(height=150)
    for key, colour in (("removed", REMOVED), ("kept", KEPT)):
        figure.add_bar(
            x=middles,
            y=histogram[key],
            width=widths,
            marker={"color": colour, "line": {"width": 0}},
            hovertemplate=f"score near %{{x:.3~g}}: %{{y}} {key}<extra></extra>",
        )
    figure.update_layout(barmode="stack", margin={"l": 4, "r": 8, "t": 6, "b": 4})
    figure.update_layout(font={"size": 11})
    figure.update_xaxes(nticks=5, tickformat="~g")
    tallest = max(map(sum, zip(histogram["kept"], histogram["removed"], strict=True)), default=0)
    ticks = {"dtick": 1} if tallest < 5 else {"nticks": 4}
    figure.update_yaxes(rangemode="tozero", **ticks)
    return figure


def _hover(row: Row, accuracy: str, name: str) -> str:
    return (
        f"<b>{name}</b><br>{percent(row[accuracy])}<br>{grouped(row['params'])} parameters"
        f"<br>{grouped(row['macs'])} MACs"
    )
