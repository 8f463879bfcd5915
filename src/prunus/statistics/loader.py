"""Batches of a loader, their number, and the weight of each class's images."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sized
from typing import Any

import torch
from torch import Tensor

from prunus.core import DataError

__all__ = ["Loader", "class_weights", "count_classes", "length", "pair", "weigh"]

Loader = Iterable[Any]


def pair(batch: Any) -> tuple[Tensor, Tensor | None]:
    """Return a batch's images, and its labels or targets where it has them."""
    if isinstance(batch, Tensor):
        return batch, None
    x, *rest = batch
    return x, rest[0] if rest else None


def count_classes(loader: Loader, batches: int | None) -> Tensor:
    """Return N_l of every class l of the loader's labels, float64."""
    if isinstance(loader, Iterator):
        raise DataError("balance=True reads the loader twice: give one that can be, no iterator")
    labels = [pair(batch)[1] for batch in itertools.islice(loader, batches)]
    if not labels or any(y is None or y.is_floating_point() for y in labels):
        raise DataError("balance=True needs class labels (int64): give a loader that has them")
    fine = torch.cat([_finest(y) for y in labels if y is not None])
    if (fine < 0).any():
        raise DataError(f"labels run from {int(fine.min())}, expected class indices from 0")
    return torch.bincount(fine).double()


def class_weights(counts: list[Tensor]) -> Tensor:
    """Return N/(L·N_l) of every class l, from the counts N_l of one rank or several."""
    count = torch.zeros(max(len(one) for one in counts), dtype=torch.float64)
    for one in counts:
        count[: len(one)] += one
    present = (count > 0).sum()
    return torch.where(count > 0, count.sum() / present / count.clamp(min=1), 0.0)


def weigh(y: Tensor, class_weights: Tensor) -> Tensor:
    """Return the weight of each image."""
    fine = _finest(y)
    if len(fine) and (int(fine.max()) >= len(class_weights) or not class_weights[fine].all()):
        raise DataError(
            "a class occurs that did not when the labels were read for balance=True: give a "
            "loader with the same images each time it is read, or leave out batches="
        )
    return class_weights[fine]


def _finest(y: Tensor) -> Tensor:
    return (y if y.dim() == 1 else y[:, 0]).long().cpu()


def length(loader: Loader, batches: int | None) -> int | None:
    """Return how many batches a loader gives, or None where it does not say."""
    try:
        found = len(loader) if isinstance(loader, Sized) else None
    except TypeError:
        return batches
    return found if batches is None or found is None else min(found, batches)
