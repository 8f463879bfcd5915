"""How objects are shown in a notebook: a small table, and small pictures drawn as inline SVG.

Self-contained HTML without scripts or outside files; every text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Picture", "curve_svg", "html_table", "share_svg"]

WIDTH, HEIGHT = 120, 18
#: Rows of a table, after which one line counts the rest.
ROWS = 40


@dataclass(frozen=True)
class Picture:
    """Markup made here, which is not escaped again."""

    svg: str


Cell = str | int | float | Picture


def html_table(
    caption: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], *, note: str = ""
) -> str:
    """Return a table of `rows` under `columns`; numbers are aligned to the right.

    Example:
        >>> "&lt;b&gt;" in html_table("Groups", ["group", "units"], [["<b>", 1200]])
        True
    """
    head = "".join(f'<th style="text-align:left">{escape(column)}</th>' for column in columns)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows[:ROWS])
    if len(rows) > ROWS:
        body += f'<tr><td colspan="{len(columns)}">and {len(rows) - ROWS} more</td></tr>'
    foot = f"<div>{escape(note)}</div>" if note else ""
    return (
        f'<div class="prunus"><div><b>{escape(caption)}</b></div>'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{foot}</div>"
    )


def curve_svg(values: Sequence[float], label: str = "") -> Picture:
    """Return a line through `values`, evenly spaced, from their least to their greatest.

    Values that are not finite are left out; `label` is read out and shown on hovering.
    """
    heights = [v for v in map(float, values) if math.isfinite(v)]
    least, most = min(heights, default=0.0), max(heights, default=0.0)
    span, steps = (most - least) or 1.0, max(len(heights) - 1, 1)
    points = " ".join(
        f"{1 + (WIDTH - 2) * at / steps:.1f},{HEIGHT - 2 - (HEIGHT - 4) * (v - least) / span:.1f}"
        for at, v in enumerate(heights)
    )
    line = f'<polyline points="{points}" fill="none" stroke="#4c72b0" stroke-width="1.5"/>'
    return Picture(_svg(line, label))


def share_svg(share: float, label: str = "") -> Picture:
    """Return a bar of which `share`, 0 to 1, is filled."""
    filled = (WIDTH - 2) * min(max(share, 0.0), 1.0)
    bar = (
        f'<rect x="1" y="4" width="{WIDTH - 2}" height="{HEIGHT - 8}" fill="#dddddd"/>'
        f'<rect x="1" y="4" width="{filled:.1f}" height="{HEIGHT - 8}" fill="#4c72b0"/>'
    )
    return Picture(_svg(bar, label))


def _svg(content: str, label: str) -> str:
    return (
        f'<svg role="img" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'xmlns="http://www.w3.org/2000/svg"><title>{escape(label)}</title>{content}</svg>'
    )


def _cell(value: Cell) -> str:
    if isinstance(value, Picture):
        return f"<td>{value.svg}</td>"
    if isinstance(value, str):
        return f'<td style="text-align:left">{escape(value)}</td>'
    text = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    return f'<td style="text-align:right">{text}</td>'
