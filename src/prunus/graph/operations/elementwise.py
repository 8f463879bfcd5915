"""Elementwise operations, and copies."""

from __future__ import annotations

from prunus.graph.labels import Track
from prunus.graph.operations.call import Call, meet, rule

__all__ = ["LABELLING", "elementwise", "same"]

#: Operations that make a tensor filled with one number (or to be filled).
FRESH = (
    "zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty",
)  # fmt: skip
#: Operations whose results have labels even if no operand has any.
LABELLING = frozenset((*FRESH, "expand"))


@rule(
    "_prelu_kernel", "masked_fill", "where", "native_dropout", "lerp", "addcmul", "addcdiv",
    "copy_", "rrelu_with_noise", "fill_", "zero_", "dropout", "alpha_dropout", "hardswish",
    "hardsigmoid", "hardtanh", "elu", "celu", "selu", "mish", "silu", "gelu", "leaky_relu",
    "threshold", "softplus", "softshrink", "hardshrink", "log_sigmoid_forward", "relu6", "prelu",
    "nan_to_num", "isnan", "floor_divide", "rsub", "polar", "complex", "fill", "copy",
    "fake_quantize_per_tensor_affine_cachemask",
)  # fmt: skip
def elementwise(call: Call) -> list[Track]:
    """Join the labels that meet."""
    shape = call.shape
    if call.writes:
        _fix_parts(call)
    arrays = meet(call.trace, call.tracks, shape, call.name)
    return [Track(tuple(t.shape), arrays if t.dim() == len(shape) else []) for t in call.outputs]


@rule(
    "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "bernoulli",
    "normal", "uniform", "exponential", "detach", "clone", "_to_copy", "to", "contiguous", "alias",
    "lift_fresh", "lift_fresh_copy", "_conj", "_neg_view",
)  # fmt: skip
def same(call: Call) -> list[Track]:
    """Pass labels on unchanged."""
    return [Track(call.shape, call.tracks[0].arrays)] if call.tracks else [Track(call.shape)]


def _fix_parts(call: Call) -> None:
    """Fix labels of a tensor filled with one number where other numbers are written at places."""
    written, *read = call.tracks
    for nodes, axis in written.parts:
        if axis is None or not any(
            len(t.shape) == len(written.shape) and t.along(axis) for t in read
        ):
            call.labels.fix(nodes, f"{call.name!r} writes numbers at fixed places among them")


@rule(*FRESH)
def _fresh(call: Call) -> list[Track]:
    """A tensor filled with one number: each axis can be cut if its size is taken from elsewhere."""
    shape = call.shape
    track = Track(shape, fresh=True)
    for axis, size in enumerate(shape):
        if size > 1:
            nodes = call.labels.new(size, loose=True)
            track.arrays.append(nodes.view([-1 if d == axis else 1 for d in range(len(shape))]))
            call.trace.sized(track.arrays[-1], call.site.module)
    return [track]


@rule("sym_size", "size", "new_empty_strided")
def _blank(call: Call) -> list[Track]:
    """Independent of the tensor that it was created from."""
    return [Track(tuple(t.shape)) for t in call.outputs]
