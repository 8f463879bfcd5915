"""Multiply-accumulates of a network's ATen operations: `count_macs`, and the one counter of all."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from prunus.batches import Example, Inputs
from prunus.core import TraceError, keeping_random_state, prepare_torch
from prunus.modules import bake_, plain_attention, private_copy, without_checkpoints

__all__ = ["Counter", "count_macs", "macs_of"]

aten = torch.ops.aten


def macs_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> int:
    """Return the multiply-accumulates of one ATen operation (half its FLOPs), by PyTorch's rules.

    Operations that PyTorch does not count, because they run on one kind of device alone, count as
    what they are split into elsewhere.
    """
    packet = func._overloadpacket
    if packet in _ATTENTION:
        return _attention(*args[:3])
    if packet is aten.mkldnn_rnn_layer:
        x, inner, outer = args[:3]
        return int(x.shape[0] * x.shape[1] * (inner.numel() + outer.numel()))
    formula = flop_registry.get(packet)
    return 0 if formula is None else int(formula(*args, **kwargs, out_val=result)) // 2


def _attention(q: Tensor, k: Tensor, v: Tensor) -> int:
    """Return the products of attention: (…, L, E)·(…, E, S) and (…, L, S)·(…, S, V)."""
    return prod(q.shape[:-1]) * k.shape[-2] * (q.shape[-1] + v.shape[-1])


_ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu,
    aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_efficient_attention,
    aten._scaled_dot_product_cudnn_attention,
    aten._scaled_dot_product_fused_attention_overrideable,
}


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the multiply-accumulates of what runs within it.

    Attributes:
        macs: their sum.
    """

    def __init__(self, seen: Callable[[str, int], None] | None = None) -> None:
        """Call `seen` with the name and the MACs of each operation that has any."""
        prepare_torch()
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs, self.seen = 0, seen

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run one operation and count it."""
        kwargs = kwargs or {}
        if func._overloadpacket not in flop_registry and func.has_kernel_for_dispatch_key(
            torch.DispatchKey.CompositeImplicitAutograd
        ):
            with self:
                return func.decompose(*args, **kwargs)
        result = func(*args, **kwargs)
        count = macs_of(func, args, kwargs, result)
        self.macs += count
        if count and self.seen is not None:
            self.seen(func._schema.name.split("::")[1], count)
        return result


def count_macs(model: nn.Module, example: Example) -> int:
    """Return the multiply-accumulates of one forward pass of one example (half its FLOPs).

    Counted by ATen operation, as PyTorch's operator counter does, so functional operations and
    products of activations are included. Normalisation, pooling and activations count 0. PyTorch's
    fused transformer layers are disabled, because it does not count them. Nothing is computed
    where the network runs on tensors without values; a network that looks at values, or makes
    tensors on a device of its own, really runs the first example, in evaluation.

    Args:
        example: one batch, as `find_groups` takes it; its first example is counted.

    Raises:
        TraceError: the network does not run on one example.
    """
    one = Inputs.of(example).first(1).like(model)
    try:
        ghost = _plain(model).to("meta").eval()
        return _count(ghost, one.to("meta"))
    except Exception:  # networks' code can raise anything on tensors without values
        pass
    try:
        with keeping_random_state():
            return _count(_plain(model).eval(), one.detached())
    except Exception as error:
        text = str(error).strip().splitlines()
        raise TraceError(
            f"{type(model).__name__} does not run on one example of shape {one.shapes()} "
            f"({type(error).__name__}: {text[0] if text else 'no text'}), so its MACs cannot be "
            "counted: give an example that the network accepts by itself, too"
        ) from error


def _plain(model: nn.Module) -> nn.Module:
    """Return a copy with plain weights: what computes a weight is no part of the cut network."""
    copied = private_copy(model)
    bake_(copied)
    return copied


def _count(model: nn.Module, inputs: Inputs) -> int:
    with Counter() as counter, torch.no_grad(), plain_attention(), without_checkpoints():
        inputs(model)
    total: int = counter.macs
    return total
