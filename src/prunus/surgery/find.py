"""`find_groups` with a trial cut: the groups that a network can lose units of."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal
from weakref import WeakKeyDictionary

from torch import nn

from prunus.batches import Example, Inputs
from prunus.graph import Groups
from prunus.graph import find_groups as trace_groups
from prunus.modules import unwrapped
from prunus.surgery.verify import sound_branches, unsound_groups

__all__ = ["find_groups"]

#: What the last trial of a network found, and the state and settings that it was made with.
_TRIALS: WeakKeyDictionary[nn.Module, tuple[Any, dict[str, str]]] = WeakKeyDictionary()


def find_groups(
    model: nn.Module,
    example: Example,
    *,
    ignored_layers: Collection[str] = (),
    inputs: bool = True,
    heads: Literal["whole", "dimensions"] = "whole",
    feature_limit: int = 4096,
    drop_branches: bool = False,
    verify: bool = True,
) -> Groups:
    """Find the groups of coupled units of `model`, their consumers and their cost.

    Args:
        example: one input batch, a tuple of positional or a mapping of named arguments; only its
            shape is used, and its values for the trial cut.
        ignored_layers: names of modules whose outputs are not pruned.
        inputs: whether input pixels and single positions of a flattened feature map are units
            too, removed where a linear layer reads them.
        heads: the units of an attention: `whole` heads, or `dimensions` inside them, the same ones
            in every head. Queries and keys keep theirs if PyTorch's default scale depends on them.
        feature_limit: the widest flattened input that gets a full Gram matrix (8·F² bytes).
            Wider ones share one statistic per channel, and their positions are not units.
        drop_branches: whether a branch of a concatenation may be removed as a whole.
        verify: cut some units of every group from a copy, and compare with the same units masked
            (`unsound_groups`). A group whose cut would not compute the same, for example because
            the forward pass has its width written into it, is left out, with the reason in
            `unprunable`.

    The model is left untouched: tracing runs on a copy, in eval mode; modules that only run in
    training (auxiliary heads) are found by a second trace in training mode. Frozen parameters make
    no difference. Cost: two forward passes of the example, and two for the trial, unless it has
    been made before and no tensor of the network has changed since; where it fails, two or four
    for each group.

    Raises:
        TraceError: the network cannot be run or traced; names the module.
        NonFiniteError: a weight is NaN or infinite; names the tensor.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import prunus
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> groups = prunus.find_groups(net, torch.zeros(1, 4), inputs=False)
        >>> list(groups), groups["0"].units, groups.total_params
        (['0'], 8, 58)
    """
    model = unwrapped(model)
    groups = trace_groups(
        model,
        example,
        ignored_layers=ignored_layers,
        inputs=inputs,
        heads=heads,
        feature_limit=feature_limit,
        drop_branches=drop_branches,
    )
    if not verify:
        return groups
    if drop_branches:
        groups = sound_branches(groups, example)
    state = _state(model, example, groups)
    known = _TRIALS.get(model)
    if known is None or known[0] != state:
        known = state, unsound_groups(groups, example)
        _TRIALS[model] = known
    return groups.without(known[1])


def _state(model: nn.Module, example: Example, groups: Groups) -> Any:
    """Return what a trial depends on: tensors with their versions, shapes, and the groups."""
    tensors = tuple(
        (name, id(t), t._version, tuple(t.shape))
        for name, t in (*model.named_parameters(), *model.named_buffers())
    )
    shapes = tuple((tuple(t.shape), t.dtype) for t in Inputs.of(example).tensors)
    names = tuple((g.name, g.units, tuple(m.module for m in g.members)) for g in groups.values())
    return tensors, shapes, names
