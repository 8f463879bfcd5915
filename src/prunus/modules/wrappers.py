"""Networks inside wrappers, and those that cannot be pruned in the state that they are in."""

from __future__ import annotations

from typing import Any, cast

from torch import fx, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from prunus.core import ConfigError

__all__ = ["unwrapped"]

#: Packages of modules whose weights are integers.
QUANTISED = (
    "torch.ao.nn.quantized",
    "torch.ao.nn.intrinsic.quantized",
    "torch.nn.quantized",
    "torchao",
    "bitsandbytes",
)


def unwrapped(model: nn.Module, *, in_place: bool = False) -> nn.Module:
    """Return the network inside `torch.compile` or a data-parallel wrapper, or `model` itself.

    A compiled network and the one inside share their layers, so what is done to one is done to
    both. A data-parallel wrapper keeps buffers for gradients of the sizes at which it was made: a
    call that changes the network in place refuses it.

    Raises:
        ConfigError: `model` is something else than an nn.Module, sharded, quantised or without
            weights yet, or `in_place` and data-parallel; says what to do.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"the network is a {type(model).__name__}, expected an nn.Module: give the network "
            "that it was made from"
        )
    kind = type(model).__name__
    if kind == "OptimizedModule" and isinstance(
        vars(model)["_modules"].get("_orig_mod"), nn.Module
    ):
        return unwrapped(cast("nn.Module", model._orig_mod), in_place=in_place)
    if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        if in_place:
            raise ConfigError(
                f"the network is wrapped in {kind}, which would not follow the change: give "
                "model.module, and wrap the result again"
            )
        return unwrapped(model.module)
    _refuse(model)
    return model


def _refuse(model: nn.Module) -> None:
    """Raise `ConfigError` where a network cannot be pruned in the state that it is in."""
    kind = type(model).__name__
    if isinstance(model, fx.GraphModule) and "_guards_fn" in model._modules:
        raise ConfigError(
            "the network is the module of an exported program, whose shapes are fixed: give the "
            "network that it was exported from"
        )
    for name, module in model.named_modules():
        where = f"module {name!r} ({type(module).__name__}) of {kind}" if name else f"{kind} itself"
        kinds = [base.__name__ for base in type(module).__mro__]
        if "FullyShardedDataParallel" in kinds or "FSDPModule" in kinds:
            raise ConfigError(
                f"{where} is sharded (FSDP): gather the full state dict, load it into a network "
                "that is not wrapped, and give that"
            )
        if type(module).__module__.startswith(QUANTISED):
            raise ConfigError(f"{where} is quantised: prune first, quantise afterwards")
        for key, tensor in (*module._parameters.items(), *module._buffers.items()):
            if isinstance(tensor, (UninitializedParameter, UninitializedBuffer)):
                raise ConfigError(
                    f"{where} has no weights yet (its {key!r} is uninitialised): run the network "
                    "once on a batch first"
                )
            if tensor is not None and tensor.is_meta:
                raise ConfigError(
                    f"{where} has no values (its {key!r} is on the device 'meta'): load weights "
                    "with to_empty() and load_state_dict() first"
                )
            if tensor is not None and key == "weight" and tensor.is_complex():
                raise ConfigError(f"{where} has complex weights: only real ones can be pruned")
            if tensor is not None and _is_quantised(tensor):
                raise ConfigError(
                    f"{where} is quantised (its {key!r} is a {type(tensor).__name__} of "
                    f"{tensor.dtype}): prune first, quantise afterwards"
                )


def _is_quantised(tensor: Any) -> bool:
    package = type(tensor).__module__
    return bool(tensor.is_quantized) or package.startswith(QUANTISED)
