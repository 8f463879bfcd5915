"""Trace a network into groups: `find_groups`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from contextlib import ExitStack
from dataclasses import replace
from typing import Literal

import torch
from torch import nn

from prunus.batches import Example, Inputs
from prunus.core import NonFiniteError, TraceError, first_non_finite, keeping_random_state
from prunus.graph.branches import let_branches_go
from prunus.graph.consumers import find_consumers
from prunus.graph.costs import Layer, count_bytes, count_inputs, find_layers
from prunus.graph.counting import Counter, count_macs
from prunus.graph.couple import NotFollowedError, checked_group
from prunus.graph.engine import Coupling, couplings
from prunus.graph.groups import Consumer, Group, Groups, Member, Product, Unprunable
from prunus.graph.probe import Probe, probe
from prunus.graph.products import Tally
from prunus.modules import (
    baked_kinds,
    calling,
    can_select,
    is_mixing,
    module_at,
    named_layers,
    place_of,
    plain_attention,
    private_copy,
    raw_weights,
    shared_layers,
    unwrapped,
    widen,
    without_checkpoints,
)

__all__ = ["find_groups"]

#: Functions that multiply, and what a parameter must be to be a layer's weight.
MULTIPLYING = {
    "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "baddbmm", "einsum", "tensordot",
    "linear", "bilinear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d",
    "conv_transpose3d", "mv", "inner",
}  # fmt: skip
#: Functions that add a parameter to what a layer makes.
ADDING = ("add", "add_", "__add__", "__radd__", "__iadd__", "sub", "__sub__")

ALONE = "only one that is multiplied whole, and in one way, as a layer's weight is can be a layer"


@torch.inference_mode(False)
@keeping_random_state("groups")
def find_groups(
    model: nn.Module,
    example: Example,
    *,
    ignored_layers: Collection[str] = (),
    inputs: bool = True,
    heads: Literal["whole", "dimensions"] = "whole",
    feature_limit: int = 4096,
    drop_branches: bool = False,
) -> Groups:
    """Trace the groups of coupled units of `model`, their consumers and their cost.

    Nothing is cut to try whether the groups are right: `prunus.find_groups` does that as well.

    Args:
        example: one input batch, a tuple of positional or a mapping of named arguments, or
            `Inputs`; only shapes are used.
        ignored_layers: names of modules whose outputs are not pruned.
        inputs: whether input pixels and single positions of a flattened feature map are units
            too, removed where a linear layer reads them.
        heads: the units of an attention: `whole` heads, or `dimensions` inside them, the same ones
            in every head. Queries and keys keep theirs if PyTorch's default scale depends on them.
        feature_limit: the widest flattened input that gets a full Gram matrix (8·F² bytes).
            Wider ones share one statistic per channel, and their positions are not units; other
            wide inputs are summed as a `Sketch`.
        drop_branches: whether a branch of a concatenation may be removed as a whole
            (`let_branches_go`).

    The model is left untouched: tracing runs on a copy, in eval mode; modules that only run in
    training (auxiliary heads) are found by a second trace in training mode. Frozen parameters make
    no difference. Cost: two forward passes of the example; a third where parameters outside any
    layer are multiplied as a layer's weight is, and one of a single example where the network looks
    at values or a batch does not cost as many times as much.

    Raises:
        TraceError: the network cannot be run or traced; names the module.
        ConfigError: the network is quantised, sharded or not initialised.
        NonFiniteError: a weight is NaN or infinite; names the tensor.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from prunus.graph import find_groups
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> groups = find_groups(net, torch.zeros(1, 4), inputs=False)
        >>> list(groups), groups["0"].units, groups.total_params
        (['0'], 8, 58)
    """
    model = unwrapped(model)
    _check_finite(model)
    arguments = Inputs.of(example).detached(gradient=True)
    wide = widen(model).eval()
    seen, arguments, whole = _probe_all(wide, arguments)
    mixing = [n for n, m in named_layers(wide, seen.functional) if is_mixing(m)]
    reasons: dict[str, str] = {
        n: "it does not run in the forward pass" for n in mixing if n not in seen.positions
    }
    reasons |= dict.fromkeys(sorted(seen.ends), "its outputs are the network's outputs")
    ignored = {module for name, module in wide.named_modules() if name in ignored_layers}
    within = [n for n in seen.functional if place_of(wide, n)[0] in ignored]
    reasons |= dict.fromkeys([*ignored_layers, *within], "it is in ignored_layers")

    running = [n for n in mixing if n in seen.positions]
    record = Tally()
    found, rejected = _couple(
        wide,
        couplings(
            private_copy(whole),
            arguments,
            running,
            seen.uncalled,
            inside_heads=heads == "dimensions",
            singles=drop_branches,
            record=record,
            functional=seen.functional,
        ),
        reasons,
    )
    rejected += [Unprunable(n, reasons[n]) for n in mixing if n not in seen.positions]
    rejected += _raw(wide, seen, found)
    consumers = find_consumers(model, wide, mixing, seen, found, feature_limit)
    tied = shared_layers(wide)
    if inputs:
        found = _selections(model, found, consumers, seen, {*ignored_layers, *tied}) + found
    layers = find_layers(model, wide, seen, {m.module for g in found for m in g.members})
    total_macs = count_macs(model, arguments)
    layers, products = _multiplied(model, wide, arguments, seen, layers, record, found, total_macs)
    made = Groups(
        model=model,
        entries=tuple(found),
        consumers=consumers,
        layers=layers,
        total_params=sum(p.numel() for p in model.parameters()),
        total_macs=total_macs,
        total_bytes=count_bytes(model),
        unprunable=tuple(rejected),
        normalizer={n: one for n, norms in seen.normalizers.items() if (one := _sole(norms))},
        uncalled=seen.uncalled,
        worked_out=seen.worked_out,
        composite=seen.composite,
        tied=tied,
        baked=baked_kinds(model),
        normalizers=seen.normalizers,
        heads=tuple(sorted(seen.heads)),
        products=products,
    )
    return let_branches_go(made) if drop_branches else made


def _sole(norms: tuple[str | None, ...]) -> str | None:
    """Return the norm that follows every call of a module, if it is always the same."""
    return norms[0] if len(set(norms)) == 1 else None


def _multiplied(
    model: nn.Module,
    wide: nn.Module,
    arguments: Inputs,
    seen: Probe,
    layers: dict[str, Layer],
    record: Tally,
    groups: list[Group],
    total: int,
) -> tuple[dict[str, Layer], tuple[Product, ...]]:
    """Return the layers with the positions that their products have, and all other products.

    What was recorded is one evaluation of a batch, or of a network in training mode. Unless its
    MACs are those of one example, times the batch, one example is run in evaluation.
    """
    kernels = {
        name: layer.kernel(layer.out, layer.in_) for name, layer in layers.items() if layer.taps
    }
    unread = {  # columns of a layer that reads a subset of its input
        name: kernels[name] - layer.kernel(layer.out, count_inputs(model, name, layer))
        for name, layer in layers.items()
        if name in kernels
    }
    single = None
    for _ in range(2):
        times, products = record.finish(groups, kernels, arguments.size, single, seen.thrice)
        held = {p.layer for p in products}
        whole = sum(p.macs for p in products)
        whole += sum(n * kernels[name] for name, n in times.items() if name not in held)
        if (
            single is not None
            or whole - sum(n * unread[name] for name, n in times.items()) == total
        ):
            break
        try:
            single = _single(wide, arguments, seen)
        except Exception:  # an example alone may fail in any way, as in training mode
            break
    layers = {
        name: replace(layer, positions=times.get(name, 0)) if name in kernels else layer
        for name, layer in layers.items()
    }
    return layers, tuple(p for p in products if p.layer or p.axes)


def _single(wide: nn.Module, arguments: Inputs, seen: Probe) -> list[tuple[str, str, int]]:
    """Return module, operation and MACs of each product of one example in evaluation."""
    model = private_copy(wide).eval()
    names = {module: name for name, module in named_layers(model, seen.functional)}
    running: list[str] = [""]
    found: list[tuple[str, str, int]] = []
    with ExitStack() as stack:
        for module in names:
            enter = module.register_forward_pre_hook(lambda m, _: running.append(names[m]))
            leave = module.register_forward_hook(lambda *_: running.pop() and None)
            stack.callback(enter.remove)
            stack.callback(leave.remove)
        for context in (torch.no_grad(), plain_attention(), without_checkpoints()):
            stack.enter_context(context)
        stack.enter_context(calling(model, seen.uncalled))
        stack.enter_context(Counter(lambda name, macs: found.append((running[-1], name, macs))))
        arguments.first(1)(model)
    return found


def _probe_all(wide: nn.Module, arguments: Inputs) -> tuple[Probe, Inputs, nn.Module]:
    """Probe in eval mode, and in training mode too where modules are left out.

    Returns what was seen, and the arguments and the network with which all of it runs; the
    network is in the mode in which it is to be followed.
    """
    seen = probe(private_copy(wide), arguments)
    idle = [n for n, m in named_layers(wide) if is_mixing(m) and n not in seen.positions]
    if not idle:
        return seen, arguments, wide
    twice = Inputs.joined([arguments, arguments]).detached(gradient=True)
    training = private_copy(wide).train()
    try:
        full = probe(private_copy(training), twice)
    except TraceError:
        return seen, arguments, wide
    full.positions = seen.positions | full.positions.__class__(
        {n: c for n, c in full.positions.items() if n not in seen.positions}
    )
    full.ends |= seen.ends
    full.composite = tuple(dict.fromkeys([*seen.composite, *full.composite]))
    full.heads = seen.heads
    return full, twice, training


def _couple(
    wide: nn.Module, found: Iterable[tuple[str, Coupling, str]], reasons: dict[str, str]
) -> tuple[list[Group], list[Unprunable]]:
    """Keep the couplings that can be cut exactly; a channel may belong to only one group."""
    groups: list[Group] = []
    rejected: list[Unprunable] = []
    owners: dict[tuple[str, str, int], set[str]] = defaultdict(set)
    for root, coupling, obstacle in found:
        for (module, axis), pairs in coupling.items():
            for channel, _ in pairs:
                owners[module, axis, channel].add(root)
        try:
            groups.append(checked_group(wide, root, coupling, obstacle, reasons))
        except NotFollowedError as reason:
            rejected.append(Unprunable(root, str(reason)))
    contested = {root: key[0] for key, roots in owners.items() if len(roots) > 1 for root in roots}
    for group in [g for g in groups if g.name in contested]:
        groups.remove(group)
        where = contested[group.name]
        rejected.append(Unprunable(group.name, f"{where} also belongs to another group (shared)"))
    return groups, rejected


def _raw(wide: nn.Module, seen: Probe, groups: list[Group]) -> list[Unprunable]:
    """Return the parameters that are multiplied as no layer's weight is, and not cut with a layer.

    Where nothing at all can be cut, all parameters with an input and an output are named, but for
    those that are added, such as positions.
    """
    cut = {m.module.rpartition(":")[0] for group in groups for m in group.members}
    found = []
    for name in raw_weights(wide).values():
        how = seen.refused.get(name)
        sizes = [n for n in wide.get_parameter(name).shape if n > 1]
        if how is None or name in cut or len(sizes) < 2:
            continue
        if how in MULTIPLYING or (not groups and how not in ADDING):
            found.append(Unprunable(name, f"it is a parameter that {how!r} reads: {ALONE}"))
    return found


def _selections(
    model: nn.Module,
    found: list[Group],
    consumers: dict[str, Consumer],
    seen: Probe,
    ignored: set[str],
) -> list[Group]:
    """Return the groups of units that only their consumer can remove."""
    flattened = {m.module for g in found for m in g.consumers if g.flattens(m)}
    groups = []
    for name, consumer in consumers.items():
        linear = can_select(module_at(model, name)) and seen.dims[name] == 2
        folded = consumer.wide or consumer.positions.shape[1] > 1
        if not linear or folded or name in ignored:
            continue
        if name not in flattened and name not in seen.starts:
            continue
        kind = "inputs" if name in seen.starts else "features"
        member = Member(name, "select", consumer.positions)
        groups.append(Group(f"{name}.{kind}", kind, len(consumer.positions), (member,)))  # type: ignore[arg-type]
    return groups


def _check_finite(model: nn.Module) -> None:
    name = first_non_finite(model, model.state_dict())
    if name is not None:
        module = name.rpartition(".")[0] or type(model).__name__
        raise NonFiniteError(
            f"the weights of module {module!r} hold NaN or infinity (tensor {name!r}): "
            "prune a network whose training did not diverge"
        )
