"""Matrix products, convolutions and attention: labels summed over are merged."""

from __future__ import annotations

from torch import Tensor

from prunus.graph.labels import Labels, Track, varying
from prunus.graph.operations.call import Call, meet, opaque, rule
from prunus.graph.operations.reduction import along_axis, channels

__all__ = ["contract"]


def contract(
    call: Call, one: Track, other: Track, shape: tuple[int, ...], name: str
) -> list[Tensor]:
    """Return the arrays of a matrix product over the last axes (…, M, K) × (…, K, N).

    Where the labels of K differ between matrices of a batch (heads), those of one head are merged,
    so heads stay whole; what every head reads stays. With `call.trace.inside_heads` the same index
    of K is removed in every head instead, as it is where the labels do not differ.
    """
    labels, rank = call.labels, len(shape)
    sides = ((one, rank - 1, rank - 2), (other, rank - 2, rank - 1))  # K, and the axis that stays
    out: list[Tensor] = []
    inner: list[list[Tensor]] = [[], []]
    headed = [False, False]
    for side, (track, axis, free) in enumerate(sides):
        for array in [_settled(labels, a) for a in track.arrays]:
            if axis not in varying(array):
                headed[side] |= bool(varying(array) - {free})
                out.append(array)
                continue
            # Tokens of different channels: the same index is removed in all.
            same = labels.join_along(array, [free])
            heads = varying(same) - {axis}
            if heads and not call.trace.inside_heads:
                headed[side] = True
                out.append(labels.join_along(same, [axis]))
                continue
            same = labels.join_along(same, heads)
            inner[side].append(same.transpose(-1, -2) if side else same)
    for side, (track, axis, _) in enumerate(reversed(sides)):
        for array in inner[side]:
            if not inner[1 - side] and headed[1 - side]:
                labels.fix(array, f"{name!r} reads all of it in every head")
            elif not inner[1 - side] and track.shape[axis] > 1:
                labels.fix(array, f"{name!r} sums over it with {track.fixed}")
            for partner in inner[1 - side]:
                labels.join(array, partner)
    kept: list[Tensor] = []
    for array in out:
        for other_array in kept:
            if varying(array) & varying(other_array):
                labels.join(array, other_array)
        if not any(varying(array) <= varying(k) for k in kept):
            kept.append(array)
    return kept


def _settled(labels: Labels, array: Tensor) -> Tensor:
    """Return an array with labels that have been merged written as one."""
    return labels.narrowed(array) if len(varying(array)) > 1 else array


@rule("mm", "bmm", "addmm", "baddbmm", "matmul", "mv", "addmv", "dot")
def _product(call: Call) -> list[Track]:
    tracks, shape = call.tracks, call.shape
    bias, (one, other) = tracks[:-2], tracks[-2:]
    rank = len(one.shape)
    if call.name in ("mv", "addmv", "dot") or rank != len(other.shape):
        return opaque(call)
    arrays = contract(call, one, other, shape, call.name)
    if bias:
        arrays = meet(call.trace, [*bias, Track(shape, arrays)], shape, call.name)
    return [Track(shape, arrays)]


@rule("linear")
def _linear(call: Call) -> list[Track]:
    one, weight, *bias = call.tracks
    rank, shape = len(one.shape), call.shape
    lifted = Track(
        (*(1,) * (rank - 2), *weight.shape[::-1]),
        [a.T[(None,) * (rank - 2)] for a in weight.arrays],
    )
    if rank == 1:
        return opaque(call)
    arrays = contract(call, one, lifted, shape, call.name)
    if bias:
        arrays = meet(call.trace, [*bias, Track(shape, arrays)], shape, call.name)
    return [Track(shape, arrays)]


