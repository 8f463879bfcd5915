"""One run folder → one self-contained HTML file that opens offline."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from prunus.core import (
    PlanError,
    Row,
    RunFolderError,
    last,
    of_event,
    parse_json,
    read_rows,
    read_settings,
    read_text,
    require_sealed,
    seals_of,
    to_json,
    trajectory,
    write_whole,
)
from prunus.modules import baked_words
from prunus.plan import Plan
from prunus.reports.canvas import PALETTE
from prunus.reports.drawing import Drawing, draw, render
from prunus.reports.latent import latent_cuts_section
from prunus.reports.numbers import grouped, scientific
from prunus.reports.run import words
from prunus.reports.run.figures import (
    LINES,
    accuracy_figure,
    knowledge_figure,
    layer_figure,
    score_figures,
    training_figure,
)
from prunus.reports.run.layers import lone_convolutions, multiplying
from prunus.reports.run.tables import (
    group_table,
    headline,
    knowledge,
    knowledge_table,
    layer_table,
    refusals,
    unscored,
)
from prunus.reports.search import is_search, render_search

__all__ = ["render_page", "write_report"]

#: Score panels shown at first; the rest is in collapsed batches of the same size. For networks with
#: more layers, only the figures of parameters and MACs are shown at first.
PANELS = 24
#: Characters of the plan on the page; the file has the rest.
PLAN_LIMIT = 20_000
FILES = {
    "config.yaml": "all settings needed to repeat the run",
    "record.jsonl": "every measurement, one JSON object per line",
    "plan.json": "the removed units, by name and index",
    "plans.json": "the plans after every iteration",
    "model.safetensors": "the pruned network's weights",
    "model.onnx": "the pruned network for any ONNX runtime",
    "report.html": "this page",
}


def write_report(folder: Path) -> Path:
    """Write `report.html` into a run folder from its journal, configuration and plan.

    The journal is only read, so this is safe during a run; an incomplete last line is ignored. The
    same folder gives the same page, byte for byte.

    Raises:
        RunFolderError: the folder or its configuration is missing, or a file is broken.
    """
    config_path, record_path, plan_path = (
        folder / name for name in ("config.yaml", "record.jsonl", "plan.json")
    )
    if not config_path.exists():
        raise RunFolderError(f"{folder} has no config.yaml: give the folder of a run")
    rows = read_rows(record_path)[0] if record_path.exists() else []
    if not rows and plan_path.exists():
        raise RunFolderError(
            f"{folder} has no {record_path.name}, or an empty one, but {plan_path.name}: restore "
            "the journal from a copy of the run, without which there is nothing to report"
        )
    require_sealed(folder, config_path.name, plan_path.name, seals=seals_of(rows))
    config = read_settings(config_path)
    plan = parse_json(_plan(plan_path).to_json()) if plan_path.exists() else None
    path = folder / "report.html"
    if is_search(config):
        write_whole(path, render_search(rows, config, folder))
        return path
    files = {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()}
    files = {name: size for name, size in files.items() if name[0] != "." and name != path.name}
    write_whole(path, render_page(rows, config, plan, folder=folder.as_posix(), files=files))
    return path


def _plan(path: Path) -> Plan:
    text = read_text(path, raising=RunFolderError)
    try:
        return Plan.from_json(text)
    except PlanError as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from error


def render_page(
    rows: Sequence[Row],
    config: Mapping[str, Any],
    plan: Mapping[str, Any] | None,
    *,
    folder: str = "runs/NAME",
    files: Mapping[str, int] | None = None,
) -> str:
    """Return the self-contained page of a run, finished or not.

    Args:
        rows: the journal, oldest row first.
        config: the configuration, plain values.
        plan: the plan, or None before there is one.
        folder: the run folder, as passed to `prunus.load`.
        files: the folder's files and their sizes in bytes.
    """
    layers, cuts = last(rows, "layers"), trajectory(rows, "prune")
    fits = [row for row in of_event(rows, "fit") if row["epochs"]]
    export, graph = last(rows, "export"), last(rows, "graph")
    layer_drawings, layer_drawings_more = _layers(layers["layers"] if layers else [])
    panels = _panels(rows, cuts[max(cuts)]) if cuts else []
    shown = {**(files or {}), "report.html": None}
    plan_text = to_json(plan) if plan else ""
    return render(
        "page.html",
        accuracy=_accuracy(rows),
        config=yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True),
        export=export,
        export_failed=words.failed_exports(rows),
        export_difference=scientific(export["largest_difference"]) if export else "",
        export_tolerance=scientific(export["tolerance"]) if export else "",
        files=[
            (name, FILES.get(name, ""), "" if size is None else grouped(size))
            for name, size in sorted(shown.items())
        ],
        folder=json.dumps(folder, ensure_ascii=False),
        baked=baked_words(graph["baked"]) if graph and graph.get("baked") else "",
        graph=graph,
        groups=group_table(rows),
        headline=headline(rows),
        knowledge=knowledge_table(rows),
        knowledge_drawings=_knowledge(rows),
        latent=latent_cuts_section(rows),
        layer_drawings=layer_drawings,
        layer_drawings_more=layer_drawings_more,
        layers=layer_table(rows),
        missing=words.missing(rows),
        panels=panels[:PANELS],
        panels_more=[panels[at : at + PANELS] for at in range(PANELS, len(panels), PANELS)],
        per_batch=PANELS,
        plan=plan_text[:PLAN_LIMIT],
        plan_is_cut=len(plan_text) > PLAN_LIMIT,
        pushed=_pushed(rows),
        refusals=refusals(rows),
        unscored=unscored(rows),
        rows=rows,
        run=last(rows, "run"),
        score_row=cuts[max(cuts)] if cuts else None,
        stop=last(rows, "stop"),
        title=words.title(config),
        training=_training(rows) if fits else [],
        verdict=words.verdict(rows),
        words=words,
    )


def _accuracy(rows: Sequence[Row]) -> list[Drawing]:
    if not trajectory(rows, "iteration"):
        return []
    return [
        draw(cost, accuracy_figure(rows, cost, noun), f"validation accuracy against {noun}")
        for cost, noun in (("params", "parameters"), ("macs", "MACs"))
    ]


def _layers(layers: Sequence[Row]) -> tuple[list[Drawing], list[Drawing]]:
    """Return the shown and the collapsed figures of parameters, MACs and outputs per layer.

    If the convolutions' parameters would be invisible, there is one more figure for them only.
    """
    drawn, alone = multiplying(layers), lone_convolutions(layers)
    if not drawn:
        return [], []
    figures = [("params", "parameters", drawn), ("macs", "MACs", drawn), ("out", "outputs", drawn)]
    drawings = [
        draw(f"layers-{key}", layer_figure(some, key, noun), f"{noun} per layer, before, after")
        for key, noun, some in figures
    ]
    if alone:
        noun = "parameters, convolutions only"
        figure = layer_figure(alone, "params", noun)
        drawings.append(draw("layers-convolutions", figure, f"{noun}, before, after"))
    shown = len(drawings) if len(drawn) <= PANELS else 2
    return drawings[:shown], drawings[shown:]


def _knowledge(rows: Sequence[Row]) -> list[Drawing]:
    return [
        draw(
            f"knowledge-{at}",
            knowledge_figure(layers),
            "share of the class labels that each layer explains",
            heading=words.knowledge_name(at),
        )
        for at, layers in knowledge(rows).items()
    ]


def _training(rows: Sequence[Row]) -> list[Drawing]:
    return [
        draw(f"training-{key}", training_figure(rows, key), f"{key} over the epochs")
        for key in ("loss", "accuracy", *(["push"] if _pushed(rows) else []))
    ]


def _pushed(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """Return name, colour and dash of every push term in the journal."""
    epochs = [epoch for row in of_event(rows, "fit") for epoch in row["epochs"]]
    colours = {light: name for name, (light, _) in PALETTE.items()}
    return [
        (name, colours[colour], {"dot": "dotted"}.get(dash, dash))
        for key, (name, colour, dash) in LINES["push"].items()
        if any(epoch.get(key) is not None for epoch in epochs)
    ]


def _panels(rows: Sequence[Row], cut: Row) -> list[Drawing]:
    """Return one small figure per group of `cut`, with the number of kept units."""
    figures = score_figures(rows, cut["iteration"])
    mixed = len({group["score_unit"] for group in cut["groups"]}) > 1
    return [
        draw(
            f"score-{at}",
            figures[group["name"]],
            f"score distribution of {group['name']}",
            heading=group["name"],
            note=f"{grouped(group['after'])} of {grouped(group['before'])} kept"
            + (f" · {group['score_unit']}" if mixed else ""),
        )
        for at, group in enumerate(cut["groups"])
        if group["name"] in figures
    ]
