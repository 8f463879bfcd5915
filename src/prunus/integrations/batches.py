"""Batches of a trainer's own loader, read without interfering with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from prunus.batches import Batch, parse
from prunus.core import DataError

__all__ = ["Reader", "labelled", "without_workers"]

#: Converts a batch of the user's loader to (inputs, labels).
Reader = Callable[[Any], tuple[Any, Any]]


def labelled(batch: Any, network: nn.Module, reader: Reader | None = None) -> Batch:
    """Return a trainer's batch as `network` reads it: in any form that `read` knows, with labels.

    Raises:
        DataError: it has none of these forms, or no labels; explains how to convert it.
    """
    try:
        found = parse(batch if reader is None else tuple(reader(batch)), network)
    except DataError as error:
        raise DataError(
            f"{error}; inside a trainer pass reader=, a function from a batch to (inputs, labels)"
        ) from None
    if found.labels is None:
        raise DataError(
            f"a batch of the training loader, a {type(batch).__name__}, has no labels: pass "
            "reader=, a function from a batch to (inputs, labels)"
        )
    return found


def without_workers(loader: Iterable[Any]) -> Iterable[Any]:
    """Return the loader without its workers.

    Persistent workers have a single iterator, which the trainer may be using.
    """
    if not isinstance(loader, DataLoader) or loader.batch_sampler is None:
        return loader
    if isinstance(loader.dataset, IterableDataset):
        return loader
    return DataLoader(
        loader.dataset, batch_sampler=loader.batch_sampler, collate_fn=loader.collate_fn
    )
