"""The processes of `torch.distributed`: which one this is, and what all of them must agree on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from prunus.core import ConfigError, PrunusError

__all__ = ["broadcast_model_", "gathered", "rank_and_size", "require_one_model", "together"]

T = TypeVar("T")


def rank_and_size() -> tuple[int, int]:
    """Return this process's rank and how many there are: (0, 1) where nothing is distributed."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def together(make: Callable[[], T]) -> T:
    """Return this rank's `make()`; where it raises on one rank, all raise.

    A rank that failed alone would leave the others waiting for it.

    Raises:
        PrunusError: another rank failed; names it and its error.
    """
    made: T | None = None
    failure: Exception | None = None
    try:
        made = make()
    except Exception as error:  # whatever it is, the others must know
        failure = error
    failures = gathered(None if failure is None else f"{type(failure).__name__}: {failure}")
    if failure is not None:
        raise failure
    for rank, text in enumerate(failures):
        if text is not None:
            raise PrunusError(f"rank {rank} failed, so all ranks stop: {text}")
    return cast(T, made)


def gathered(value: T) -> list[T]:
    """Return the values of all ranks, in their order; of small things that can be pickled."""
    size = rank_and_size()[1]
    if size == 1:
        return [value]
    values: list[Any] = [None] * size
    dist.all_gather_object(values, value)
    return values


def require_one_model(model: nn.Module) -> None:
    """Raise `ConfigError`, on all ranks, unless they hold the same weights and buffers.

    Under DistributedDataParallel running statistics differ between ranks after every step.
    """
    if isinstance(model, DistributedDataParallel):
        raise ConfigError(
            "the network is a DistributedDataParallel: give the one inside it, model.module, whose "
            "names are those of the plan"
        )
    tensors = [*model.named_parameters(), *model.named_buffers()]
    found = gathered({name: _digest(tensor) for name, tensor in tensors})
    for rank, digests in enumerate(found):
        for name in (n for n in {**found[0], **digests} if found[0].get(n) != digests.get(n)):
            raise ConfigError(
                f"rank {rank} has another {name!r} than rank 0: call "
                "prunus.statistics.broadcast_model_(model) on every rank first"
            )


@torch.no_grad()
def broadcast_model_(model: nn.Module) -> nn.Module:
    """Give every rank the parameters and buffers of rank 0, in place; return the model."""
    if rank_and_size()[1] > 1:
        for tensor in (*model.parameters(), *model.buffers()):
            sent = tensor.detach().contiguous()
            dist.broadcast(sent, 0)
            tensor.copy_(sent)
    return model


def _digest(tensor: Tensor) -> tuple[Any, ...]:
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return tuple(tensor.shape), hashlib.blake2b(
        content.numpy().tobytes(), digest_size=16
    ).hexdigest()
