"""Rows of a run's journal → tables of formatted strings; every number comes from a row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prunus.core import Row, last, of_event, trajectory
from prunus.reports.numbers import duration, grouped, kept, percent, points, size, speed_between

__all__ = [
    "GroupRow",
    "HeadlineRow",
    "KnowledgeRow",
    "LayerRow",
    "explained",
    "gain",
    "group_table",
    "headline",
    "knowledge",
    "knowledge_table",
    "layer_table",
    "refusals",
    "timings",
    "unscored",
    "untimed",
]


#: Display names of the runtimes.
RUNTIMES = {"eager": "PyTorch", "compile": "torch.compile", "onnxruntime": "ONNX Runtime"}


@dataclass(frozen=True, kw_only=True)
class HeadlineRow:
    """One measure of the dense and the pruned network, and the change."""

    metric: str
    dense: str
    pruned: str
    change: str


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """One layer before and after: its outputs, inputs, parameters and MACs."""

    module: str
    kind: str
    inputs: str
    outputs: str
    params_before: str
    params_after: str
    params_kept: str
    macs_before: str
    macs_after: str
    macs_kept: str


@dataclass(frozen=True, kw_only=True)
class GroupRow:
    """One group of coupled units: units in the dense network, units left, consumers."""

    name: str
    kind: str
    units: str
    left: str
    consumers: str


@dataclass(frozen=True, kw_only=True)
class KnowledgeRow:
    """Share of the class labels that a layer's input explains, in the first and latest network."""

    module: str
    features: str
    first: str
    first_gain: str
    newest: str
    newest_gain: str


def headline(rows: Sequence[Row]) -> list[HeadlineRow]:
    """Return the comparison of dense and pruned network, one row per measure.

    Without a `result` the latest iteration is used as the pruned network, with the measures of an
    iteration; without any iteration the list is empty.
    """
    result = last(rows, "result")
    if result is None:
        steps = list(trajectory(rows, "iteration").values())
        return _measures(steps[0], steps[-1]) if steps else []
    dense, pruned = result["dense"], result["pruned"]
    table = _measures(dense, pruned)
    table.append(
        HeadlineRow(
            metric="Size on disk",
            dense=size(dense["bytes"], dense["bytes"]),
            pruned=size(pruned["bytes"], dense["bytes"]),
            change=kept(dense["bytes"], pruned["bytes"], "smaller", "larger"),
        )
    )
    for runtime, timing in timings(rows).items():
        for batch, found in sorted(
            timing.get("batches", {}).items(), key=lambda item: int(item[0])
        ):
            before, after, speedup = (found[key] for key in ("dense", "pruned", "speedup"))
            unit_of = min(before["median"], after["median"])
            table.append(
                HeadlineRow(
                    metric=f"{RUNTIMES.get(runtime, runtime)}, batch {batch}",
                    dense=duration(before["median"], before["low"], before["high"], unit_of),
                    pruned=duration(after["median"], after["low"], after["high"], unit_of),
                    change=speed_between(speedup["median"], speedup["low"], speedup["high"]),
                )
            )
    return table


def timings(rows: Iterable[Row]) -> dict[str, Row]:
    """Return the latest timing of each runtime, in chronological order."""
    return {row["runtime"]: row for row in of_event(rows, "timing")}


