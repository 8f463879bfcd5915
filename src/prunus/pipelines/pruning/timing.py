"""Timing of dense and pruned network in each runtime: rows `timing` of the journal."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus.batches import Example, Inputs
from prunus.core import ExportError
from prunus.evaluation import (
    LatencyTable,
    RuntimeUnavailableError,
    compare_latency,
    compiled_call,
    eager_call,
    onnx_call,
)
from prunus.export import export_onnx

__all__ = ["BATCHES", "timing_row"]

#: Batch sizes at which networks are timed.
BATCHES = (1, 64)

#: Makes one call per network, for given inputs.
Calls = Callable[[Inputs], Mapping[str, Callable[[], object]]]


def timing_row(
    runtime: str,
    dense: nn.Module,
    pruned: nn.Module,
    example: Example,
    *,
    table: LatencyTable | None = None,
    onnx: Path | None = None,
) -> dict[str, Any]:
    """Time both networks alternately in one runtime, at batches 1, 64 and that of a latency table.

    Args:
        runtime: `eager`, `compile` or `onnxruntime`.
        example: inputs; the first example is repeated to a batch.
        onnx: the pruned network's ONNX file, if it exists; that of the dense network is temporary.

    Returns:
        Under `batches`, by batch: seconds of `dense` and `pruned`, and `speedup` = dense ÷ pruned,
        paired by round; each a median with its 95 % interval. If the runtime cannot run one of the
        networks, `skipped` is the reason instead.
    """
    example = Inputs.of(example)
    row: dict[str, Any] = {"threads": torch.get_num_threads()}
    try:
        with _prepared(runtime, {"dense": dense, "pruned": pruned}, example, onnx) as calls:
            batches = sorted({*BATCHES, table.batch if table else 1})
            row["batches"] = {str(batch): _compared(calls, example, batch) for batch in batches}
    except (RuntimeUnavailableError, ExportError) as error:
        return {**row, "skipped": str(error)}
    return row


def _compared(calls: Calls, example: Inputs, batch: int) -> dict[str, Any]:
    found = compare_latency(calls(example.repeated(batch)))
    return {
        "dense": asdict(found.latency("dense")),
        "pruned": asdict(found.latency("pruned")),
        "speedup": asdict(found.speedup("dense", "pruned")),
        "rounds": found.rounds,
    }


@contextmanager
def _prepared(
    runtime: str, networks: Mapping[str, nn.Module], example: Inputs, onnx: Path | None
) -> Iterator[Calls]:
    """Yield a function that makes one call per network; ONNX files exist only within the block."""
    if runtime == "onnxruntime":
        with tempfile.TemporaryDirectory() as folder:
            paths = {name: Path(folder) / f"{name}.onnx" for name in networks}
            if onnx is not None:
                paths["pruned"] = onnx
            for name, path in paths.items():
                if not path.exists():
                    export_onnx(networks[name], example, path)
            yield lambda images: {name: onnx_call(path, images) for name, path in paths.items()}
    elif runtime == "compile":

        def compiled(images: Inputs) -> Mapping[str, Callable[[], object]]:
            torch.compiler.reset()  # compilations for other shapes count towards PyTorch's limit
            return {name: compiled_call(network, images) for name, network in networks.items()}

        yield compiled
    else:
        yield lambda images: {name: eager_call(net, images) for name, net in networks.items()}
