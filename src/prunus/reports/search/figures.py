"""Networks of a search → accuracy against size, one curve per arm."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go

from prunus.core import DERIVED, PLAIN, Row, latest
from prunus.reports.canvas import GHOST, INK, KEPT, MUTED, REMOVED, empty_figure, size_axis
from prunus.reports.numbers import grouped, percent
from prunus.reports.search.tables import arm_name, short_model

__all__ = ["size_figure"]

#: Colour, dash and symbol of an arm; rivals cycle through those of `RIVALS`.
STYLES = {
    DERIVED: (KEPT, "solid", "circle"),
    "grown": (REMOVED, "solid", "square"),
    "scratch": (KEPT, None, "circle-open"),
    PLAIN: (INK, None, "square-open"),
    "fixed": (INK, None, "star"),
}
RIVALS = (
    (INK, "solid", "diamond"),
    (MUTED, "solid", "triangle-up"),
    (INK, "dash", "triangle-down"),
    (MUTED, "dash", "x"),
    (INK, "dot", "cross"),
    (MUTED, "dot", "diamond-open"),
)
#: How far the axis extends below the best network, in distances from best to median network.
REACH = 3


def size_figure(networks: Sequence[Row], currency: str, title: str) -> go.Figure:
    """Return validation accuracy in percent against `currency` (`params` or `macs`) for each arm.

    Of networks of one arm with equal cost only the last is drawn: the same structure after more
    training. The accuracy axis extends three times the distance from the best to the median
    network below the best; networks below it are drawn at its end.
    """
    floor = accuracy_floor(networks)
    figure = empty_figure(height=430)
    rivals = 0
    plain = [row for row in networks if row["arm"] == PLAIN]
    for arm in dict.fromkeys(row["arm"] for row in networks):
        style = STYLES.get(arm)
        rows = latest([row for row in networks if row["arm"] == arm], currency)
        if style is None:  # a rival, whose curve starts at the network trained without push
            style, rivals = RIVALS[rivals % len(RIVALS)], rivals + 1
            rows = plain + rows
        _draw(figure, rows, arm, currency, style, floor)
    figure.update_xaxes(title_text=title, **size_axis([row[currency] for row in networks]))
    figure.update_yaxes(title_text="validation accuracy, %")
    figure.update_layout(
        showlegend=True,
        legend={"orientation": "h", "y": -0.2, "yanchor": "top", "font": {"size": 11.5}},
    )
    return figure


def accuracy_floor(networks: Sequence[Row]) -> float:
    """Return the lowest accuracy on the axis, 0 to 1."""
    found = [row["validation_accuracy"] for row in networks]
    best = max(found)
    reach = REACH * max(best - statistics.median(found), 0.001)
    return float(max(min(found), best - reach))


def _draw(
    figure: go.Figure,
    rows: Sequence[Row],
    arm: str,
    currency: str,
    style: tuple[str, str | None, str],
    floor: float,
) -> None:
    color, dash, symbol = style
    rows = sorted(
        rows, key=lambda row: -row[currency]
    )  # stable: keeps the order within equal sizes
    figure.add_scatter(
        x=[row[currency] for row in rows],
        y=[100 * max(row["validation_accuracy"], floor) for row in rows],
        name=arm_name(arm),
        mode="markers" if dash is None else "lines+markers",
        line={"color": color, "width": 2.5 if arm == DERIVED else 1.2, "dash": dash},
        marker={
            "color": color,
            "symbol": symbol,
            "size": 9 if arm == DERIVED else 8,
            "line": {"width": 1.5, "color": color if "open" in symbol else GHOST},
        },
        text=[_hover(row) for row in rows],
        hoverinfo="text",
    )


def _hover(row: Row) -> str:
    lines = [
        f"{escape(arm_name(row['arm']))}: {escape(short_model(row['name']))}",
        f"validation {percent(row['validation_accuracy'])}",
        f"{grouped(row['params'])} parameters, {grouped(row['macs'])} MACs",
    ]
    if row["test_accuracy"] is not None:
        lines.insert(2, f"test {percent(row['test_accuracy'])}")
    return "<br>".join(lines)
