"""Class information of the last hidden layer → plotly figures, as in [Tian]."""

from __future__ import annotations

import math
from itertools import accumulate

import plotly.graph_objects as go

from prunus.core import Row
from prunus.reports.canvas import (
    GHOST,
    INK,
    KEPT,
    MUTED,
    PAGE,
    REMOVED,
    empty_figure,
    size_axis,
)
from prunus.reports.numbers import counted, measure, percent

__all__ = [
    "chosen_at",
    "covariance_end",
    "covariance_figure",
    "dimension_figure",
    "discriminant_figure",
    "utility_figure",
    "utility_histogram",
]

#: Height of all figures except the heat maps.
HEIGHT = 260
#: Maximum number of bars of a histogram.
BINS = 60


def covariance_end(latent: Row, name: str) -> float:
    """Return the largest magnitude in a covariance: the end of its colour scale."""
    cells = latent["covariances"][name]["cells"]
    return max((abs(cell) for row in cells for cell in row), default=0.0)


def chosen_at(traced: Row) -> int:
    """Return the position of the chosen number in the counts at which accuracy was measured."""
    counts = traced["counts"]
    return next(at for at, k in enumerate(counts) if k >= min(traced["kept"], counts[-1]))


def covariance_figure(latent: Row, name: str) -> go.Figure:
    """Return one covariance (`total`, `within` or `between`) as a heat map, best dimension first.

    Figure 3-3. Entries are blue above and orange below 0, up to the largest magnitude of their own
    matrix; the mean magnitudes of blocks are blue.
    """
    cells, block = latent["covariances"][name]["cells"], latent["block"]
    width = latent["drawn"]
    end = covariance_end(latent, name) or 1.0
    edges = [0.5 + min(at * block, width) for at in range(len(cells) + 1)]
    signed = block == 1
    near = "" if signed else "near "
    figure = empty_figure(height=300)
    figure.add_heatmap(
        z=cells,
        x=edges,
        y=edges,
        zmin=-end if signed else 0.0,
        zmax=end,
        colorscale=[[0, REMOVED], [0.5, PAGE], [1, KEPT]] if signed else [[0, PAGE], [1, KEPT]],
        showscale=False,
        hovertemplate=f"{near}places %{{y:.0f}} and %{{x:.0f}}: %{{z:.3~g}}<extra></extra>",
    )
    frame = {"showline": True, "mirror": True, "showgrid": False, "ticks": "outside"}
    frame |= {"ticklen": 4, "constrain": "domain", "linecolor": MUTED}
    ticks = {"dtick": 1} if width <= 6 else {"nticks": 6}
    figure.update_xaxes(title_text="place of the dimension", range=[0.5, width + 0.5])
    figure.update_yaxes(range=[width + 0.5, 0.5], scaleanchor="x", constraintoward="top")
    for update in (figure.update_xaxes, figure.update_yaxes):
        update(**frame, **ticks)
    return _small(figure)


def utility_histogram(latent: Row) -> go.Figure:
    """Return the histogram of utilities, with the chosen dimensions in blue (fig. 3-4)."""
    values, kept = latent["values"], _kept(latent)
    bins = min(BINS, max(16, round(2 * math.sqrt(len(values)))))
    step = (max(values, default=0.0) or 1.0) / bins
    counts = {KEPT: [0] * bins, GHOST: [0] * bins}
    for at, value in enumerate(values):
        counts[KEPT if at < kept else GHOST][min(int(value / step), bins - 1)] += 1
    figure = empty_figure(height=HEIGHT)
    for colour, heights in counts.items():
        figure.add_bar(
            x=[(at + 0.5) * step for at in range(bins)],
            y=heights,
            width=step,
            marker={"color": colour, "line": {"width": 0}},
            hovertemplate="utility near %{x:.3~g}: %{y}<extra></extra>",
        )
    figure.update_layout(barmode="stack", bargap=0)
    figure.update_xaxes(title_text="utility v", nticks=6, tickformat="~g", rangemode="tozero")
    tallest = max(map(sum, zip(*counts.values(), strict=True)), default=0)
    ticks = {"dtick": 1} if tallest < 5 else {"nticks": 5}
    figure.update_yaxes(title_text="dimensions", rangemode="tozero", **ticks)
    return _small(figure)


