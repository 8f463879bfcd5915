"""Operations that move elements: run on the labels themselves."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from prunus.graph.labels import FIXED, Labels, Track, compress, varying
from prunus.graph.operations.call import SLICED, Call, Part, Split, meet, rule

__all__ = ["moved"]


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "unflatten", "flatten")
def _view(call: Call) -> list[Track]:
    source, shape = call.tracks[0], call.shape
    arrays = []
    for array in _apart(call, source):
        before = varying(array)
        laid = compress(array.expand(source.shape).reshape(shape))
        if len(varying(laid)) > len(before):
            call.trace.splits.append(Split(laid))
        call.trace.sized(laid, call.site.module)
        arrays.append(laid)
    return [Track(shape, arrays)]


def _apart(call: Call, source: Track) -> list[Tensor]:
    """Return the arrays of which no two are laid out along one axis of the result.

    An element of (heads, dimensions) may have one label for its head and one for its dimension, but
    not once both are one axis: then heads are removed, and each keeps all of its dimensions.
    """
    kept: list[Tensor] = []
    labels = call.labels
    arrays = sorted(source.arrays, key=lambda a: min(varying(a), default=0))
    for array in reversed(arrays) if call.trace.inside_heads else arrays:
        clash = [
            k
            for k in kept
            if not varying(k) & varying(array)
            and _laid_out(k, source, call.shape) & _laid_out(array, source, call.shape)
        ]
        if clash and (_stays(labels, array) or labels.loose(array)):
            continue
        if clash and all(_stays(labels, k) or labels.loose(k) for k in clash):
            kept = [k for k in kept if all(k is not c for c in clash)]
        elif clash:
            labels.fix(array, f"{call.name!r} puts it on one axis with heads that are removed")
            continue
        kept.append(array)
    return kept


def _laid_out(array: Tensor, source: Track, shape: tuple[int, ...]) -> set[int]:
    """Return the axes along which an array varies after a reshape to `shape`."""
    return varying(compress(array.expand(source.shape).reshape(shape)))


def _stays(labels: Labels, array: Tensor) -> bool:
    """Return whether all labels of an array are fixed."""
    return bool((labels.find(array) == FIXED).all())


@rule(
    "permute", "transpose", "t", "unsqueeze", "squeeze", "flip", "roll", "repeat",
    "unfold", "movedim", "diagonal", "expand_as", "squeeze_",
    "unsqueeze_", "transpose_", "t_", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
    "native_channel_shuffle", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
    "replication_pad1d", "replication_pad2d", "replication_pad3d", "as_strided", "rot90", "numpy_T",
)  # fmt: skip
def _shape(call: Call) -> list[Track]:
    return [moved(call, call.tracks[0])]


def moved(call: Call, source: Track, run: Callable[[Tensor], Tensor] | None = None) -> Track:
    """Run the operation on the labels: float64 holds them exactly, and every kernel takes it."""
    arrays, shape = [], call.shape
    for array in source.arrays:
        full = array.expand(source.shape).double()
        made = run(full) if run else call.func(full, *call.args[1:], **call.kwargs)
        shape = tuple(made.shape)
        arrays.append(compress(made.long()))
    return Track(shape, [a for a in arrays if a.shape and varying(a)])


@rule("expand")
def _expand(call: Call) -> list[Track]:
    """Copies along an axis are as many as their size, which is taken from elsewhere."""
    source, shape = call.tracks[0], call.shape
    made = moved(call, source)
    lead = len(shape) - len(source.shape)
    for axis in range(min(1, len(shape) - 1), len(shape)):
        before = source.shape[axis - lead] if axis >= lead else 1
        if before == 1 < shape[axis]:
            nodes = call.labels.new(shape[axis], loose=True)
            made.arrays.append(nodes.view([-1 if d == axis else 1 for d in range(len(shape))]))
            call.trace.sized(made.arrays[-1], call.site.module)
    return [made]


@rule("view_as_complex")
def _complex(call: Call) -> list[Track]:
    """The last axis holds real and imaginary parts of one number, which is kept or removed."""
    source = call.tracks[0]
    last = len(source.shape) - 1
    arrays = [call.labels.join_along(a, [last]).squeeze(-1) for a in source.arrays]
    return [Track(call.shape, [a for a in arrays if varying(a)])]


@rule("view_as_real")
def _real(call: Call) -> list[Track]:
    return [Track(call.shape, [a.unsqueeze(-1) for a in call.tracks[0].arrays])]


@rule("slice", "narrow")
def _slice(call: Call) -> list[Track]:
    source, axis = call.tracks[0], call.argument(1, "dim", 0) % len(call.tracks[0].shape)
    parts = list(source.parts)
    if call.shape[axis] < source.shape[axis]:
        if source.fresh:  # its parts are written one by one
            parts += [(array, axis) for array in source.along(axis)]
        else:
            source = _whole_heads(call, source, axis)
            for array in source.along(axis):
                _take_part(call, array, axis)
    made = moved(call, source)
    made.fresh, made.parts = source.fresh, parts
    return [made]


def _take_part(call: Call, array: Tensor, axis: int) -> None:
    """Remember one of several equal parts; fix labels of which any others are taken.

    Its size may be taken from the tensor's, or from a number; if it is not, the trial cut fails.
    """
    size, length = array.shape[axis], call.shape[axis]
    start = call.argument(2, "start") or 0
    start = max(start + size, 0) if start < 0 else start
    if length < 2 or size % length or start % length or call.argument(4, "step", 1) != 1:
        call.labels.fix(array, SLICED)
        return
    call.trace.parts.append(Part(array, axis, length))
    call.trace.sized(array.narrow(axis, start, length), call.site.module)


@rule("select")
def _select(call: Call) -> list[Track]:
    source, axis = call.tracks[0], call.argument(1, "dim", 0) % len(call.tracks[0].shape)
    made = moved(call, source)
    if source.fresh:
        left = [(n, a if a is None or a < axis else a - 1 if a > axis else None)
                for n, a in source.parts]  # fmt: skip
        made.fresh, made.parts = True, [*left, *((a, None) for a in source.along(axis))]
    return [made]


def _whole_heads(call: Call, source: Track, axis: int) -> Track:
    """Return labels that differ along other axes too with one along `axis`: heads stay whole."""
    if call.trace.inside_heads:
        return source
    arrays = [
        call.labels.join_along(a, [axis]) if a.shape[axis] > 1 and len(varying(a)) > 1 else a
        for a in source.arrays
    ]
    return Track(source.shape, arrays)


@rule("split", "split_with_sizes", "chunk", "unbind", "split_copy", "unsafe_split", "unsafe_chunk")
def _split(call: Call) -> list[Track]:
    source = call.tracks[0]
    position = 1 if call.name == "unbind" else 2
    axis = call.argument(position, "dim", 0) % len(source.shape)
    found = [Track(tuple(t.shape)) for t in call.outputs]
    for array in source.arrays:
        full = array.expand(
            [
                n if d == axis else a
                for d, (n, a) in enumerate(zip(source.shape, array.shape, strict=True))
            ]
        )
        pieces = list(call.func(full, *call.args[1:], **call.kwargs))
        if array.shape[axis] > 1 and len(pieces) > 1 and call.name != "unbind":
            if len({p.shape[axis] for p in pieces}) == 1:
                call.trace.splits.append(Split(torch.stack(pieces)))
            else:
                call.labels.fix(array, "it is split into unequal parts of fixed sizes")
        for track, piece in zip(found, pieces, strict=True):
            part = compress(piece)
            if varying(part):
                track.arrays.append(part)
                call.trace.sized(part, call.site.module)
    return found


@rule("glu")
def _glu(call: Call) -> list[Track]:
    """First half × sigmoid(second half)."""
    source, axis = call.tracks[0], call.argument(1, "dim", -1) % len(call.tracks[0].shape)
    halves: list[list[Tensor]] = [[], []]
    for array in source.arrays:
        for side, piece in enumerate(
            array.chunk(2, axis) if array.shape[axis] > 1 else [array] * 2
        ):
            halves[side].append(piece)
    tracks = [Track(call.shape, half) for half in halves]
    return [Track(call.shape, meet(call.trace, tracks, call.shape, "glu"))]


@rule("cat", "concat", "stack")
def _cat(call: Call) -> list[Track]:
    tracks, shape = [t for t in call.tracks if t.shape != (0,)], call.shape
    axis = call.argument(1, "dim", 0) % len(shape)
    if call.name == "stack":
        tracks = [
            Track((*t.shape[:axis], 1, *t.shape[axis:]), [a.unsqueeze(axis) for a in t.arrays])
            for t in tracks
        ]
    rest = [Track(t.shape, [a for a in t.arrays if a.shape[axis] == 1]) for t in tracks]
    flat = [Track((*t.shape[:axis], 1, *t.shape[axis + 1 :]), t.arrays) for t in rest]
    arrays = meet(call.trace, flat, (*shape[:axis], 1, *shape[axis + 1 :]), call.name)
    single = axis == 1 and call.name != "stack" and any(t.single is not None for t in tracks)
    along = [_together(call, t, axis) for t in tracks]
    if not single and all(piece is None for piece in along):
        return [Track(shape, arrays)]
    others = {d for piece in along if piece is not None for d in varying(piece) - {axis}}
    pieces = []
    for track, own in zip(tracks, along, strict=True):
        if own is not None:
            piece = own
        elif single and track.single is not None:
            piece = track.single.view([1] * len(shape))
        elif track.shape[axis] == 1 and arrays and others:
            piece = arrays[0]
        else:
            piece = torch.full([1] * len(shape), FIXED)
        pieces.append(
            piece.expand([*piece.shape[:axis], track.shape[axis], *piece.shape[axis + 1 :]])
        )
    sizes = [max(p.shape[d] for p in pieces) for d in range(len(shape))]
    joined = torch.cat(
        [p.expand([p.shape[d] if d == axis else sizes[d] for d in range(len(shape))])
         for p in pieces], axis
    )  # fmt: skip
    arrays = [a for a in arrays if not varying(a) & varying(joined)]
    return [Track(shape, [*arrays, compress(joined)])]


def _together(call: Call, track: Track, axis: int) -> Tensor | None:
    """Return the labels along an axis as one array; None where there are none."""
    along = track.along(axis)
    along = [array for array in along if not _stays(call.labels, array)] or along[:1]
    for other in along[1:]:
        call.labels.join(along[0], other)
    return along[0] if along else None


@rule("constant_pad_nd")
def _pad(call: Call) -> list[Track]:
    source, pad = call.tracks[0], list(call.args[1])
    rank, arrays = len(source.shape), []
    for i in range(len(pad) // 2):
        if pad[2 * i] > 0 or pad[2 * i + 1] > 0:
            source = _whole_heads(call, source, rank - 1 - i)
    for array in source.arrays:
        own = list(pad)
        for i in range(len(pad) // 2):
            if array.shape[rank - 1 - i] == 1:
                own[2 * i : 2 * i + 2] = [0, 0]
        arrays.append(torch.constant_pad_nd(array, own, FIXED))
    return [Track(call.shape, arrays)]