def untimed(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """Return (runtime, reason) of every runtime that could not run the networks."""
    return [
        (RUNTIMES.get(runtime, runtime), row["skipped"])
        for runtime, row in timings(rows).items()
        if "skipped" in row
    ]


def layer_table(rows: Sequence[Row]) -> list[LayerRow]:
    """Return every layer before and after, or an empty list if it is not journalled yet."""
    found = last(rows, "layers")
    return [_layer(layer) for layer in found["layers"]] if found else []


def knowledge(rows: Sequence[Row]) -> dict[int, list[Row]]:
    """Return what the layers explain, by iteration: of the dense network (0) and the latest."""
    found = trajectory(rows, "information")
    return {at: found[at]["layers"] for at in sorted({0, max(found, default=0)} & set(found))}


def knowledge_table(rows: Sequence[Row]) -> list[KnowledgeRow]:
    """Return what each layer of either network explains, with 95 % intervals if measured.

    A layer missing in one of the two is shown as a dash.
    """
    networks = knowledge(rows)
    if not networks:
        return []
    first, newest = (
        {layer["module"]: layer for layer in networks[at(networks)]} for at in (min, max)
    )
    return [
        _known(module, first.get(module), newest.get(module))
        for module in dict.fromkeys([*first, *newest])
    ]


def group_table(rows: Sequence[Row]) -> list[GroupRow]:
    """Return every group that can be pruned, with the units left after the latest cut."""
    graph, cuts = last(rows, "graph"), trajectory(rows, "prune")
    cut = cuts[max(cuts)] if cuts else None
    left = {group["name"]: group["after"] for group in cut["groups"]} if cut else {}
    return [
        GroupRow(
            name=group["name"],
            kind=group["kind"],
            units=grouped(group["units"]),
            left=grouped(left.get(group["name"], group["units"])),
            consumers=", ".join(group["consumers"]),
        )
        for group in (graph["groups"] if graph else [])
    ]


def refusals(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Return (module, reason) of every consumer that a cut could not compensate, once each."""
    refused = (item for row in of_event(rows, "prune") for item in row["not_compensated"])
    return list(dict.fromkeys((item["module"], item["reason"]) for item in refused))


def unscored(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Return (group, reason) of every group that the criterion did not score, once each."""
    groups = (group for row in of_event(rows, "prune") for group in row["groups"])
    found = ((group["name"], group.get("not_scored")) for group in groups)
    return list(dict.fromkeys((name, reason) for name, reason in found if reason is not None))


def explained(layer: Row | None) -> str:
    """Return `97.3 % (96.8–97.7)`, without the interval if there is none."""
    if layer is None:
        return "–"
    if layer["low"] is None or layer["high"] is None:
        return percent(layer["share"], 1)
    low, high = (grouped(100 * layer[bound], 1) for bound in ("low", "high"))
    return f"{percent(layer['share'], 1)} ({low}–{high})"


def gain(layer: Row | None) -> str:
    """Return the difference to what the layer before explains: `+12.30 points`."""
    return "–" if layer is None or layer["gain"] is None else points(0.0, layer["gain"])


def _measures(dense: Row, pruned: Row) -> list[HeadlineRow]:
    """Return the accuracies and costs that both sides have."""
    accuracies = (
        ("Test accuracy", "test_accuracy"),
        ("Validation accuracy", "validation_accuracy"),
    )
    table = [
        HeadlineRow(
            metric=name,
            dense=percent(dense[key]),
            pruned=percent(pruned[key]),
            change=points(dense[key], pruned[key]),
        )
        for name, key in accuracies
        if key in dense
    ]
    costs = (("Parameters", "params"), ("MACs", "macs"))
    return table + [
        HeadlineRow(
            metric=name,
            dense=grouped(dense[key]),
            pruned=grouped(pruned[key]),
            change=kept(dense[key], pruned[key]),
        )
        for name, key in costs
    ]


def _layer(layer: Row) -> LayerRow:
    def share(key: str) -> str:
        before, after = layer[key]
        return percent(after / before, 1) if before else "–"

    return LayerRow(
        module=layer["module"],
        kind=layer["kind"],
        inputs=_arrow(*layer["in"]),
        outputs=_arrow(*layer["out"]),
        params_before=grouped(layer["params"][0]),
        params_after=grouped(layer["params"][1]),
        params_kept=share("params"),
        macs_before=grouped(layer["macs"][0]),
        macs_after=grouped(layer["macs"][1]),
        macs_kept=share("macs"),
    )


def _known(module: str, first: Row | None, newest: Row | None) -> KnowledgeRow:
    sides = [side["features"] for side in (first, newest) if side is not None]
    return KnowledgeRow(
        module=module,
        features=_arrow(sides[0], sides[-1]),
        first=explained(first),
        first_gain=gain(first),
        newest=explained(newest),
        newest_gain=gain(newest),
    )


def _arrow(before: int, after: int) -> str:
    return grouped(before) if before == after else f"{grouped(before)} → {grouped(after)}"
