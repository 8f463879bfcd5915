"""The groups of the head's input alone: `head_groups`."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from prunus.batches import Example, Inputs
from prunus.graph.consumers import find_consumers
from prunus.graph.groups import Groups
from prunus.graph.probe import probe
from prunus.graph.trace import find_groups
from prunus.modules import is_mixing, module_at, shared_layers, unwrapped, widen

__all__ = ["head_groups"]


def head_groups(model: nn.Module, example: Example, *, feature_limit: int = 4096) -> Groups:
    """Return the head as `find_groups` would, including its positions, with no groups and no costs.

    For statistics of the last hidden layer alone. The head is what makes the network's output in
    evaluation; the model is left untouched. Cost: one forward pass of the example, and those of
    `find_groups` only if the head reads a flattened map wider than `feature_limit`.

    Raises:
        ConfigError: the output is not made by a single layer.
        TraceError: the network cannot be run; names the module.
    """
    model = unwrapped(model)
    wide = widen(model).eval()
    seen = probe(wide, Inputs.of(example).detached(gradient=True))
    heads = tuple(sorted(seen.heads))
    mixing = [name for name in heads if is_mixing(module_at(wide, name))]
    found = Groups.of_consumers(
        model,
        find_consumers(model, wide, mixing, seen, [], feature_limit),
        heads=heads,
        uncalled=seen.uncalled,
        worked_out=seen.worked_out,
        composite=seen.composite,
        tied=shared_layers(wide),
    )
    if len(heads) == 1 and any(consumer.wide for consumer in found.consumers.values()):
        # only groups define how to fold it
        folded = find_groups(model, example, feature_limit=feature_limit).consumers
        found = replace(found, consumers={n: folded[n] for n in mixing if n in folded})
    assert found.head  # otherwise it raises
    return found
