"""Operations that read or write at given places: lookups, scatters, sliding windows."""

from __future__ import annotations

import torch
from torch import Tensor

from prunus.graph.labels import Track
from prunus.graph.operations.call import Call, meet, rule
from prunus.graph.operations.reduction import along_axis, channels
from prunus.graph.operations.shape import moved

__all__: list[str] = []


def _fix_places(call: Call, tracks: list[Track]) -> None:
    """Fix the labels of tensors that say where something is read or written."""
    for array in (a for track in tracks for a in track.arrays):
        call.labels.fix(array, f"{call.name!r} takes places from it")


@rule("index", "index_select")
def _lookup(call: Call) -> list[Track]:
    source, *places = call.tracks
    _fix_places(call, places)
    return [moved(call, source)]


@rule("embedding")
def _embedding(call: Call) -> list[Track]:
    """A row of the table for each token, which stays if its token does."""
    table, tokens = call.tracks
    for array in table.along(0):
        call.labels.fix(array, "a token may be any of its rows")
    rank = len(call.shape)
    columns = [a[(None,) * (rank - 2)] for a in table.arrays if a.shape[0] == 1]
    made = Track((*(1,) * (rank - 1), call.shape[-1]), columns)
    read = Track((*tokens.shape, 1), [a.unsqueeze(-1) for a in tokens.arrays])
    return [Track(call.shape, meet(call.trace, [made, read], call.shape, call.name))]


@rule("gather")
def _gather(call: Call) -> list[Track]:
    source, places = call.tracks
    axis = call.argument(1, "dim") % max(len(source.shape), 1)
    for array in source.along(axis):
        call.labels.fix(array, "'gather' picks among its channels")
    made = moved(call, Track(source.shape, [a for a in source.arrays if a.shape[axis] == 1]))
    if not made.arrays:
        made.source = "what it picks"
    return [Track(call.shape, meet(call.trace, [made, places], call.shape, call.name))]


@rule(
    "scatter", "scatter_add", "scatter_reduce", "index_add", "index_copy", "index_fill",
    "index_reduce",
)  # fmt: skip
def _scatter(call: Call) -> list[Track]:
    """Labels along the written axis stay; along the others those of both tensors meet."""
    into, places, *read = call.tracks
    rank, shape = len(into.shape), call.shape
    axis = call.argument(1, "dim") % max(rank, 1)
    parts = [into]
    for track in (places, *read):
        if len(track.shape) == rank:
            parts.append(track)
        else:
            _fix_places(call, [track])
    rest = []
    for track in parts:
        for array in track.along(axis):
            call.labels.fix(array, f"{call.name!r} writes at given places along it")
        shape = (*track.shape[:axis], 1, *track.shape[axis + 1 :])
        rest.append(Track(shape, [a for a in track.arrays if a.shape[axis] == 1]))
    narrow = tuple(max(t.shape[d] for t in rest) for d in range(rank))
    return [Track(call.shape, meet(call.trace, rest, narrow, call.name))]


@rule("index_put", "_index_put_impl")
def _index_put(call: Call) -> list[Track]:
    """What is written meets what was there."""
    into, *others = call.tracks
    indices, values = call.argument(1, "indices"), others[-1]
    _fix_places(call, others[:-1])
    there = moved(call, into, lambda t: torch.ops.aten.index.Tensor(t, indices))
    if not there.arrays and not values.arrays:
        return [Track(call.shape, into.arrays)]
    meet(call.trace, [there, values], there.shape, call.name)
    return [Track(call.shape, into.arrays)]


@rule("im2col")
def _im2col(call: Call) -> list[Track]:
    """(…, C, H, W) → (…, C·taps, windows)."""
    x = call.tracks[0]
    labels = channels(call.labels, x, len(x.shape) - 3)
    if labels is None:
        return [Track(call.shape)]
    axis = len(call.shape) - 2
    taps = call.shape[axis] // len(labels)
    return [Track(call.shape, along_axis(labels.repeat_interleave(taps), call.shape, axis))]


@rule("col2im")
def _col2im(call: Call) -> list[Track]:
    """(…, C·taps, windows) → (…, C, H, W)."""
    x = call.tracks[0]
    labels = channels(call.labels, x, len(x.shape) - 2)
    if labels is None:
        return [Track(call.shape)]
    axis = len(call.shape) - 3
    taps = labels.view(call.shape[axis], -1)
    first: Tensor = call.labels.join_along(taps, [1])
    return [Track(call.shape, along_axis(first.flatten(), call.shape, axis))]
