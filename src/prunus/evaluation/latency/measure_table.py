"""Time every layer of a network in isolation, at a grid of widths: `measure_latency_table`."""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus.batches import Example, Inputs, flatten_tensors
from prunus.core import ConfigError, keeping_random_state
from prunus.evaluation.latency.alone import (
    Shape,
    TimedCall,
    gather_at,
    gather_key,
    layer_at,
    layer_key,
)
from prunus.evaluation.latency.measure_steps import measure_steps
from prunus.evaluation.latency.table import Grid, LatencyTable
from prunus.graph import Groups
from prunus.modules import (
    CONVOLUTIONS,
    SelectLinear,
    bake_,
    calling,
    channel_count,
    is_depthwise,
    is_functional,
    is_mixing,
    module_at,
    private_copy,
)

__all__ = ["measure_latency_table"]

_WARM_UP = 3


@keeping_random_state("latency")
def measure_latency_table(
    model: nn.Module,
    groups: Groups,
    example: Example,
    *,
    batch: int = 1,
    grid: Collection[float] = (0.25, 0.5, 0.75, 1.0),
    repeats: int = 15,
    steps: bool = False,
    progress: Callable[[Iterable[Any]], Iterable[Any]] | None = None,
) -> LatencyTable:
    """Time each distinct layer of `model` at several widths, and the whole network.

    A layer is rebuilt with random weights at each (out, in) of the grid and called with an input
    of the size it has in `model`; its time is the median of `repeats` calls after a warm-up, on the
    CPU, in eval mode, with PyTorch's number of threads. `rest` is the network's total time minus
    that of its layers; if the isolated layers take longer than the whole network, all are scaled
    down, so that the dense total always equals the measured network. For groups whose units are
    removed at their consumers, the selection of the inputs is timed separately.

    Args:
        groups: `find_groups(model, example)`; its layers are timed.
        example: at least one image, or several inputs; the first is repeated to a batch.
        grid: shares of each layer's width, in (0, 1]; the full and the least width are added.
        steps: whether the costliest layers are also timed at consecutive widths
            (`measure_steps`), to choose a multiple of widths.
        progress: wraps the list of distinct layers, to show a progress bar.

    Cost: at most distinct layers × (grid + 1)² × (`repeats` + 3) calls of a layer.

    Raises:
        ConfigError: a share, `batch` or `repeats` is out of range.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import prunus
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> groups = prunus.find_groups(net, torch.zeros(1, 4))
        >>> table = prunus.measure_latency_table(net, groups, torch.zeros(1, 4), repeats=3)
        >>> table.batch, list(table.layers)
        (1, ['0', '2'])
    """
    if batch < 1 or repeats < 1 or not all(0 < share <= 1 for share in grid):
        raise ConfigError(
            f"batch={batch}, repeats={repeats}, grid={tuple(grid)}: expected batch and repeats "
            "of at least 1 and shares in (0, 1]"
        )
    network = private_copy(model).cpu().eval()
    bake_(network)
    x = Inputs.of(example).detached().to("cpu").repeated(batch)
    with torch.inference_mode(), torch.random.fork_rng(devices=[]):
        calls = _calls(network, groups, x)
        gathers = _gathers(network, groups, calls)
        distinct = {key: value for each in calls.values() for key, value in each}
        before = _median(network, x, repeats)
        grids = {}
        for key, (module, shape) in (progress or iter)(list(distinct.items())):
            grids[key] = _time_layer(module, shape, grid, repeats)
        for key, (module, shape) in (each for some in gathers.values() for each in some):
            if key not in grids:
                grids[key] = _time_gather(module, shape, grid, repeats)
        whole = statistics.mean((before, _median(network, x, repeats)))
        stretches = measure_steps(calls, grids, groups) if steps else ()
    layers, selections = (
        {name: tuple(key for key, _ in each) for name, each in some.items()}
        for some in (calls, gathers)
    )
    running = [key for keys in layers.values() for key in keys]
    for name, keys in selections.items():
        if isinstance(network.get_submodule(name), SelectLinear):
            running += keys
    alone = sum(grids[key].ms[-1][-1] for key in running)
    if alone > whole:
        grids = {key: one.scaled(whole / alone) for key, one in grids.items()}
    return LatencyTable(
        grids=grids,
        layers=layers,
        rest=max(0.0, whole - alone),
        batch=batch,
        threads=torch.get_num_threads(),
        machine=_machine(),
        selections=selections,
        steps=stretches,
    )


def _calls(network: nn.Module, groups: Groups, x: Inputs) -> dict[str, list[TimedCall]]:
    """Return the calls of each timed layer in one forward pass: a key, and what to time."""
    calls: dict[str, list[TimedCall]] = {}
    hooks = []
    for name, layer in groups.layers.items():
        module = module_at(network, name)
        if not (layer.mixing or is_depthwise(module)):
            continue
        mine = calls.setdefault(name, [])

        def note(module: nn.Module, args: Any, output: Any, mine: list[TimedCall] = mine) -> None:
            shape = tuple(flatten_tensors(args)[0].shape)
            mine.append((layer_key(module, shape), (module, shape)))

        hooks.append(module.register_forward_hook(note))
    with calling(network, [n for n in groups.uncalled if is_functional(module_at(network, n))]):
        x(network)
    for hook in hooks:
        hook.remove()
    return calls


def _gathers(
    network: nn.Module, groups: Groups, calls: Mapping[str, list[TimedCall]]
) -> dict[str, list[TimedCall]]:
    """Return the selections before linear layers that select inputs now, or may after a cut."""
    may = {m.module for group in groups.values() for m in group.members if m.axis == "select"}
    do = {name for name, module in network.named_modules() if isinstance(module, SelectLinear)}
    return {
        name: [(gather_key(*what), what) for _, what in calls[name]]
        for name in sorted((may | do) & calls.keys())
    }


def _time_layer(module: nn.Module, shape: Shape, grid: Collection[float], repeats: int) -> Grid:
    if is_depthwise(module):
        width = channel_count(module, "out")
        outs, ins = _knots(width, 1, grid), _knots(width, width, grid)
    elif is_mixing(module) and isinstance(module, CONVOLUTIONS):
        step = module.groups
        outs = _knots(module.out_channels, step, grid)
        ins = _knots(module.in_channels, step, grid)
    else:
        outs = _knots(channel_count(module, "out"), 1, grid)
        ins = _knots(channel_count(module, "in"), 1, grid)
    ms = [[_median(*layer_at(module, shape, out, in_), repeats) for in_ in ins] for out in outs]
    return Grid.monotone(outs, ins, ms)


def _time_gather(module: nn.Module, shape: Shape, grid: Collection[float], repeats: int) -> Grid:
    ins = _knots(channel_count(module, "in"), 1, grid)
    ms = [[_median(*gather_at(module, shape, kept), repeats) for kept in ins]]
    return Grid.monotone((1,), ins, ms)


def _knots(width: int, step: int, grid: Collection[float]) -> tuple[int, ...]:
    """Return multiples of `step` near the shares of `width`, including the least and the full."""
    inner = {step * math.ceil(share * width / step) for share in grid}
    return tuple(sorted({step, width} | inner))


def _median(call: Callable[[Any], object], x: Any, repeats: int) -> float:
    """Return the median of the milliseconds of `repeats` calls, after a warm-up."""
    spent = []
    for turn in range(_WARM_UP + repeats):
        begin = time.perf_counter()
        x(call) if isinstance(x, Inputs) else call(x)
        if turn >= _WARM_UP:
            spent.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(spent)


def _machine() -> str:
    """Return the name of the processor, from /proc/cpuinfo or else from Python."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
