"""The before/after rows of a run: read the test split once, at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from prunus.evaluation import (
    LatencyTable,
    accuracy,
    count_bytes,
    count_macs,
    count_params,
)
from prunus.graph import collapsed_modules, find_groups
from prunus.graph.costs import raw_layer, reads
from prunus.graph.empty import former_of
from prunus.graph.layers import RawAxis, module_at
from prunus.pipelines.latency import costs_of
from prunus.pipelines.session import Loader

__all__ = ["layer_rows", "result_row"]


def result_row(
    dense: nn.Module,
    pruned: nn.Module,
    *,
    example: Tensor,
    validation: Loader,
    test: Loader | None,
    table: LatencyTable | None = None,
) -> dict[str, Any]:
    """Measure both networks; without a test loader the accuracy on it is left out.

    With a latency table each side also has `predicted_ms`. Latency is measured by `timing_row`.
    `collapsed` names the modules that are left with 1×1 filters alone, where there are any.
    """
    networks = {"dense": dense.cpu().eval(), "pruned": pruned.cpu().eval()}
    row: dict[str, Any] = {}
    for name, network in networks.items():
        row[name] = {
            "validation_accuracy": accuracy(network, validation),
            "params": count_params(network),
            "macs": count_macs(network, example),
            "bytes": count_bytes(network),
        }
        if table is not None:
            row[name]["predicted_ms"] = costs_of(find_groups(network, example[:1]), table)["ms"]
        if test is not None:
            row[name]["test_accuracy"] = accuracy(network, test)
    if collapsed := collapsed_modules(pruned):
        row["collapsed"] = collapsed
    if test is not None:
        row["test_images"] = sum(len(y) for _, y in test)
    return row


def layer_rows(dense: nn.Module, pruned: nn.Module, example: Tensor) -> list[dict[str, Any]]:
    """Return parameters, MACs and channels of each layer, before and after, in running order.

    Numbers of modules that are cut with a layer (heads, widths) are no layers. What went as a
    whole has nothing left.
    """
    sides = [find_groups(network, example).layers for network in (dense, pruned)]
    rows = []
    for name in _running(dense, example, sides[0]):
        before = sides[0][name]
        if before.kind == "Number":
            continue
        after = sides[1].get(name)
        if after is None and former_of(module_at(pruned, name)) is not None:
            after = replace(before, out=0, in_=0)
        if after is None:  # a raw parameter that no group of the pruned network cuts any more
            after = raw_layer(cast(RawAxis, module_at(pruned, name)))
        pairs = [
            (layer, reads(network, name, layer))
            for network, layer in ((dense, before), (pruned, after))
        ]
        rows.append(
            {
                "module": name,
                "kind": before.kind,
                "params": [layer.params(layer.out, in_) for layer, in_ in pairs],
                "macs": [layer.macs(layer.out, in_) for layer, in_ in pairs],
                "out": [layer.out for layer, _ in pairs],
                "in": [in_ for _, in_ in pairs],
            }
        )
    return rows


@torch.no_grad()
def _running(model: nn.Module, example: Tensor, names: Iterable[str]) -> list[str]:
    """Return the names of layers in the order in which they first run.

    What is read without being called runs where the module around it does.
    """
    place: dict[str, int] = {}

    def entered(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            place.setdefault(name, len(place))

        return hook

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            hooks.callback(module.register_forward_pre_hook(entered(name)).remove)
        model(example)

    def first(name: str) -> int:
        while name and name not in place:
            name = name.rpartition(".")[0]
        return place[name]

    return sorted(names, key=lambda name: first(name.partition(":")[0]))
