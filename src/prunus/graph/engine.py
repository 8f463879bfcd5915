"""The one place that knows Torch-Pruning's tracer: coupled axes of one network.

Torch-Pruning follows channel indices through sums, concatenations, flattens and splits. What it
cannot follow it often couples wrongly and in silence, so its answers are checked one floor up.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
import torch_pruning as tp
from torch import nn

from prunus.core.errors import TraceError

__all__ = ["Coupling", "couplings"]

#: (module name, "out" or "in") → set of (channel of that axis, unit of the root).
Coupling = dict[tuple[str, str], set[tuple[int, int]]]


def couplings(
    model: nn.Module, example: tuple[Any, ...], roots: list[str]
) -> Iterator[tuple[str, Coupling, str]]:
    """Yield (root, coupling, obstacle) for every root module not yet met as a producer.

    `obstacle` is empty, or names an operation that the coupled channels pass through and that
    cannot be cut. `model` is a private copy: tracing leaves marks on it.

    Raises:
        TraceError: Torch-Pruning could not build its dependency graph.
    """
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    names = {module: name for name, module in model.named_modules()}
    graph = tp.DependencyGraph()
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            graph.build_dependency(model, example, verbose=False)
    except Exception as error:
        raise TraceError(
            f"{type(model).__name__} runs, but its channels cannot be followed "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no text'}): "
            "look for reshapes or indexing by fixed numbers in its forward pass"
        ) from error
    met: set[str] = set()
    for root in roots:
        module = model.get_submodule(root)
        if root in met:
            continue
        if module not in graph.module2node:
            yield root, {}, "the tracer did not meet it: no gradient reaches it"
            continue
        prune_out = graph.get_pruner_of_module(module).prune_out_channels
        group = graph.get_pruning_group(module, prune_out, range(graph.get_out_channels(module)))
        coupling: Coupling = defaultdict(set)
        obstacle = ""
        for item in group:
            target, channels = item.dep.target, item.idxs
            if target.type == tp.ops.OPTYPE.PARAMETER:
                obstacle = "a parameter outside any module shares its channels"
            if target.module not in names:
                continue
            axis = "out" if graph.is_out_channel_pruning_fn(item.dep.handler) else "in"
            units = item.root_idxs if item.root_idxs is not None else channels
            coupling[names[target.module], axis].update(
                (int(c), int(u)) for c, u in zip(channels, units, strict=True)
            )
        met.update(name for name, axis in coupling if axis == "out")
        yield root, dict(coupling), obstacle
