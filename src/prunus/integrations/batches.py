"""Batches of a trainer's own loader, read without interfering with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from prunus.core import DataError

__all__ = ["Reader", "images_and_labels", "without_workers"]

#: Converts a batch of the user's loader to (images, labels).
Reader = Callable[[Any], tuple[Tensor, Tensor]]


def images_and_labels(batch: Any) -> tuple[Tensor, Tensor]:
    """Return the first two of a tuple or list, or `pixel_values` and `labels` of a mapping.

    Raises:
        DataError: the batch is neither; explains how to convert it.
    """
    if isinstance(batch, Mapping):
        found = batch.get("pixel_values"), batch.get("labels", batch.get("label"))
        held = f"a mapping with {', '.join(map(str, batch)) or 'nothing'}"
    else:
        pair = list(batch[:2]) if isinstance(batch, (tuple, list)) else []
        found = tuple([*pair, None, None][:2])
        held = f"a {type(batch).__name__}"
    if isinstance(found[0], Tensor) and isinstance(found[1], Tensor):
        return found[0], found[1]
    raise DataError(
        f"a batch of the training loader is {held}, expected (images, labels) or a mapping with "
        "pixel_values and labels: pass reader=, a function from a batch to (images, labels)"
    )


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
