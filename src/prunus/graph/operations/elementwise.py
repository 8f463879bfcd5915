"""Elementwise operations, and copies."""

from __future__ import annotations

from prunus.graph.labels import Track
from prunus.graph.operations.call import Call, meet, rule

__all__ = ["elementwise", "same"]


@rule(
    "_prelu_kernel", "masked_fill", "where", "native_dropout", "lerp", "addcmul", "addcdiv",
    "copy_", "rrelu_with_noise", "fill_", "zero_", "dropout", "alpha_dropout", "hardswish",
    "hardsigmoid", "hardtanh", "elu", "celu", "selu", "mish", "silu", "gelu", "leaky_relu",
    "threshold", "softplus", "softshrink", "hardshrink", "log_sigmoid_forward", "relu6", "prelu",
    "nan_to_num", "isnan",
)  # fmt: skip
def elementwise(call: Call) -> list[Track]:
    """Join the labels that meet."""
    shape = call.shape
    arrays = meet(call.trace, call.tracks, shape, call.name)
    return [Track(tuple(t.shape), arrays if t.dim() == len(shape) else []) for t in call.outputs]


@rule(
    "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "bernoulli",
    "normal", "uniform", "exponential", "detach", "clone", "_to_copy", "to", "contiguous", "alias",
    "lift_fresh", "_conj",
)  # fmt: skip
def same(call: Call) -> list[Track]:
    """Pass labels on unchanged."""
    return [Track(call.shape, call.tracks[0].arrays)] if call.tracks else [Track(call.shape)]


@rule(
    "new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided", "sym_size", "size",
)  # fmt: skip
def _blank(call: Call) -> list[Track]:
    """A new tensor of a given size: independent of the tensor it was created from."""
    return [Track(tuple(t.shape)) for t in call.outputs]
