"""The journal of a search → one self-contained HTML file that opens offline."""

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
    """Return whether a configuration is one of `prunus search`."""
    return "rivals" in config


def render_search(rows: Sequence[Row], config: Mapping[str, Any], folder: Path) -> str:
    """Return the self-contained page of a search, finished or not.

    Args:
        rows: its journal, oldest row first.
        config: its configuration, plain values.
        folder: its folder; the pages of its runs are linked.
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
    return f"This search is not finished: {done} of its runs are. Continue it with --resume."


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
    """Return what a point is, and where the axis ends."""
    floor = accuracy_floor(found)
    text = (
        "Each point is a network, each line one method. All were trained here on the same "
        "images; only networks trained for at least as many epochs as the final derived network "
        "are compared. Rival criteria start from the grown network trained without push, which, "
        "like their intermediate networks, was trained for fewer epochs."
    )
    below = sum(row["validation_accuracy"] < floor for row in found)
    if below:
        text += f" Networks below {percent(floor)} ({below}) are drawn at the lower end."
    return text


def _noise(rows: Sequence[Row]) -> str:
    """Return the standard error of an accuracy due to the choice of images."""
    error = standard_error(rows)
    if not error:
        return ""
    images = last(rows, "start")["validation_images"]  # type: ignore[index]
    return (
        f" On {grouped(images)} validation images one standard error of an accuracy is "
        f"{points(0.0, error).removeprefix('+')}: smaller differences are noise, and larger ones "
        "may still change with another seed."
    )
