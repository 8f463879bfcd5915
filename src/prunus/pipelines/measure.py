"""The before/after rows of a run: read the test split once, at the end."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from prunus.evaluation import (
    LatencyTable,
    accuracy,
    count_bytes,
    count_macs,
    count_params,
)
from prunus.graph import find_groups
from prunus.graph.costs import reads
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
    if test is not None:
        row["test_images"] = sum(len(y) for _, y in test)
    return row


def layer_rows(dense: nn.Module, pruned: nn.Module, example: Tensor) -> list[dict[str, Any]]:
    """Return parameters, MACs and channels of each layer, before and after."""
    sides = [find_groups(network, example).layers for network in (dense, pruned)]
    rows = []
    for name, before in sides[0].items():
        pairs = [
            (layer, reads(network, name, layer))
            for network, layer in ((dense, before), (pruned, sides[1][name]))
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
