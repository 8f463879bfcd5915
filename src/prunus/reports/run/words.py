"""The journal in sentences: the verdict, the captions of the figures, what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prunus.core import Row, last, of_event, trajectory
from prunus.reports.numbers import counted, grouped, kept, percent, points, speed, times
from prunus.reports.run.layers import lone_convolutions, multiplying
from prunus.reports.run.tables import knowledge, timings, untimed

__all__ = [
    "accuracy_caption",
    "collapsed",
    "failed_exports",
    "failed_measures",
    "headline_caption",
    "knowledge_caption",
    "knowledge_name",
    "layer_caption",
    "missing",
    "score_caption",
    "title",
    "training_caption",
    "verdict",
    "widths_caption",
]


def title(config: Mapping[str, Any]) -> str:
    """Return `lenet5 on digits`, as far as the configuration names them."""
    model, data = (_name(config, *keys) for keys in (("model",), ("data", "dataset")))
    return " on ".join(name for name in (model, data) if name) or "A pruning run"


def verdict(rows: Sequence[Row]) -> str:
    """Return the outcome of the run in one sentence."""
    result = last(rows, "result")
    steps = list(trajectory(rows, "iteration").values())
    if result is None and len(steps) < 2:
        return "Nothing has been pruned yet."
    dense, pruned = (result["dense"], result["pruned"]) if result else (steps[0], steps[-1])
    parts = [
        f"{_fewer(dense[key], pruned[key])} {noun}"
        for key, noun in (("params", "parameters"), ("macs", "MACs"))
    ]
    batches = timings(rows).get("eager", {}).get("batches", {})
    if result and batches:
        batch = max(batches, key=int)
        parts.append(f"{speed(batches[batch]['speedup']['median'])} at batch {batch}")
    key, noun = (
        ("test_accuracy", "test accuracy")
        if "test_accuracy" in dense
        else ("validation_accuracy", "validation accuracy")
    )
    parts.append(f"{noun} {percent(dense[key], 1)} → {percent(pruned[key], 1)}")
    so_far = "" if result else f"So far, after {counted(len(steps) - 1, 'iteration')}: "
    return f"{so_far}{', '.join(parts)}."


def collapsed(rows: Sequence[Row]) -> str:
    """Return which modules have only 1×1 filters left, or an empty string."""
    *names, end = (last(rows, "result") or {}).get("collapsed") or [""]
    if not end:
        return ""
    listed = f"{', '.join(names)} and {end} are" if names else f"{end} is"
    return f"Collapsed: {listed} left with only 1×1 filters."


def missing(rows: Sequence[Row]) -> str:
    """Return where an unfinished journal ends, or an empty string if there is a result."""
    if last(rows, "result") is not None:
        return ""
    if not rows:
        return "Not measured yet: the journal is empty."
    row = rows[-1]
    at = f" of iteration {row['iteration']}" if row.get("iteration") else ""
    return (
        "This run is not finished: its journal ends before the final comparison, "
        f"after “{row['event']}”{at}. The page shows what has been measured so far."
    )


def failed_exports(rows: Sequence[Row]) -> list[Row]:
    """Return the formats that were not written, each once with the last reason."""
    written = {row["format"] for row in of_event(rows, "artefact")}
    written |= {"onnx"} if of_event(rows, "export") else set()
    failed = {row["key"]: row for row in of_event(rows, "failed")}
    return [row for key, row in failed.items() if key not in written and not _is_measure(key)]


def failed_measures(rows: Sequence[Row]) -> list[Row]:
    """Return the measurements at the end that failed, each once with the last reason."""
    result = last(rows, "result")
    done = {f"timing {row['runtime']}" for row in of_event(rows, "timing")}
    done |= {"layers"} if last(rows, "layers") is not None else set()
    if result is not None:
        done |= {"result", "test"} if "test_images" in result else {"result"}
    failed = {row["key"]: row for row in of_event(rows, "failed") if _is_measure(row["key"])}
    return [row for key, row in failed.items() if key not in done]


def _is_measure(key: str) -> bool:
    return key in ("result", "test", "layers") or key.startswith("timing ")


def headline_caption(rows: Sequence[Row]) -> str:
    """Return what was measured on what, and the resolution of the test set."""
    result = last(rows, "result")
    if result is None:
        return (
            "Not measured yet: the run stopped before the test set, the size on disk and the "
            "latency. The pruned network here is that of the latest iteration."
        )
    latency = _timed(rows)
    if "test_images" not in result:
        return f"No test images were given. {latency}"
    images = result["test_images"]
    return (
        f"Test accuracy is measured on {grouped(images)} images, so one image is "
        f"{100 / images:.2f} points. {latency}"
    )


def _timed(rows: Sequence[Row]) -> str:
    """Return how the times were measured, and what could not be timed."""
    text = (
        "Times are for one batch on the CPU, measured alternately for both networks: medians with "
        "their 95 % intervals; a speed-up is the median of the ratios of all rounds."
    )
    for runtime, reason in untimed(rows):
        text += f" {runtime} was not timed: {reason}."
    return text


def widths_caption(rows: Sequence[Row]) -> str:
    """Return the multiple of widths chosen from the latency table and why, or an empty string."""
    found = last(rows, "round_to")
    return f"Chosen from the latency table: {found['reason']}." if found else ""


def accuracy_caption(rows: Sequence[Row]) -> str:
    """Return where the curve starts and ends, and which cut cost most."""
    steps, cuts = trajectory(rows, "iteration"), trajectory(rows, "prune")
    first, final = (list(steps.values())[at] for at in (0, -1))
    text = (
        "Read from right to left. A blue dot is the network after training, an orange diamond "
        "right after a cut and its repair, and the dotted line what training recovered. "
        f"The dense network reaches {percent(first['validation_accuracy'])} with "
        f"{grouped(first['params'])} parameters"
    )
    if len(steps) > 1:
        text += (
            f"; after {counted(len(steps) - 1, 'iteration')}, "
            f"{percent(final['validation_accuracy'])} with {grouped(final['params'])}"
        )
    if not cuts:
        return text + "."
    deepest = max(cuts.values(), key=lambda row: row["validation_before"] - row["validation_cut"])
    cost = 100 * (deepest["validation_before"] - deepest["validation_cut"])
    if cost > 0:
        text += f". The costliest cut, in iteration {deepest['iteration']}, lost {cost:.1f} points"
        trained = steps.get(deepest["iteration"])
        if trained is not None:
            won = 100 * (trained["validation_accuracy"] - deepest["validation_cut"])
            text += f"; training then {'gained' if won >= 0 else 'lost'} {abs(won):.1f}"
    else:
        text += ". No cut lost accuracy before training"
    result = last(rows, "result")
    if result is not None:
        final_accuracy = percent(result["pruned"]["validation_accuracy"])
        text += f". The ring is the finished network, at {final_accuracy}"
    return text + "."


def layer_caption(rows: Sequence[Row]) -> str:
    """Return what is shown, which layers lost most, and how many kept all outputs."""
    found = last(rows, "layers")
    layers = found["layers"] if found else []
    drawn, alone = multiplying(layers), lone_convolutions(layers)
    text = "Grey is the dense network, blue the pruned one; the first layer is on top. "
    if alone:
        everything, theirs = (sum(one["params"][0] for one in some) for some in (drawn, alone))
        text += (
            f"The convolutions have {percent(theirs / everything, 1)} of the parameters shown, so "
            "theirs are also shown separately. "
        )
    if len(drawn) < len(layers):
        text += "Layers without MACs, such as norms, are only in the table. "
    most = [_most(layers, key, noun) for key, noun in (("params", "parameters"), ("macs", "MACs"))]
    if not any(most):
        return text + "No layer lost parameters."
    uncut = sum(layer["out"][0] == layer["out"][1] for layer in drawn)
    kept_all = f"{uncut} of {counted(len(drawn), 'layer')} kept all outputs."
    return " ".join([text.strip(), *filter(None, most), kept_all])


def _most(layers: Sequence[Row], key: str, noun: str) -> str:
    """Return which layer lost most of `key`, or an empty string if none did."""
    removed = sum(layer[key][0] - layer[key][1] for layer in layers)
    if removed <= 0:
        return ""
    most = max(layers, key=lambda layer: layer[key][0] - layer[key][1])
    before, after = most[key]
    return (
        f"{most['module']} lost the most {noun}: {grouped(before - after)} of its "
        f"{grouped(before)}, which is {percent((before - after) / removed, 0)} of all removed."
    )


def knowledge_name(iteration: int) -> str:
    """Return the display name of the network after `iteration`."""
    return f"After iteration {iteration}" if iteration else "Dense network"


def knowledge_caption(rows: Sequence[Row]) -> str:
    """Return what a bar is, where the largest gain is, and the loss of the last layer."""
    networks = knowledge(rows)
    first, newest = (networks[at(networks)] for at in (min, max))
    text = (
        "A bar is the input of a layer. Blue is the share of the class labels’ variance that a "
        "ridge regression on it explains (the span: discriminant information over its maximum), "
        "grey what remains for the layers after it (the residual)."
    )
    if any(layer["low"] is not None for layers in networks.values() for layer in layers):
        text += " Whiskers are 95 % jackknife intervals."
    gains = [layer for layer in first[1:] if layer["gain"] is not None]
    if gains:
        most = max(gains, key=lambda layer: layer["gain"])
        where = f"After iteration {min(networks)}" if min(networks) else "In the dense network"
        text += (
            f" {where}, the largest gain from one layer to the next is at {most['module']}: "
            f"{points(0.0, most['gain'])}."
        )
    if first and newest and len(networks) > 1:
        before, after = first[-1], newest[-1]
        text += (
            f" The last layer, {after['module']}, explained {percent(before['share'], 1)} and now "
            f"explains {percent(after['share'], 1)}."
        )
    return text


def score_caption(row: Row) -> str:
    """Return which cut the panels show and what a bar is."""
    groups = row["groups"]
    units = list(dict.fromkeys(group["score_unit"] for group in groups))
    scale = f" ({units[0]})" if len(units) == 1 else ""
    before, after = (sum(group[key] for group in groups) for key in ("before", "after"))
    return (
        f"The cut of iteration {row['iteration']}, to {row['target']}: {grouped(after)} of "
        f"{counted(before, 'unit')} in {counted(len(groups), 'group')} were kept. Each panel is a "
        f"group; the horizontal axis is the score of a unit{scale}, the vertical axis the number "
        "of units. Orange units were removed, blue ones kept."
    )


def training_caption(rows: Sequence[Row]) -> str:
    """Return how long the training took and where it was best."""
    fits = [row for row in of_event(rows, "fit") if row["epochs"]]
    epochs = [epoch for row in fits for epoch in row["epochs"]]
    best = max(range(len(epochs)), key=lambda at: epochs[at]["validation_accuracy"])
    return (
        f"{counted(len(epochs), 'epoch')} in {counted(len(fits), 'phase')}, "
        f"{grouped(sum(epoch['seconds'] for epoch in epochs))} s in total; a vertical line marks "
        "the start of a phase, with the number of its iteration. The best validation accuracy, "
        f"{percent(epochs[best]['validation_accuracy'])}, was reached in epoch {best + 1}."
    )


def _name(config: Mapping[str, Any], *keys: str) -> str:
    """Return the name under the first of `keys` in the configuration: text, or its `name`."""
    for key in keys:
        value = config.get(key)
        if isinstance(value, Mapping):
            value = value.get("name")
        if value:
            return str(value)
    return ""


def _fewer(before: float, after: float) -> str:
    if before == after or min(before, after) <= 0:
        return "the same" if before == after else kept(before, after)
    return f"{times(before / after)} fewer" if after < before else f"{times(after / before)} more"
