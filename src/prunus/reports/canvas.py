"""The basis of every figure: colours, an empty figure in the page's style, axes, names.

Colours are those of the light page in `PALETTE`; in dark mode the page replaces them by their
dark counterparts. Blue and orange remain distinct for every common colour blindness, and in grey.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

__all__ = [
    "GHOST",
    "INK",
    "KEPT",
    "MUTED",
    "PAGE",
    "PALETTE",
    "REMOVED",
    "RULE",
    "empty_figure",
    "short_name",
    "size_axis",
]

#: Name → (light, dark). The light colour is what figures carry.
PALETTE = {
    "kept": ("#2b6c99", "#6fb4e2"),
    "removed": ("#d9822b", "#f0a355"),
    "ghost": ("#d6d3cc", "#43474f"),
    "ink": ("#24272c", "#e7e5e0"),
    "muted": ("#666b73", "#a3a8b0"),
    "rule": ("#e6e3dd", "#2c3037"),
    "page": ("#fcfbf9", "#15171b"),
}
KEPT, REMOVED, GHOST, INK, MUTED, RULE, PAGE = (light for light, _ in PALETTE.values())
SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def empty_figure(height: int) -> go.Figure:
    """Return an empty figure in the page's style."""
    figure = go.Figure()
    axis = {"gridcolor": RULE, "linecolor": GHOST, "zeroline": False, "fixedrange": True}
    axis |= {
        "automargin": True,
        "title": {"standoff": 8, "font": {"size": 12.5, "color": MUTED}},
        "tickcolor": GHOST,
    }
    figure.update_layout(
        template=go.layout.Template(),
        height=height,
        margin={"l": 8, "r": 12, "t": 22, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": SANS, "size": 12.5, "color": INK},
        showlegend=False,
        dragmode=False,
        xaxis={**axis, "showline": True, "ticks": "outside", "ticklen": 4},
        yaxis=axis,
    )
    return figure


def short_name(name: str, limit: int = 26) -> str:
    """Return the end of a long module name, escaped for plotly's own markup."""
    return escape(name if len(name) <= limit else f"…{name[1 - limit :]}", quote=False)


def size_axis(values: Sequence[float]) -> dict[str, Any]:
    """Return a linear axis from zero, or past a factor of 10 a logarithmic one with 1-2-5 ticks."""
    low, high = min(values), max(values)
    if low <= 0 or high <= 10 * low:
        return {"rangemode": "tozero", "tickformat": "~s", "nticks": 6}
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1,) if high > 1e4 * low else (1, 3) if high > 100 * low else (1, 2, 5)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    pad = 0.05 * math.log10(high / low)
    return {
        "type": "log",
        "range": [math.log10(low) - pad, math.log10(high) + pad],
        "tickvals": [tick for tick in ticks if low <= tick <= high],
        "tickformat": "~g" if low < 1 else "~s",
    }
