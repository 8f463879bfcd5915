"""`scores.json` → one HTML file that opens anywhere, offline, for years."""

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

#: Groups drawn at once; the rest opens in batches of as many.
PANELS = 12
#: Units of a group that the page lists: the first and the last to go; the file has the rest.
LISTED = 400
FILES = {
    "config.yaml": "all that is needed to repeat it",
    "record.jsonl": "where, when and how fast it was made",
    "scores.json": "every number of this page, and those it leaves out",
    "scores.html": "this page",
}


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One group on the page: its figure, its line and its units."""

    drawing: Drawing
    summary: GroupSummary
    units: list[UnitRow]
    hidden: int


def render_scores(content: Row, rows: Sequence[Row], config: Mapping[str, Any]) -> str:
    """Return the page of `scores.json`: no network, nothing beside it.

    Args:
        content: what `scores.json` holds.
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
    """Say what a bar is and which step is the largest."""
    text = (
        "On the left the layers ranked by what they read: blue is the share of the class labels’ "
        "variance that a ridge regression on a layer’s input explains (discriminant information "
        "over its maximum), grey what it leaves to explain"
    )
    layers = content["layers"]
    if any(layer["low"] is not None for layer in layers):
        text += f"; whiskers are {percent(content['level'], 0)} jackknife intervals"
    text += (
        f", over {counted(content['images'], 'image')} in {counted(content['blocks'], 'block')}. "
        "On the right the same layers in the order they run, each against the one before it"
    )
    if len(layers) > 1:
        low = min(layers[1:], key=lambda layer: float(layer["gain"]))
        if low["gain"] < 0:
            text += f"; the largest loss is at {low['module']}, {points(0.0, low['gain'])}"
    return text + "."


def _unit_caption(content: Row) -> str:
    """Say what a point is, and what an orange one."""
    groups = content["groups"]
    text = (
        f"A panel is a group of coupled units; across are its units in the order in which "
        f"“{content['criterion']}” would remove them, up is what each costs at its step: "
        f"{content['unit']}."
    )
    sure = any(could_go(group) is not None for group in groups)
    if has_width(content):
        text += (
            f" Grey is the {percent(content['level'], 0)} jackknife interval, a whisker a unit up "
            f"to {grouped(WHISKERS)} units and a band beyond. Orange units have an interval that "
            "includes 0: on these images they could go free."
        )
    elif sure:
        text += " The criterion gives the same whatever the images, so its costs have no intervals."
    else:
        text += (
            " The criterion reads gradients or traces, which are summed over all images, so its "
            "costs have no intervals."
        )
    text += (
        " Where costs differ by more than a factor of 10 the axis is logarithmic, and what lies "
        "below its end is drawn there."
    )
    if len(groups) > 1 and not content["comparable"]:
        text += " Costs of different groups are not on one scale."
    return text
