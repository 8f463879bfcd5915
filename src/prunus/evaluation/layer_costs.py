"""Layers of two networks side by side: widths, parameters, MACs, in execution order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn

from prunus.batches import Example, Inputs
from prunus.graph import count_inputs, find_groups, raw_layer
from prunus.modules import RawAxis, former_of, module_at

__all__ = ["layer_rows"]


def layer_rows(dense: nn.Module, pruned: nn.Module, example: Example) -> list[dict[str, Any]]:
    """Return parameters, MACs and channels of each layer, before and after, in execution order.

    Integer attributes that are cut with a layer (heads, widths) do not count as layers. A layer
    that was removed entirely has zero left.
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
            (layer, count_inputs(network, name, layer))
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
def _running(model: nn.Module, example: Example, names: Iterable[str]) -> list[str]:
    """Return the names of layers in the order in which they first run.

    A module that is read without being called is placed where its parent module runs.
    """
    place: dict[str, int] = {}

    def entered(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            place.setdefault(name, len(place))

        return hook

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            hooks.callback(module.register_forward_pre_hook(entered(name)).remove)
        Inputs.of(example)(model)

    def first(name: str) -> int:
        while name and name not in place:
            name = name.rpartition(".")[0]
        return place[name]

    return sorted(names, key=lambda name: first(name.partition(":")[0]))
