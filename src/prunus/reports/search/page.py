"""The journal of a search → one HTML file that opens anywhere, offline, for years."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from prunus.core import DERIVED, Row, last, networks, of_event, to_json
from prunus.reports.drawing import draw, render
from prunus.reports.numbers import grouped, percent, points
from prunus.reports.search.figures import accuracy_floor, size_figure
from prunus.reports.search.tables import (
    arm_name,
    arm_rows,
    finished_of,
    lead_text,
    short_model,
    standard_error,
    verdict,
)

__all__ = ["is_search", "render_search"]

SIZES = {"params": "parameters", "macs": "multiply-accumulates (MACs)"}


def is_search(config: Mapping[str, Any]) -> bool:
    """Tell whether a configuration is one of `prunus search`."""
    return "rivals" in config


def render_search(rows: Sequence[Row], config: Mapping[str, Any], folder: Path) -> str:
    """Return the page of a search, finished or not: no network, nothing beside it.

    Args:
        rows: its journal, oldest row first.
        config: its configuration, plain values.
        folder: its folder; pages of the runs in it are linked.
    """
    found, start = networks(rows), last(rows, "start")
    drawings = [
        draw(f"size-{currency}", size_figure(found, currency, title), f"accuracy against {title}")
        for currency, title in SIZES.items()
        if found
    ]
    missing = "" if last(rows, "comparison") else _missing(rows)
    return render(
        "search.html",
        arms=[_linked(vars(row), folder) for row in arm_rows(rows)],
        caption=_caption(found) + _noise(rows) if found else "",
        comparisons=_comparisons(rows),
        config=yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True),
        drawings=drawings,
        failed=[{**row, "key": arm_name(row["key"])} for row in of_event(rows, "failed")],
        folder=to_json((folder / DERIVED).as_posix()).strip(),
        missing=missing,
        run=last(rows, "run"),
        steps=[_step(row) for row in (start or {"steps": []})["steps"]],
        title=_title(rows, config),
        verdict=verdict(rows),
    )


def _title(rows: Sequence[Row], config: Mapping[str, Any]) -> str:
    found = finished_of(rows)
    name = short_model(config["model"])
    if found is None:
        return f"{name} on {config['data']}"
    return f"{name} on {config['data']}: {grouped(found['params'])} parameters"


def _missing(rows: Sequence[Row]) -> str:
    done = len(of_event(rows, "arm"))
    return f"This search is not finished: {done} of its runs are. It goes on with --resume."


def _linked(row: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    page = Path(row["folder"]) / "report.html"
    return {**row, "report": page.as_posix() if (folder / page).exists() else ""}


def _comparisons(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    comparison = last(rows, "comparison")
    if comparison is None:
        return []
    texts: dict[str, dict[str, str]] = {}
    for row in comparison["arms"]:
        texts.setdefault(row["arm"], {})[row["currency"]] = lead_text(row)
    return [(arm_name(arm), found["params"], found["macs"]) for arm, found in texts.items()]


def _step(row: Row) -> Row:
    shown = {"params": grouped(row["params"]), "macs": grouped(row["macs"])}
    shown["model"] = short_model(row["model"])
    return {**row, **shown, "accuracy": percent(row["accuracy"])}


def _caption(found: Sequence[Row]) -> str:
    """Say what a point is, and where the axis ends."""
    floor = accuracy_floor(found)
    text = (
        "A point is a network, a line the way of one method. All were trained here on the same "
        "images; compared are those that have seen as many epochs as the derived network in the "
        "end. Rivals of the pruning start at the grown network trained without push, which has "
        "seen fewer, as have the networks on their way."
    )
    below = sum(row["validation_accuracy"] < floor for row in found)
    if below:
        text += f" Of those below {percent(floor)} ({below}) the place is drawn at the lower end."
    return text


def _noise(rows: Sequence[Row]) -> str:
    """Say how far an accuracy may be off for the choice of images alone."""
    error = standard_error(rows)
    if not error:
        return ""
    images = last(rows, "start")["validation_images"]  # type: ignore[index]
    return (
        f" On {grouped(images)} validation images one standard error of an accuracy is "
        f"{points(0.0, error).removeprefix('+')}: smaller differences are noise, and larger ones "
        "may be where another seed turns them."
    )