def utility_figure(latent: Row) -> go.Figure:
    """Return one bar per dimension, its utility, largest first; chosen ones in blue."""
    values, kept = latent["values"], _kept(latent)
    figure = empty_figure(height=HEIGHT)
    figure.add_bar(
        x=list(range(1, len(values) + 1)),
        y=values,
        marker={"color": [KEPT if at < kept else GHOST for at in range(len(values))]},
        text=[
            f"<b>dimension {dimension}</b><br>utility {measure(value)}<br>place {at}"
            for at, (dimension, value) in enumerate(
                zip(latent["order"], values, strict=True), start=1
            )
        ],
        textposition="none",
        hoverinfo="text",
    )
    figure.update_traces(marker_line_width=0)
    figure.update_layout(bargap=0.25 if len(values) <= 64 else 0)
    figure.update_xaxes(title_text="place of the dimension", showgrid=False, nticks=7)
    figure.update_xaxes(range=[0.4, len(values) + 0.6])
    figure.update_yaxes(title_text="utility v", rangemode="tozero", tickformat="~g", nticks=5)
    return _small(figure)


def discriminant_figure(latent: Row) -> go.Figure:
    """Return one bar per discriminant, largest first, and the cumulative share.

    Figures 3-5 and 4-6: the eigenvalues of Σ_b relative to Σ_w on the left axis, their running sum
    as a share of the total on the right one.
    """
    found = latent["discriminants"]
    whole = sum(found) or 1.0
    shares = [100 * part / whole for part in accumulate(found)]
    places = list(range(1, len(found) + 1))
    figure = empty_figure(height=HEIGHT)
    figure.add_bar(
        x=places,
        y=found,
        marker={"color": KEPT, "line": {"width": 0}},
        text=[
            f"<b>discriminant {at}</b><br>{measure(one)}<br>{percent(share / 100, 1)} so far"
            for at, one, share in zip(places, found, shares, strict=True)
        ],
        textposition="none",
        hoverinfo="text",
    )
    figure.add_scatter(
        x=places,
        y=shares,
        yaxis="y2",
        mode="lines+markers" if len(places) <= 32 else "lines",
        line={"color": INK, "width": 1.5},
        marker={"color": INK, "size": 5},
        hoverinfo="skip",
    )
    figure.update_layout(
        bargap=0.25 if len(places) <= 64 else 0,
        yaxis2={
            "overlaying": "y",
            "side": "right",
            "range": [0, 105],
            "tickvals": [0, 25, 50, 75, 100],
            "showgrid": False,
            "automargin": True,
            "title": {
                "text": "running sum, %",
                "standoff": 8,
                "font": {"size": 12.5, "color": MUTED},
            },
        },
    )
    ticks = {"dtick": 1} if len(places) <= 12 else {"nticks": 7}
    figure.update_xaxes(title_text="discriminant", showgrid=False, **ticks)
    figure.update_xaxes(range=[0.4, max(len(places), 1) + 0.6])
    figure.update_yaxes(
        title_text="eigenvalue", rangemode="tozero", tickformat="~g", nticks=5, selector=0
    )
    return _small(figure)


def dimension_figure(traced: Row) -> go.Figure:
    """Return validation accuracy against latent dimensions kept, by utility and by variance.

    Figure 3-19: the first k dimensions (blue) and k principal components (orange); the dashed line
    is all dimensions, the ring the chosen number.
    """
    counts, curves = traced["counts"], traced["accuracy"]
    figure = empty_figure(height=HEIGHT)
    whole = 100 * curves["lda"][-1]
    figure.add_scatter(
        x=[counts[0], counts[-1]],
        y=[whole, whole],
        mode="lines",
        line={"color": MUTED, "width": 1.2, "dash": "dash"},
        hoverinfo="skip",
    )
    names = {"pca": ("component", REMOVED), "lda": ("dimension", KEPT)}
    for key, (noun, colour) in names.items():
        figure.add_scatter(
            x=counts,
            y=[100 * accuracy for accuracy in curves[key]],
            mode="lines+markers" if len(counts) <= 32 else "lines",
            line={"color": colour, "width": 2},
            marker={"color": colour, "size": 5},
            text=[
                f"{counted(count, noun)}: {percent(accuracy)}"
                for count, accuracy in zip(counts, curves[key], strict=True)
            ],
            hoverinfo="text",
        )
    figure.add_scatter(
        x=[traced["kept"]],
        y=[100 * curves["lda"][chosen_at(traced)]],
        mode="markers",
        marker={"color": KEPT, "symbol": "circle-open", "size": 14, "line": {"width": 2}},
        hoverinfo="skip",
    )
    figure.update_xaxes(title_text="dimensions kept", **size_axis(counts))
    figure.update_yaxes(title_text="validation accuracy, %", nticks=6)
    return _small(figure)


def _kept(latent: Row) -> int:
    """Return how many of the first dimensions were chosen, or all if there was no choice."""
    return int(latent["traced"]["kept"]) if latent["traced"] else len(latent["values"])


def _small(figure: go.Figure) -> go.Figure:
    return figure.update_layout(margin={"l": 4, "r": 8, "t": 8, "b": 4}, font={"size": 12})
