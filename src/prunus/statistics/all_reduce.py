"""Statistics of several processes: every rank of `torch.distributed` ends with the sums of all.

Each rank passes over its own images; what it summed is added up tensor by tensor, to rank 0 and
from there back, so that all ranks hold the same bits and score and plan alike.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from prunus.core import PlanError
from prunus.statistics.dual import Dual
from prunus.statistics.outputs import Output
from prunus.statistics.ranks import gathered
from prunus.statistics.scatter import Scatter
from prunus.statistics.sketch import Sketch
from prunus.statistics.statistics import Statistics, joined_parents

__all__ = ["all_reduce_"]

#: The tensors of a `Scatter` and of a `Sketch`, and the numbers of a `Dual`, in the order in which
#: they are sent.
PARTS = ("gram", "total", "cross", "teacher_total", "teacher_gram", "weight")
SKETCH = ("rows", "squares", "total", "cross", "teacher_total", "teacher_gram", "weight")
NUMBERS = ("batches", "information", "trace_YY", "samples")


def all_reduce_(statistics: Statistics) -> Statistics:
    """Add up the statistics of all ranks of the default process group, in place; return them.

    Σ over ranks of every sum; block i joins block i, as `Statistics.merge` does; ranges widen.
    Every rank must call it. Afterwards all hold the same numbers bit for bit, those of one pass
    over all images up to float64 rounding. `collect` calls it.

    Traffic: twice the statistics' size per rank, one scatter (8·(F² + F·q) bytes) at a time.

    Raises:
        PlanError: the ranks collected on different networks or in different ways; on all ranks.
    """
    forms = gathered(_form(statistics))
    if len(forms) < 2:
        return statistics
    _require_alike(forms)
    K = max(len(form["block_images"]) for form in forms)
    for b in range(K):
        if b >= statistics.blocks:
            statistics._blocks.append({})
            statistics._dual_blocks.append({})
        statistics._blocks[b] = {
            name: _sum_scatter(statistics, b, name, forms) for name in forms[0]["scatters"]
        }
        statistics._dual_blocks[b] = {
            name: _sum_dual(statistics, b, name, n) for name, n in forms[0]["duals"].items()
        }
    statistics._whole.clear()
    statistics.outputs = {
        name: _sum_output(statistics.outputs[name], [form["outputs"][name] for form in forms])
        for name in forms[0]["outputs"]
    }
    for form in forms:
        statistics._parents = joined_parents(statistics._parents, form["parents"])
    statistics.images = sum(form["images"] for form in forms)
    counts = [form["block_images"] for form in forms]
    statistics.block_images = tuple(sum(of[b] for of in counts if b < len(of)) for b in range(K))
    return statistics


def _form(statistics: Statistics) -> dict[str, Any]:
    """Return what the others must know before sums are added: names, sizes, counts."""
    scatters: dict[str, Any] = {}
    for name in statistics:
        held = [block[name] for block in statistics._blocks]
        ran = [scatter for scatter in held if scatter.samples > 0]
        scatters[name] = (bool(ran), (ran or held)[0].form)
    return {
        "sampling": statistics.sampling,
        "images": statistics.images,
        "block_images": statistics.block_images,
        "scatters": scatters,
        "duals": {name: len(dual.removal) for name, dual in statistics._dual_blocks[0].items()},
        "outputs": {
            name: {part: None if t is None else t.shape for part, t in _tensors(output).items()}
            for name, output in statistics.outputs.items()
        },
        "parents": statistics._parents,
    }


def _require_alike(forms: list[dict[str, Any]]) -> None:
    first = forms[0]
    for rank, form in enumerate(forms):
        if form["sampling"] != first["sampling"]:
            raise PlanError(
                f"rank {rank} sampled by {form['sampling']!r}, rank 0 by {first['sampling']!r}: "
                "collect on all ranks in the same way"
            )
        for part in ("scatters", "duals", "outputs"):
            if alone := set(form[part]) ^ set(first[part]):
                raise PlanError(
                    f"rank {rank} or rank 0 alone has module {min(alone)!r} or its output: collect "
                    "on all ranks on the same network in the same way"
                )
    for name in first["scatters"]:
        ran = {form["scatters"][name][1] for form in forms if form["scatters"][name][0]}
        if len(ran) > 1:
            raise PlanError(
                f"module {name!r} has (teacher columns, features, cells, discrete) "
                f"{' and '.join(map(str, sorted(ran)))} on different ranks: collect on all ranks "
                "with the same teacher and images of one size"
            )


def _sum_scatter(statistics: Statistics, b: int, name: str, forms: list[dict[str, Any]]) -> Scatter:
    """Return the sum over ranks of one consumer in one block."""
    known = [form["scatters"][name] for form in forms]
    if isinstance(like := statistics._blocks[0][name], Sketch):
        return _merge_sketches(statistics._blocks[b].get(name) or _nothing(like))
    form = next((f for ran, f in known if ran), known[0][1])  # of a rank where it ran
    held = statistics._blocks[b].get(name)
    if held is None or held.form != form:
        columns, features, cells, discrete = form
        device = statistics._blocks[0][name].gram.device
        held = Scatter.zeros(features, columns, device, discrete=discrete, cells=cells)
    parts = {part: tensor for part in PARTS if (tensor := getattr(held, part)) is not None}
    summed = _summed(torch.cat([tensor.flatten() for tensor in parts.values()]))
    pieces = torch.split(summed, [tensor.numel() for tensor in parts.values()])
    sums: dict[str, Any] = {
        part: piece.view(parts[part].shape) for part, piece in zip(parts, pieces, strict=True)
    }
    return replace(held, **sums)


def _nothing(like: Sketch) -> Sketch:
    """Return a sketch of no samples in the form of another."""
    columns, features, _, discrete = like.form
    return Sketch.empty(features, columns, like.total.device, discrete=discrete)


def _merge_sketches(held: Scatter) -> Sketch:
    """Return the merged sketch of all ranks, in the order of the ranks."""
    assert isinstance(held, Sketch)
    device = held.total.device
    every: list[Sketch] = gathered(held.to("cpu"))
    ran = [one for one in every if one.samples > 0] or every[:1]
    merged = ran[0].merge(*ran[1:])
    for part in SKETCH:  # by way of rank 0: all get the bits that it has
        tensor = getattr(merged, part)
        if tensor is not None:
            sent = tensor.to(_device())
            dist.broadcast(sent, 0)
            setattr(merged, part, sent.cpu())
    return merged.to(device)


def _sum_dual(statistics: Statistics, b: int, name: str, channels: int) -> Dual:
    device = statistics._dual_blocks[0][name].removal.device
    held = statistics._dual_blocks[b].get(name) or Dual.zeros(channels, device)
    numbers = torch.tensor([getattr(held, n) for n in NUMBERS], dtype=torch.float64, device=device)
    summed = _summed(torch.cat([held.removal, held.slope, numbers]))
    removal, slope, numbers = torch.split(summed, [channels, channels, len(NUMBERS)])
    batches, information, trace, samples = numbers.tolist()
    return Dual(int(batches), information, removal, slope, trace, samples)


def _sum_output(held: Output, shapes: list[dict[str, Any]]) -> Output:
    """Return the sums over ranks; what no rank has stays None."""
    some = next((t for t in _tensors(held).values() if t is not None), None)
    device = _device() if some is None else some.device
    samples = torch.tensor(float(held.samples), dtype=torch.float64, device=device)
    sums: dict[str, Any] = {"samples": int(_summed(samples))}
    for part, tensor in _tensors(held).items():
        shape = next((of[part] for of in shapes if of[part] is not None), None)
        if shape is None:
            sums[part] = None
            continue
        rule, none = {
            "low": (dist.ReduceOp.MIN, torch.inf),
            "high": (dist.ReduceOp.MAX, -torch.inf),
        }.get(part, (dist.ReduceOp.SUM, 0.0))
        if tensor is None:
            tensor = torch.full(shape, none, dtype=torch.float64, device=device)  # noqa: PLW2901
        sums[part] = _summed(tensor.contiguous(), rule)
    return Output(**sums)


def _tensors(output: Output) -> dict[str, Tensor | None]:
    return {part: getattr(output, part) for part in ("gradient", "taylor", "low", "high")}


def _summed(tensor: Tensor, rule: Any = dist.ReduceOp.SUM) -> Tensor:
    """Reduce over all ranks, in place. By way of rank 0: all get the bits that it has."""
    dist.reduce(tensor, 0, rule)
    dist.broadcast(tensor, 0)
    return tensor


def _device() -> torch.device:
    """Return a device that the backend can send from, for when no tensor gives one."""
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
