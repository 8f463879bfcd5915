"""An order of the training images that depends on the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterator, Sized

import torch
from torch.utils.data import Sampler

from prunus.core import derive_seed

__all__ = ["SeededSampler"]


class SeededSampler(Sampler[int]):
    """Shuffle `dataset` anew each epoch, by `seed` and the epoch and nothing else.

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
        generator = torch.Generator()
        generator.manual_seed(derive_seed(self.seed, "order", self.epoch))
        order: list[int] = torch.randperm(len(self.dataset), generator=generator).tolist()
        return iter(order)

    def __len__(self) -> int:
        return len(self.dataset)
