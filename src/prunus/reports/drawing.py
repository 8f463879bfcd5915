"""Figures and templates → one self-contained HTML text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from prunus.reports.canvas import PALETTE

__all__ = ["Drawing", "draw", "render"]


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure as the template needs it; `heading` and `note` are for small panels."""

    id: str
    height: int
    spec: Markup
    label: str
    heading: str = ""
    note: str = ""


def render(template: str, **values: Any) -> str:
    """Render a template of this package; plotly and the palette are passed to each."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        palette=PALETTE, plotly=Markup(get_plotlyjs()), **values
    )


def draw(name: str, figure: go.Figure, label: str, **captions: str) -> Drawing:
    """Return `figure` as JSON, escaped so that no name in it can break out."""
    spec = figure.to_json(engine="json")
    return Drawing(
        id=name, height=int(figure.layout.height), spec=_inert(spec), label=label, **captions
    )


def _inert(text: str, unsafe: Iterable[str] = "<>&\u2028\u2029") -> Markup:
    """Return JSON with every character that is special in HTML escaped."""
    for character in unsafe:
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
