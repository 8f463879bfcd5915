"""Orders of the training images that depend only on the seed and the epoch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Sampler

from prunus.core import ConfigError, derive_seed

__all__ = ["ClassBalancedBatches", "SeededSampler", "balanced_loader"]


class SeededSampler(Sampler[int]):
    """Shuffle `dataset` each epoch, depending only on `seed` and the epoch.

    As with `DistributedSampler`, call `set_epoch` before each epoch: iterating twice without it
    gives the same order twice, which is what lets a resumed run repeat an epoch.

    Example:
        >>> sampler = SeededSampler(range(5), seed=0)
        >>> list(sampler) == list(sampler)
        True
    """

    def __init__(self, dataset: Sized, seed: int = 0) -> None:
        self.dataset = dataset
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of `epoch` for the next iteration."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        order: list[int] = torch.randperm(len(self.dataset), generator=_stream(self)).tolist()
        return iter(order)

    def __len__(self) -> int:
        return len(self.dataset)


class ClassBalancedBatches(Sampler[list[int]]):
    """Batches over a random subset of classes, equally many images of each class (up to one).

    [Tian, section 4.1.1]: scatter matrices need several images of a class, at least 8. Classes come
    in random order, none twice before all came up, and likewise the images of a class. An
    epoch has ⌈N/batch_size⌉ full batches, about N images. Images of small classes appear more often
    than those of large ones, and repeatedly within a batch only if a class has too few.

    Repeatable by `seed` and `set_epoch`, like `SeededSampler`.

    Example:
        >>> labels = torch.arange(40) % 4
        >>> batch = next(iter(ClassBalancedBatches(labels, 16, per_class=8)))
        >>> labels[batch].unique(return_counts=True)[1]
        tensor([8, 8])
    """

    def __init__(
        self,
        labels: Tensor,
        batch_size: int,
        *,
        classes: int | None = None,
        per_class: int = 8,
        seed: int = 0,
    ) -> None:
        """Set the composition of a batch.

        Args:
            labels: class of each image, (N,).
            batch_size: images per batch.
            classes: number of classes per batch; None for as many as fit, at most all.
            per_class: least number of images of a class in a batch.
            seed: of the order.

        Raises:
            ConfigError: the batch is too small, or there are fewer classes than requested.
        """
        if batch_size < 2 * per_class:
            raise ConfigError(
                f"class-balanced batches need {per_class} images of at least 2 classes, but "
                f"batch_size is {batch_size}: set it to {2 * per_class} or more"
            )
        self.members = [torch.nonzero(labels == each).flatten() for each in torch.unique(labels)]
        fit = min(batch_size // per_class, len(self.members))
        if classes is not None and classes > fit:
            raise ConfigError(
                f"batches of {classes} classes were requested, but {batch_size} images hold at "
                f"most {fit} of the {len(self.members)} classes with {per_class} images each: "
                "lower push.classes or raise batch_size"
            )
        self.classes = classes or fit
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of `epoch` for the next iteration."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        generator = _stream(self)
        turns = _Turns(len(self.members), generator)
        images = [_Turns(len(each), generator) for each in self.members]
        each, more = divmod(self.batch_size, self.classes)
        for _ in range(len(self)):
            batch: list[int] = []
            for place, label in enumerate(turns.take(self.classes)):
                drawn = images[label].take(each + (place < more))
                batch += self.members[label][drawn].tolist()
            yield batch

    def __len__(self) -> int:
        return math.ceil(sum(map(len, self.members)) / self.batch_size)


class _Turns:
    """Draws from 0 … n−1: no repeats before all were drawn, and none within one draw of up to n."""

    def __init__(self, n: int, generator: torch.Generator) -> None:
        self.n, self.generator = n, generator
        self.waiting: list[int] = []

    def take(self, count: int) -> list[int]:
        """Return the next `count`."""
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        while len(taken) < count:
            times = Counter(taken)
            fresh = torch.randperm(self.n, generator=self.generator).tolist()
            fresh.sort(key=times.__getitem__)  # those just drawn come last
            more = count - len(taken)
            taken, self.waiting = taken + fresh[:more], fresh[more:]
        return taken


def balanced_loader(
    loader: Iterable[Any], *, classes: int | None = None, per_class: int = 8, seed: int = 0
) -> Iterable[Any]:
    """Return a loader of the same images in class-balanced batches of the same size.

    Labels are the data set's `labels` or `targets`, or else read image by image. Anything but a
    `DataLoader` of indexed images, or one with its own batches, is returned unchanged.

    Raises:
        ConfigError: the targets are images, or as for `ClassBalancedBatches`.
    """
    if not isinstance(loader, DataLoader) or loader.batch_size is None:
        return loader
    if isinstance(loader.dataset, IterableDataset):
        return loader
    batches = ClassBalancedBatches(
        _labels(loader.dataset),
        loader.batch_size,
        classes=classes,
        per_class=per_class,
        seed=seed,
    )
    return DataLoader(
        loader.dataset,
        batch_sampler=batches,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        generator=loader.generator,
    )


def _labels(dataset: Any) -> Tensor:
    for name in ("labels", "targets"):
        found = torch.as_tensor(getattr(dataset, name, ()))
        if found.shape == (len(dataset),) and not found.is_floating_point():
            return found
    targets = torch.as_tensor(dataset[0][1])
    if targets.dim() or targets.is_floating_point():
        raise ConfigError(
            "class-balanced batches need class labels, but the targets are images: "
            "set train.push to null"
        )
    return torch.tensor([int(dataset[i][1]) for i in range(len(dataset))])


def _stream(sampler: SeededSampler | ClassBalancedBatches) -> torch.Generator:
    generator = torch.Generator()
    generator.manual_seed(derive_seed(sampler.seed, "order", sampler.epoch))
    return generator
