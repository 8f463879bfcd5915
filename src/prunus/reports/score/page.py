"""`scores.json` → one self-contained HTML file that opens offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from prunus.core import Row, last
from prunus.reports.drawing import Drawing, draw, render
from prunus.reports.latent import latent_section
from prunus.reports.numbers import counted, grouped, percent, points
from prunus.reports.run import knowledge_figure
from prunus.reports.score.figures import WHISKERS, gain_figure, unit_figure
from prunus.reports.score.tables import (
    GroupSummary,
    UnitRow,
    could_go,
    group_summary,
    has_width,
    layer_ranks,
    ranked,
    score_title,
    unit_row,
    verdict,
)

__all__ = ["render_scores"]

#: Groups shown at first; the rest is in collapsed batches of the same size.
PANELS = 12
#: Units of a group that the page lists: the first and last in removal order; the file has the rest.
LISTED = 400
FILES = {
    "config.yaml": "all settings needed to repeat it",
    "record.jsonl": "command, versions, device and times",
    "scores.json": "every number of this page, and those omitted here",
    "scores.html": "this page",
}


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One group on the page: its figure, its summary and its units."""

    drawing: Drawing
    summary: GroupSummary
    units: list[UnitRow]
    hidden: int


def render_scores(content: Row, rows: Sequence[Row], config: Mapping[str, Any]) -> str:
    """Return the self-contained page of `scores.json`.

    Args:
        content: the content of `scores.json`.
        rows: the journal of the scoring, `run` and `score`.
        config: the configuration, plain values.
    """
    layers = content["layers"]
    panels = [_panel(at, group) for at, group in enumerate(content["groups"])]
    drawings = []
    if layers:
        drawings = [
            draw("ranking", knowledge_figure(ranked(content)), "layers by what they explain"),
            draw("gains", gain_figure(layers), "gain of each layer over the one before it"),
        ]
    return render(
        "score.html",
        batches=[panels[at : at + PANELS] for at in range(0, len(panels), PANELS)],
        config=yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True),
        content=content,
        drawings=drawings,
        files=FILES,
        latent=latent_section(content.get("latent")),
        layer_caption=_layer_caption(content),
        layers=layer_ranks(content),
        level=percent(content["level"], 0),
        per_batch=PANELS,
        run=last(rows, "run"),
        timing=last(rows, "score"),
        title=score_title(content),
        sure=any(could_go(group) is not None for group in content["groups"]),
        unit_caption=_unit_caption(content),
        verdict=verdict(content),
        wide=has_width(content),
    )


def _panel(at: int, group: Row) -> Panel:
    units, half = group["units"], LISTED // 2
    places = range(1, units + 1)
    listed = places if units <= LISTED else [*places[:half], *places[-half:]]
    return Panel(
        drawing=draw(f"units-{at}", unit_figure(group), f"cost of each unit of {group['name']}"),
        summary=group_summary(group),
        units=[unit_row(group, place) for place in listed],
        hidden=units - len(listed),
    )


def _layer_caption(content: Row) -> str:
    """Return what a bar is and where the largest loss is."""
    text = (
        "On the left, the layers ranked by their input: blue is the share of the class labels’ "
        "variance that a ridge regression on a layer’s input explains (discriminant information "
        "over its maximum), grey what remains unexplained"
    )
    layers = content["layers"]
    if any(layer["low"] is not None for layer in layers):
        text += f"; whiskers are {percent(content['level'], 0)} jackknife intervals"
    text += (
        f", over {counted(content['images'], 'image')} in {counted(content['blocks'], 'block')}. "
        "On the right, the same layers in execution order, each relative to the one before it"
    )
    if len(layers) > 1:
        low = min(layers[1:], key=lambda layer: float(layer["gain"]))
        if low["gain"] < 0:
            text += f"; the largest loss is at {low['module']}, {points(0.0, low['gain'])}"
    return text + "."


def _unit_caption(content: Row) -> str:
    """Return what a point is, and what orange means."""
    groups = content["groups"]
    text = (
        f"Each panel is a group of coupled units; the horizontal axis is the order in which "
        f"“{content['criterion']}” would remove them, the vertical axis the cost of each removal: "
        f"{content['unit']}."
    )
    sure = any(could_go(group) is not None for group in groups)
    if has_width(content):
        text += (
            f" Grey is the {percent(content['level'], 0)} jackknife interval, one whisker per unit "
            f"up to {grouped(WHISKERS)} units and a band beyond. Orange units have an interval "
            "that includes 0: on these images they may cost nothing."
        )
    elif sure:
        text += " The criterion does not depend on the images, so its costs have no intervals."
    else:
        text += (
            " The criterion uses gradients or traces, which are summed over all images, so its "
            "costs have no intervals."
        )
    text += (
        " If costs differ by more than a factor of 10, the axis is logarithmic, and smaller values "
        "are drawn at its end."
    )
    if len(groups) > 1 and not content["comparable"]:
        text += " Costs of different groups are not on one scale."
    return text