def _passed_on(call: Call, x: Track, weight: Track) -> list[Tensor]:
    """Return the labels of positions that a convolution with one tap along them keeps apart."""
    rank = len(x.shape)
    stride, padding = (list(call.args[i]) * (rank - 2 if len(call.args[i]) == 1 else 1)
                       for i in (3, 4))  # fmt: skip
    apart = {0} | {
        axis
        for axis in range(2, rank)
        if weight.shape[axis] == stride[axis - 2] == 1 and padding[axis - 2] == 0
    }
    return [a for a in x.arrays if varying(a) and varying(a) <= apart]


def _of_axis(labels: Labels, weight: Track, axis: int) -> Tensor | None:
    """Return one label for each index of an axis of a weight, whatever its other axes have."""
    return channels(labels, Track(weight.shape, weight.along(axis)), axis)


@rule("convolution", "_convolution", "mkldnn_convolution", "thnn_conv2d", "_slow_conv2d_forward")
def _convolution(call: Call) -> list[Track]:
    x, weight, *bias = call.tracks
    labels, shape = call.labels, call.shape
    transposed, groups = bool(call.args[6]), int(call.args[8])
    incoming, width = x.shape[1], shape[1]
    passed = _passed_on(call, x, weight)
    mixed = Track(x.shape, [a for a in x.arrays if all(a is not p for p in passed)])
    read, (own, out) = channels(labels, mixed), call.site.filters
    if out is None and (groups == 1 or not transposed):  # not a layer's own weight
        out = _of_axis(labels, weight, int(transposed))
    if own is None and groups == 1:
        own = _of_axis(labels, weight, int(not transposed))
    if groups > 1 and groups == incoming:
        if read is not None and out is not None:
            labels.join(out, read.repeat_interleave(width // incoming))
        elif out is not None:
            labels.fix(out, "it filters channels that stay")
        if width != incoming and out is not None:
            labels.fix(
                out, "a depthwise convolution with several filters per channel cannot be cut"
            )
    elif own is not None and incoming > 1:
        if read is None:
            labels.fix(own, "what it reads stays")
        else:
            labels.join(own, read)
    elif read is not None:
        labels.fix(read, "a convolution that belongs to no module reads it")
    track = Track(shape, [*along_axis(out, shape), *passed])
    if bias and out is not None:
        b = bias[0]
        lifted = Track((1, *b.shape, *(1,) * (len(shape) - 2)), [
            a.view(1, -1, *(1,) * (len(shape) - 2)) for a in b.arrays
        ])  # fmt: skip
        meet(call.trace, [track, lifted], shape, call.name)
    return [track]


@rule(
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention", "_scaled_dot_product_attention_math",
    "_scaled_dot_product_cudnn_attention", "scaled_dot_product_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)  # fmt: skip
def _attention(call: Call) -> list[Track]:
    q, k, v, *mask = call.tracks
    labels, rank = call.labels, len(q.shape)
    k, v = (_repeated(t, q.shape[-3]) if rank > 3 else t for t in (k, v))
    if call.kwargs.get("scale") is None:
        for array in (_settled(labels, a) for a in q.arrays):
            inside = call.trace.inside_heads and rank - 1 in varying(array)
            if inside or varying(array) == {rank - 1}:
                labels.fix(array, "attention's default scale depends on the dimensions of a head")
    scores = (*q.shape[:-1], k.shape[-2])
    turned = Track((*k.shape[:-2], *k.shape[:-3:-1]), [a.transpose(-1, -2) for a in k.arrays])
    arrays = contract(call, q, turned, scores, "attention")
    weights = Track(scores, arrays)
    if mask:
        weights = Track(scores, meet(call.trace, [weights, *mask[:1]], scores, "attention"))
    arrays = contract(call, weights, v, call.shape, "attention")
    return [Track(call.shape, arrays), *(Track(tuple(t.shape)) for t in call.outputs[1:])]


def _repeated(track: Track, heads: int) -> Track:
    """Return keys or values with each of their heads as often as queries read it."""
    times = heads // track.shape[-3]
    arrays = [a.repeat_interleave(times, -3) if a.shape[-3] > 1 else a for a in track.arrays]
    return Track((*track.shape[:-3], heads, *track.shape[-2:]), arrays)
