"""Training, validation and test: disjoint, stratified, and the same for the same seed."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from prunus.core import DataError, Task
from prunus.data.sampler import SeededSampler

__all__ = ["DataSplits", "make_splits", "split_stratified"]


@dataclass(frozen=True, kw_only=True)
class DataSplits:
    """The loaders of one data set; each yields (images, labels), or (degraded, target) images.

    Classification: images are float32 (B, C, H, W), normalised, with (C, H, W) = `input_shape`;
    labels are int64 (B,) in 0 … `num_classes` - 1, and `class_names[label]` is the class's name.
    `parents[label]` is its published coarse class, if the data set has them, and
    `parent_names[parents[label]]` the name of that class.

    Restoration: degraded images float32 (B, C, H, W) and targets (B, C, s·H, s·W), s = `scale`,
    black 0 and white 1 (noise may leave that range); there are no classes. `input_shape` is that
    of the training images; `test` comes in batches of one, as its images may be of any size.

    `train` is shuffled by a `SeededSampler` and augmented if requested; `calibration` holds
    the same images in a fixed order, unaugmented, for collecting scores; `validation` and `test`
    are unshuffled and unaugmented. Iterating the last three leaves the global generators alone.
    """

    name: str
    train: DataLoader[Any]
    validation: DataLoader[Any]
    test: DataLoader[Any]
    calibration: DataLoader[Any]
    num_classes: int
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    task: Task = "classification"
    scale: int = 1
    parents: tuple[int, ...] | None = None
    parent_names: tuple[str, ...] = ()


def split_stratified(labels: Tensor, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Take `size` of the indices of `labels`, each class proportionally, at least one of each.

    With n_c images of class c among N, ⌊size·n_c/N⌋ or one more are taken, the largest remainders
    first (Hamilton's apportionment), but never none and never all.

    Args:
        labels: (N,) class of each image.
        size: how many to take.
        seed: selects the images; the counts do not depend on it.

    Returns:
        The rest (N - size,) and what was taken (size,), both ascending.

    Raises:
        DataError: `size` leaves a class without an image on one of the two sides.
    """
    classes, counts = np.unique(labels.numpy(), return_counts=True)
    N, K = int(counts.sum()), len(classes)
    if counts.min(initial=2) < 2 or not K <= size <= N - K:
        raise DataError(
            f"{N} images of {K} classes, the smallest with {counts.min(initial=N)}, cannot be "
            f"split into {N - size} and {size} with every class on both sides: add images"
        )
    quota = size * counts / N
    taken = np.clip(np.floor(quota).astype(np.int64), 1, counts - 1)
    while taken.sum() < size:
        taken[np.argmax(np.where(taken < counts - 1, quota - taken, -np.inf))] += 1
    while taken.sum() > size:
        taken[np.argmin(np.where(taken > 1, quota - taken, np.inf))] -= 1
    generator = torch.Generator().manual_seed(seed)
    part = torch.zeros(N, dtype=torch.bool)
    for label, count in zip(classes.tolist(), taken.tolist(), strict=True):
        members = torch.nonzero(labels == label).flatten()
        part[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return torch.nonzero(~part).flatten(), torch.nonzero(part).flatten()


def make_splits(
    *,
    name: str,
    datasets: dict[str, Dataset[Any]],
    class_names: tuple[str, ...],
    input_shape: tuple[int, int, int],
    batch_size: int,
    seed: int,
    num_workers: int = 0,
    collate: Callable[[Any], Any] | None = None,
    one_by_one: Collection[str] = (),
    task: Task = "classification",
    scale: int = 1,
    parents: tuple[int, ...] | None = None,
    parent_names: tuple[str, ...] = (),
) -> DataSplits:
    """Return loaders for the data sets 'train', 'calibration', 'validation' and 'test'.

    The parts named in `one_by_one` come in batches of one, for images of different sizes. The last
    training batch is dropped if it would be a single image, for which BatchNorm has no variance.
    """

    def loader(part: str) -> DataLoader[Any]:
        dataset: Any = datasets[part]
        count = len(dataset)
        training = part == "train"
        return DataLoader(
            dataset,
            batch_size=1 if part in one_by_one else batch_size,
            sampler=SeededSampler(dataset, seed) if training else None,
            drop_last=training and count > batch_size > 1 and count % batch_size == 1,
            num_workers=num_workers,
            collate_fn=collate,
            # Training draws its augmentation from the global generator, which the trainer seeds.
            generator=None if training else torch.Generator(),
        )

    return DataSplits(
        name=name,
        train=loader("train"),
        validation=loader("validation"),
        test=loader("test"),
        calibration=loader("calibration"),
        num_classes=len(class_names),
        class_names=class_names,
        input_shape=input_shape,
        task=task,
        scale=scale,
        parents=parents,
        parent_names=parent_names,
    )
