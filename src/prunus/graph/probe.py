"""One observed forward pass: which modules run, how often, on what, and what reaches the output."""

from __future__ import annotations

import collections
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from prunus.batches import Example, Inputs, flatten_tensors
from prunus.core import TraceError
from prunus.modules import (
    BATCHNORMS,
    CONVOLUTIONS,
    TRANSPOSED,
    Calling,
    Empty,
    Scripted,
    is_depthwise,
    is_mixing,
    module_at,
    named_layers,
    plain_attention,
)

__all__ = ["Probe", "probe"]


@dataclass
class Probe:
    """What was observed in one forward pass.

    `positions`: kernel applications per example, by module. `normalizers`: for every call of a
    module the BatchNorm that reads its output, if it reads no other module's output and nothing
    else reads it, or None; only modules that have one. `ends`: modules whose output reaches the
    network's output with no mixing module between, `heads` those of them that run in evaluation.
    `starts`: linear modules that read the
    network's input with no mixing module between. `dims`: axes of each module's first input.
    `uncalled`: layers whose weights are read without calling them. `worked_out`: layers that
    compute the weight they use, as weight standardisation does.
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


def probe(model: nn.Module, example: Example) -> Probe:
    """Run `model` once on `example` (`Inputs.of`) with gradients on, and return what was seen.

    Raises:
        TraceError: the forward pass failed; names the innermost module that was running.
    """
    seen = Probe()
    names = {module: name for name, module in named_layers(model)}
    running: list[str] = []
    kept: list[Tensor] = []  # keeps tensors alive, so that an id refers to one tensor
    made_by: dict[int, tuple[str, int]] = {}  # the module, and which of its calls
    runs: collections.Counter[str] = collections.Counter()
    node_of: dict[Any, str] = {}
    consumers: dict[tuple[str, int], list[str]] = collections.defaultdict(list)
    inputs_of: dict[str, Tensor] = {}
    hooks = []
    inputs = Inputs.of(example)
    given = inputs.tensors
    examples = max(1, len(given[0])) if given and given[0].dim() else 1

    def enter(module: nn.Module, _: Any) -> None:
        running.append(names[module])

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        name = running.pop()
        tensors = flatten_tensors(output)
        if any(True for _ in module.children()) or not tensors or isinstance(module, Empty):
            return
        if name not in seen.positions:
            seen.order.append(name)
        made = tensors[0]
        for tensor in flatten_tensors(args)[:1]:
            kept.append(tensor)
            if id(tensor) in made_by:
                consumers[made_by[id(tensor)]].append(name)
            inputs_of.setdefault(name, tensor)
            seen.dims[name] = tensor.dim()
        kept.append(made)
        made_by[id(made)] = name, runs[name]
        runs[name] += 1
        seen.positions[name] += _positions(module, args, made, examples)
        if is_mixing(module) or is_depthwise(module) or isinstance(module, Scripted):
            node_of[made.grad_fn] = name

    for module in names:
        hooks.append(module.register_forward_pre_hook(enter))
        hooks.append(module.register_forward_hook(leave))
    try:
        with torch.enable_grad(), plain_attention(), Calling(model) as calls:
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
    seen.worked_out = tuple(
        name
        for name in seen.order
        if is_mixing(layer := module_at(model, name)) or is_depthwise(layer)
        if id(layer.weight) not in calls.weights
    )
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
    mixing = {n: m for n, m in node_of.items() if not is_depthwise(module_at(model, m))}
    seen.ends = _reach((t.grad_fn for t in flatten_tensors(outputs)), node_of, mixing)
    seen.heads = set(seen.ends)
    for name, tensor in inputs_of.items():
        if isinstance(module_at(model, name), nn.Linear):
            reached = _reach([tensor.grad_fn], node_of, mixing)
            if not reached:
                seen.starts.add(name)
    return seen


def _reach(nodes: Iterable[Any], node_of: dict[Any, str], stop: dict[Any, str]) -> set[str]:
    """Walk the autograd graph backwards from `nodes` up to the first mixing modules."""
    found: set[str] = set()
    stack, visited = [node for node in nodes if node is not None], set()
    while stack:
        node = stack.pop()
        if node in visited:
            continue
        visited.add(node)
        if node in node_of:
            found.add(node_of[node])
            if node in stop:
                continue
        stack.extend(parent for parent, _ in node.next_functions if parent is not None)
    return found


def _positions(module: nn.Module, args: Any, output: Tensor, examples: int) -> int:
    """Kernel applications per example in one call; the windows of an example may be batch rows."""
    tensor = output
    if isinstance(module, TRANSPOSED):
        tensor = flatten_tensors(args)[0]
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
