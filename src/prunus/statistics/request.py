"""What one pass over the data is asked for: `Request`."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from prunus.graph import Consumer, Groups
from prunus.statistics.sampling import Samples, Sampling, take_samples

__all__ = ["Request"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """What one pass is asked for; nothing in it changes during the pass.

    Attributes:
        blocks: K, how many parts the images are kept in.
        feature_limit: wider patches are sampled by pixel.
        gradients: whether to sum the gradients in the consumers' outputs.
        ranges: whether to note the range of the consumers' outputs.
        rank: the number of this process among `ranks`, each of which takes a share of the images.
        batches: how many batches this process will see, None where that is unknown.
        everywhere: the batches of all ranks, None where that is unknown.
    """

    model: nn.Module
    groups: Groups
    sampling: Sampling
    blocks: int
    feature_limit: int
    gradients: bool
    ranges: bool
    rank: int
    ranks: int
    batches: int | None
    everywhere: int | None

    @cached_property
    def device(self) -> torch.device:
        """Where the network runs."""
        return next(self.model.parameters()).device

    @cached_property
    def store(self) -> torch.device:
        """Where the sums are kept: with the network, but MPS has no float64."""
        return torch.device("cpu") if self.device.type == "mps" else self.device

    def parts(self, number: int, size: int) -> list[tuple[slice, int]]:
        """Split a batch among blocks: whole batches in turn if there are enough of them."""
        whole = self.sampling.kind == "dual" or (self.batches or 0) >= self.blocks
        each = 1 if whole else min(size, self.blocks)
        edges = [size * i // each for i in range(each + 1)]
        return [
            (slice(a, b), (number * each + i) % self.blocks)
            for i, (a, b) in enumerate(itertools.pairwise(edges))
        ]

    def samples(
        self, x: Tensor, module: nn.Module, consumer: Consumer, *, number: int, size: int
    ) -> Samples:
        """Return the samples of a consumer's input in batch `number` of `size` images."""
        if isinstance(module, nn.Linear):
            x = _by_image(x, size)
        return take_samples(
            x,
            module,
            consumer,
            self.sampling,
            images=size * (self.everywhere or 8 * self.ranks),
            batch=number * self.ranks + self.rank,  # as one pass over the ranks' batches in turn
            feature_limit=self.feature_limit,
        )


def _by_image(x: Tensor, images: int) -> Tensor:
    """Return what a linear layer reads with one row per image: its windows are tokens of it.

    Networks that attend within windows make them the first axis, image by image. An input whose
    second axis is the batch has its tokens first, and stays as it is.
    """
    rows = len(x)
    if rows == images or rows % images or (x.dim() > 2 and x.shape[1] == images):
        return x
    return x.reshape(images, -1, x.shape[-1])
