"""The before/after rows of a run: read the test split once, at the end."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from prunus.evaluation import (
    LatencyTable,
    accuracy,
    compare_latency,
    count_bytes,
    count_macs,
    count_params,
)
from prunus.graph import find_groups
from prunus.graph.costs import reads
from prunus.pipelines.latency import costs_of
from prunus.pipelines.session import Loader

__all__ = ["BATCHES", "layer_rows", "result_row"]

#: Batch sizes at which latency is measured.
BATCHES = (1, 64)


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

    With a latency table each side also has `predicted_ms`, next to the latency measured at the
    table's batch.
    """
    networks = {"dense": dense.cpu().eval(), "pruned": pruned.cpu().eval()}
    row: dict[str, Any] = {"latency_ratio": {}}
    for name, network in networks.items():
        row[name] = {
            "validation_accuracy": accuracy(network, validation),
            "params": count_params(network),
            "macs": count_macs(network, example),
            "bytes": count_bytes(network),
            "latency": {},
        }
        if table is not None:
            row[name]["predicted_ms"] = costs_of(find_groups(network, example[:1]), table)["ms"]
        if test is not None:
            row[name]["test_accuracy"] = accuracy(network, test)
    if test is not None:
        row["test_images"] = sum(len(y) for _, y in test)
    for batch in sorted({*BATCHES, table.batch if table else 1}):
        images = example[:1].expand(batch, *example.shape[1:]).contiguous()
        before, after, ratio = compare_latency(dense, pruned, images)
        row["dense"]["latency"][str(batch)] = asdict(before)
        row["pruned"]["latency"][str(batch)] = asdict(after)
        row["latency_ratio"][str(batch)] = ratio
    row["threads"] = torch.get_num_threads()
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
