"""One observed forward pass: which modules run, how often, on what, and what reaches the output."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from prunus.batches import Example, Inputs, flatten_tensors
from prunus.core import TraceError
from prunus.graph.flow import PARAMETER, PRODUCT, Dataflow
from prunus.modules import (
    BATCHNORMS,
    CONVOLUTIONS,
    TRANSPOSED,
    Calling,
    Empty,
    Products,
    Scripted,
    is_depthwise,
    is_mixing,
    module_at,
    named_layers,
    plain_attention,
    without_checkpoints,
)

__all__ = ["Probe", "probe"]


@dataclass
class Probe:
    """What was observed in one forward pass.

    `positions`: kernel applications per example, by module. `normalizers`: for every call of a
    module the BatchNorm that reads its output, if it reads no other module's output and nothing
    else reads it, or None; only modules that have one. `ends`: modules whose output reaches the
    network's output with no mixing module or product with a parameter between, `heads` those of
    them that run in evaluation. `starts`: linear modules that read the network's input with no
    mixing module between. `dims`: axes of each module's first input. `uncalled`: layers whose
    weights are read without calling them, among them the `functional` ones, which are parameters of
    other modules; `refused`: parameters that are none, and a function that reads them. `thrice`:
    projections that run once each for queries, keys and values. `worked_out`: layers that compute
    the weight they use, as weight standardisation does, or what they multiply it by. `composite`:
    layers whose output is more than W·x + b, because their forward pass goes on with a norm, an
    activation or a branch.
    """

    order: list[str] = field(default_factory=list)
    positions: collections.Counter[str] = field(default_factory=collections.Counter)
    normalizers: dict[str, tuple[str | None, ...]] = field(default_factory=dict)
    ends: set[str] = field(default_factory=set)
    heads: set[str] = field(default_factory=set)
    starts: set[str] = field(default_factory=set)
    dims: dict[str, int] = field(default_factory=dict)
    uncalled: tuple[str, ...] = ()
    worked_out: tuple[str, ...] = ()
    composite: tuple[str, ...] = ()
    thrice: frozenset[str] = frozenset()
    functional: tuple[str, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)


def probe(model: nn.Module, example: Example) -> Probe:
    """Run `model` on `example` (`Inputs.of`), and return what was seen.

    It runs once, and again where parameters of other modules turn out to be layers. What a tensor
    was computed from is followed operation by operation (`Dataflow`), so gradients make no
    difference: where nothing needs them, or the network switches them off.

    Raises:
        TraceError: the forward pass failed; names the innermost module that was running.
    """
    seen = _observe(model, example, ())
    return _observe(model, example, seen.functional) if seen.functional else seen


def _observe(model: nn.Module, example: Example, functional: Collection[str]) -> Probe:
    """Run `model` once; the parameters `functional` are layers."""
    seen = Probe()
    flow = Dataflow()
    for parameter in model.parameters():
        flow.put(parameter, [PARAMETER])
    names = {module: name for name, module in named_layers(model, functional)}
    running: list[str] = []
    kept: list[Tensor] = []  # keeps tensors alive, so that an id refers to one tensor
    made_by: dict[int, tuple[str, int]] = {}  # the module, and which of its calls
    runs: collections.Counter[str] = collections.Counter()
    consumers: dict[tuple[str, int], list[str]] = collections.defaultdict(list)
    products: dict[int, tuple[Tensor, int]] = {}  # by id: the tensor, and its version
    multiplied: set[str] = set()
    composite: dict[str, None] = {}
    reading: list[Tensor | None] = []  # what the modules that are running were given
    prepared: set[str] = set()  # layers whose product reads something else
    hooks = []
    inputs = Inputs.of(example)
    given = inputs.tensors
    examples = max(1, len(given[0])) if given and given[0].dim() else 1

    def product(read: Tensor, made: Tensor) -> None:
        products[id(made)] = made, _version(made)
        multiplied.update(running[-1:])
        if running and reading[-1] is not None and not _is_same(read, reading[-1]):
            prepared.add(running[-1])

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        running.append(name := names[module])
        read = flatten_tensors([args, kwargs])[:1]
        own = not type(module).forward.__module__.startswith(("torch.nn.", "prunus.modules."))
        reading.append(read[0] if own and read else None)
        if isinstance(module, nn.Linear) and name not in runs and not flow.sources(read):
            seen.starts.add(name)

    def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        name = running.pop()
        reading.pop()
        tensors = flatten_tensors(output)
        read = flatten_tensors([args, kwargs])
        filters = is_depthwise(module)
        layer = filters or is_mixing(module)
        if not tensors or isinstance(module, Empty) or (not layer and any(module.children())):
            return
        if name not in seen.positions:
            seen.order.append(name)
        made = tensors[0]
        for tensor in read[:1]:
            kept.append(tensor)
            if id(tensor) in made_by:
                consumers[made_by[id(tensor)]].append(name)
            seen.dims[name] = tensor.dim()
        kept.append(made)
        if layer and name in multiplied:
            own = products.get(id(made))
            if own is None or own[1] != _version(made):
                composite[name] = None
        multiplied.discard(name)
        if name not in composite:
            made_by[id(made)] = name, runs[name]
        runs[name] += 1
        seen.positions[name] += _positions(module, read, made, examples)
        if layer or isinstance(module, Scripted):
            within = flow.sources(read if filters else tensors)
            if not filters:
                within = frozenset(n for n in within if n.startswith(f"{name}."))
            for tensor in tensors:
                flow.put(tensor, within | {name})

    for module in names:
        hooks.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        hooks.append(module.register_forward_hook(leave, with_kwargs=True))
    try:
        with contextlib.ExitStack() as contexts:
            contexts.enter_context(torch.inference_mode(False))
            contexts.enter_context(torch.no_grad())
            contexts.enter_context(without_checkpoints())
            contexts.enter_context(plain_attention())
            contexts.enter_context(Products(product))
            calls = contexts.enter_context(Calling(model, functional=functional))
            contexts.enter_context(flow)
            outputs = inputs(model)
    except Exception as error:
        where = ".".join(filter(None, running[-1:])) or type(model).__name__
        raise TraceError(
            f"{type(model).__name__} cannot be traced: its module {where!r} "
            f"({_kind(model, where)}) failed on an example of shape {inputs.shapes()}: "
            f"{_first_line(error)}. Give an example that the network accepts, or fix that module"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()

    seen.uncalled = tuple(calls.found)
    seen.functional, seen.refused = calls.functional, calls.refused
    seen.worked_out = tuple(
        name
        for name in seen.order
        if is_mixing(layer := module_at(model, name)) or is_depthwise(layer)
        if id(layer.weight) not in calls.weights or name in prepared
    )
    seen.composite = tuple(composite)
    seen.thrice = frozenset(calls.thrice)
    for name in calls.thrice:  # a third of its rows per call
        seen.positions[name] //= 3
    for name, count in runs.items():
        read_by = [consumers.get((name, call), []) for call in range(count)]
        sole = [by[0] if len(by) == 1 else "" for by in read_by]
        norms = tuple(
            by if by and isinstance(module_at(model, by), BATCHNORMS) and runs[by] == sole.count(by)
            else None
            for by in sole
        )  # fmt: skip
        if any(norms):
            seen.normalizers[name] = norms
    seen.ends = set(flow.sources(flatten_tensors(outputs)) - {PRODUCT})
    seen.heads = set(seen.ends)
    return seen


def _is_same(read: Tensor, given: Tensor) -> bool:
    """Return whether a product reads what its module was given, in whatever shape."""
    if read is given:
        return True
    same = read.numel() == given.numel() and read.dtype == given.dtype
    return same and read.data_ptr() == given.data_ptr()


def _version(tensor: Tensor) -> int:
    """Return how often a tensor was changed in place; inference tensors do not count it."""
    return 0 if tensor.is_inference() else tensor._version


def _positions(module: nn.Module, read: list[Tensor], output: Tensor, examples: int) -> int:
    """Kernel applications per example in one call; the windows of an example may be batch rows."""
    tensor = output
    if isinstance(module, TRANSPOSED):
        tensor = read[0]
    if not output.numel():
        return 0
    if isinstance(module, CONVOLUTIONS):
        return tensor.numel() // tensor.shape[1] // examples
    if isinstance(module, nn.Linear):
        return output.numel() // output.shape[-1] // examples
    return 0


def _kind(model: nn.Module, name: str) -> str:
    try:
        return type(model.get_submodule(name)).__name__
    except AttributeError:
        return type(model).__name__


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
