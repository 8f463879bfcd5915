"""How many batches are read, and the weight of each class's images."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from prunus.batches import IGNORED, Batch, Loader, finest, length
from prunus.core import DataError

__all__ = ["class_weights", "count_classes", "counted_rows", "taken", "weigh"]


def count_classes(batches: Iterable[Batch]) -> Tensor:
    """Return N_l of every class l of the batches' labels, float64."""
    labels = [batch.labels for batch in batches]
    if not labels or any(y is None or y.is_floating_point() for y in labels):
        raise DataError("balance=True needs class labels (int64): give a loader that has them")
    fine = torch.cat([finest(y).long().cpu() for y in labels if y is not None])
    if (fine < 0).any():
        raise DataError(f"labels run from {int(fine.min())}, expected class indices from 0")
    return torch.bincount(fine).double()


def counted_rows(batch: Batch) -> Batch:
    """Return a batch without the images whose label says that they do not count (−100)."""
    y = batch.labels
    if y is None or y.dim() != 1 or y.is_floating_point() or not bool((y == IGNORED).any()):
        return batch
    kept = y != IGNORED
    return Batch(batch.inputs.rows(lambda t: t[kept]), y[kept])


def class_weights(counts: list[Tensor]) -> Tensor:
    """Return N/(L·N_l) of every class l, from the counts N_l of one rank or several."""
    count = torch.zeros(max(len(one) for one in counts), dtype=torch.float64)
    for one in counts:
        count[: len(one)] += one
    present = (count > 0).sum()
    return torch.where(count > 0, count.sum() / present / count.clamp(min=1), 0.0)


def weigh(y: Tensor, class_weights: Tensor) -> Tensor:
    """Return the weight of each image."""
    fine = finest(y).long().cpu()
    if len(fine) and (int(fine.max()) >= len(class_weights) or not class_weights[fine].all()):
        raise DataError(
            "a class occurs that did not when the labels were read for balance=True: give a "
            "loader with the same images each time it is read, or leave out batches="
        )
    return class_weights[fine]


def taken(loader: Loader, batches: int | None) -> int | None:
    """Return how many batches are read of a loader, or None where it does not say."""
    found = length(loader)
    return found if batches is None or found is None else min(found, batches)
