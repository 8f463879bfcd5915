"""Pooling, reductions and norms."""

from __future__ import annotations

from torch import Tensor

from prunus.graph.labels import Labels, Track, varying
from prunus.graph.operations.call import Call, rule
from prunus.graph.operations.elementwise import elementwise

__all__ = ["along_axis", "channels", "over_positions"]


def channels(labels: Labels, track: Track, axis: int = 1) -> Tensor | None:
    """Return the label of each channel, one for all its positions; None without labels."""
    found: Tensor | None = None
    for array in track.arrays:
        if array.shape[axis] == 1:
            if varying(array):
                labels.fix(array, "its positions are treated as those of an image")
            continue
        flat = array.movedim(axis, 0).flatten(1)
        labels.join(flat, flat[:, :1])
        if found is not None:
            labels.join(found, flat[:, 0])
        found = flat[:, 0]
    return found


def along_axis(vector: Tensor | None, shape: tuple[int, ...], axis: int = 1) -> list[Tensor]:
    """Return the labels of channels as arrays of a tensor of `shape`."""
    if vector is None or len(vector) == 1:
        return []
    return [vector.view([-1 if d == axis else 1 for d in range(len(shape))])]


@rule(
    "max_pool1d", "max_pool2d", "max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d",
    "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "_adaptive_avg_pool2d",
    "adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d",
    "adaptive_max_pool3d", "fractional_max_pool2d", "fractional_max_pool3d",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d",
    "upsample_bicubic2d", "upsample_linear1d", "upsample_trilinear3d", "_upsample_nearest_exact2d",
    "_upsample_nearest_exact1d", "_upsample_nearest_exact3d",
    "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "grid_sampler_2d",
    "grid_sampler_3d", "roi_align", "roi_pool", "mkldnn_max_pool2d",
    "quantized_max_pool2d", "max_pool2d_with_indices_backward",
)  # fmt: skip
def over_positions(call: Call) -> list[Track]:
    """Pass channels on, each with one label for all positions."""
    x, *places = call.tracks
    for array in (a for t in places for a in t.arrays):
        call.labels.fix(array, f"{call.name!r} reads positions from it")
    axis = -4 if "3d" in call.name else -2 if "1d" in call.name else -3
    axis += len(x.shape)
    arrays = along_axis(channels(call.labels, x, axis), call.shape, axis)
    return [Track(tuple(t.shape), arrays) for t in call.outputs]


def _reduce(call: Call, *, consumes: bool) -> list[Track]:
    x = call.tracks[0]
    rank = len(x.shape)
    axes = call.argument(2 if call.name in ("linalg_vector_norm", "norm") else 1, "dim")
    if isinstance(axes, int):
        axes = [axes]
    gone = {a % rank for a in axes} if axes else set(range(rank))
    if call.name in ("argmax", "argmin") and call.argument(1, "dim") is None:
        gone = set(range(rank))
    found = [Track(tuple(t.shape)) for t in call.outputs]
    for array in x.arrays:
        lost = varying(array) & gone
        if lost and varying(array) - gone:  # several per channel: they are removed together
            array, lost = call.labels.join_along(array, lost), set()  # noqa: PLW2901
        if lost and not consumes:
            call.labels.fix(array, f"{call.name!r} runs over its channels")
        elif lost:
            continue
        else:
            keep = [d for d in range(rank) if d not in gone]
            for track in found:
                if len(track.shape) == rank:
                    track.arrays.append(array)
                elif len(track.shape) == len(keep):
                    track.arrays.append(array.squeeze(tuple(gone)) if gone else array)
    return found


@rule("sum", "nansum")
def _sum(call: Call) -> list[Track]:
    return _reduce(call, consumes=True)


@rule(
    "mean", "amax", "amin", "max", "min", "argmax", "argmin", "var", "std", "var_mean", "std_mean",
    "linalg_vector_norm", "norm", "logsumexp", "prod", "any", "all", "median", "nanmean",
    "aminmax", "count_nonzero", "mode",
)  # fmt: skip
def _mean(call: Call) -> list[Track]:
    if len(call.tracks) > 1:  # the elementwise form of max and min
        return elementwise(call)
    return _reduce(call, consumes=call.site.in_norm)


@rule(
    "_softmax", "_log_softmax", "_safe_softmax", "softmax", "log_softmax", "cumsum", "cumprod",
    "logcumsumexp", "cummax", "cummin", "sort", "topk",
)  # fmt: skip
def _over(call: Call) -> list[Track]:
    x = call.tracks[0]
    position = 2 if call.name == "topk" else 1
    axis = call.argument(position, "dim", -1) % max(len(x.shape), 1)
    arrays = [a for a in x.arrays if a.shape[axis] == 1]
    for array in x.along(axis):
        if len(varying(array)) > 1:
            call.labels.join_along(array, [axis])
            arrays.append(array)
        else:
            call.labels.fix(array, f"{call.name.strip('_')!r} runs over its channels")
    return [Track(tuple(t.shape), arrays) for t in call.outputs]


@rule("tril", "triu")
def _triangle(call: Call) -> list[Track]:
    """Positions of the last two axes decide what stays."""
    x = call.tracks[0]
    last = {len(x.shape) - 1, len(x.shape) - 2}
    for array in (a for a in x.arrays if varying(a) & last):
        call.labels.fix(array, f"{call.name!r} clears its channels by their positions")
    return [Track(call.shape, x.arrays)]


@rule(
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
    "cudnn_batch_norm", "batch_norm", "_batch_norm_with_update", "_batch_norm_no_update",
)  # fmt: skip
def _batch_norm(call: Call) -> list[Track]:
    x, *own = call.tracks
    return _normalise(call, x, own, 1)


@rule("native_group_norm", "group_norm")
def _group_norm(call: Call) -> list[Track]:
    x, *own = call.tracks
    return _normalise(call, x, own, 1)


@rule("native_layer_norm", "layer_norm", "_fused_rms_norm", "rms_norm")
def _layer_norm(call: Call) -> list[Track]:
    x, *own = call.tracks
    if len(call.args[1]) != 1:
        for array in x.arrays:
            call.labels.fix(array, "a norm over several axes reads it")
        return [Track(call.shape)]
    axis = len(x.shape) - 1
    for array in x.along(axis):
        call.trace.sized(array, call.site.module)  # by the shape that it normalises over
    return _normalise(call, x, own, axis)


def _normalise(call: Call, x: Track, own: list[Track], axis: int) -> list[Track]:
    labels, width = call.labels, x.shape[axis]
    vectors = [a.flatten() for t in own for a in t.arrays if t.shape == (width,)]
    if not own:  # no parameters: the width is the module's attribute
        bare = call.site.own("out", width)
        vectors = [] if bare is None else [bare]
    along = x.along(axis)
    for vector in vectors:
        lifted = along_axis(vector, x.shape, axis)
        for array in along:
            for one in lifted:
                labels.join(array, one)
        if not along:
            labels.fix(vector, "what it normalises stays")
    if along and own and not vectors:
        for array in along:
            labels.fix(array, f"{call.name!r} scales it by a tensor of fixed size")
    return [Track(call.shape, x.arrays), *(Track(tuple(t.shape)) for t in call.outputs[1:])]
