"""What one pass over the data leaves: a scatter of every consumer's input, in K blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from prunus.core import PlanError, html_table, unknown_name
from prunus.graph import Groups, Index
from prunus.statistics.dual import Dual
from prunus.statistics.outputs import Output
from prunus.statistics.scatter import Scatter
from prunus.statistics.traces import Traces

__all__ = ["Statistics", "joined_parents"]

S = TypeVar("S", Scatter, Dual)


class Statistics(Mapping[str, Scatter]):
    """The scatter of every consumer's input, by module name.

    The images are split into K blocks that are kept apart: what any score would be without one
    block costs no further pass, and K such values give a jackknife interval.

    Attributes:
        groups: what they were collected for; says which features a scatter's rows stand for.
        images: how many images made them; `block_images` has them by block.
        sampling: how samples were taken (see `Sampling`).
        outputs: sums over all images of the consumers' outputs, where gradients or ranges were
            asked for; not kept by block.
        traces: what the last hidden layer's chosen dimensions come from (`with_traces`), or None.
        duals: kernel forms, by consumer, of `sampling="dual"`; those consumers have an empty
            scatter.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import prunus
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> groups = prunus.find_groups(net, torch.zeros(1, 4))
        >>> loader = [(torch.randn(32, 4), torch.arange(32) % 2)]
        >>> statistics = prunus.collect(net, loader, groups)
        >>> statistics
        Statistics(32 images in 8 blocks, 2 layers, sampling='pixel')
        >>> statistics["2"].gram.shape
        torch.Size([8, 8])
    """

    def __init__(
        self,
        blocks: list[dict[str, Scatter]],
        groups: Groups,
        images: int,
        *,
        block_images: Sequence[int] = (),
        sampling: str = "pixel",
        parents: tuple[Tensor, ...] = (),
        outputs: Mapping[str, Output] | None = None,
        dual_blocks: list[dict[str, Dual]] | None = None,
        traces: Traces | None = None,
    ) -> None:
        self._blocks = blocks
        self._dual_blocks = dual_blocks or [{} for _ in blocks]
        self._whole: dict[str, Scatter] = {}
        self.groups = groups
        self.images = images
        self.block_images = tuple(block_images) or (0,) * len(blocks)
        self.sampling = sampling
        self._parents = parents  # −1 for a class that did not occur
        self.outputs = outputs or {}
        self.traces = traces

    def __getitem__(self, consumer: str) -> Scatter:
        if consumer not in self._blocks[0]:
            raise unknown_name("consumer", consumer, self)
        if consumer not in self._whole:
            first, *rest = (block[consumer] for block in self._blocks)
            self._whole[consumer] = first.merge(*rest) if rest else first
        return self._whole[consumer]

    def __iter__(self) -> Iterator[str]:
        return iter(self._blocks[0])

    def __len__(self) -> int:
        return len(self._blocks[0])

    def __repr__(self) -> str:
        more = [
            what
            for what, there in (
                ("gradients or ranges of outputs", self.outputs),
                ("traces", self.traces is not None),
            )
            if there
        ]
        return (
            f"Statistics({self.images:,} images in {self.blocks} blocks, {len(self)} layers, "
            f"sampling={self.sampling!r}{''.join(f', with {what}' for what in more)})"
        )

    def _repr_html_(self) -> str:
        rows = [
            (
                name,
                scatter.features,
                len(scatter.teacher_total),
                sum(block[name].samples for block in self._blocks),
            )
            for name, scatter in self._blocks[0].items()
        ]
        return html_table(repr(self), ("layer", "features", "classes or targets", "samples"), rows)

    @property
    def blocks(self) -> int:
        """K."""
        return len(self._blocks)

    @property
    def parents(self) -> tuple[Tensor, ...]:
        """The parent of each finest class, (L,), for each coarser granularity.

        0 for a class that did not occur, which counts for nothing.
        """
        return tuple(parent.clamp(min=0) for parent in self._parents)

    @property
    def duals(self) -> dict[str, Dual]:
        """The kernel form of each consumer that has one."""
        first, *rest = self._dual_blocks
        return {name: dual.merge(*(b[name] for b in rest)) for name, dual in first.items()}

    def with_traces(self, traces: Traces) -> Statistics:
        """Return the same statistics with what `trace_utility` found."""
        return Statistics(
            self._blocks,
            self.groups,
            self.images,
            block_images=self.block_images,
            sampling=self.sampling,
            parents=self._parents,
            outputs=self.outputs,
            dual_blocks=self._dual_blocks,
            traces=traces,
        )

    def leave_out(self, block: int) -> Statistics:
        """Return the statistics of all images but those of one block.

        Raises:
            PlanError: there are no two blocks, or no such block.
        """
        if self.blocks < 2:
            raise PlanError(
                "intervals need statistics in at least 2 blocks, these are one: collect with "
                "blocks=8 and at least 8 images"
            )
        if not 0 <= block < self.blocks:
            raise PlanError(f"unknown block {block}: the blocks are 0 to {self.blocks - 1}")
        kept = [b for i, b in enumerate(self._blocks) if i != block]
        duals = [b for i, b in enumerate(self._dual_blocks) if i != block]
        return Statistics(
            kept,
            self.groups,
            self.images - self.block_images[block],
            block_images=[n for i, n in enumerate(self.block_images) if i != block],
            sampling=self.sampling,
            parents=self._parents,
            outputs=self.outputs,
            dual_blocks=duals,
            traces=self.traces,
        )

    def merge(self, other: Statistics) -> Statistics:
        """Return the statistics of both sets of images, without traces; block i joins block i.

        Raises:
            PlanError: they were sampled in different ways, or are of different networks.
        """
        if self.sampling != other.sampling:
            raise PlanError(
                f"cannot merge statistics sampled by {self.sampling!r} with {other.sampling!r}: "
                "collect both in the same way"
            )
        if alone := (set(self) ^ set(other)) or (set(self.outputs) ^ set(other.outputs)):
            raise PlanError(
                f"cannot merge statistics of which one alone has module {min(alone)!r} or its "
                "output: collect both on the same network in the same way"
            )
        return Statistics(
            _block_by_block(self._blocks, other._blocks),
            self.groups,
            self.images + other.images,
            block_images=[
                a + b for a, b in zip_longest(self.block_images, other.block_images, fillvalue=0)
            ],
            sampling=self.sampling,
            parents=joined_parents(self._parents, other._parents),
            outputs={n: o.merge(other.outputs[n]) for n, o in self.outputs.items()},
            dual_blocks=_block_by_block(self._dual_blocks, other._dual_blocks),
        )

    def features(self, consumer: str, index: Index) -> Index:
        """Return the features that units own: (units, k), padded with −1 at the end.

        `index` (units, j) holds the consumer's incoming channels of each unit; each channel
        owns `cells` features of the scatter.
        """
        blocks = self.groups.consumers[consumer].blocks(index)
        cells = self._blocks[0][consumer].cells
        if cells == 1:
            return blocks
        wide = blocks[:, :, None] * cells + np.arange(cells)
        wide[blocks < 0] = -1
        return np.ascontiguousarray(wide.reshape(len(blocks), -1))


def _block_by_block(one: list[dict[str, S]], other: list[dict[str, S]]) -> list[dict[str, S]]:
    """Merge block i with block i; a consumer that did not run in one is taken from the other."""
    none: dict[str, S] = {}
    merged = []
    for a, b in zip_longest(one, other, fillvalue=none):
        block = {}
        for name in a or b:
            both = [held[name] for held in (a, b) if held]
            ran = [sums for sums in both if sums.samples > 0] or both[:1]
            block[name] = ran[0].merge(*ran[1:])
        merged.append(block)
    return merged


def joined_parents(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the parents known to either, −1 for those known to neither."""
    if not one or not other:
        return one or other
    for a, b in zip(one, other, strict=False):
        if len(one) != len(other) or len(a) != len(b) or ((a != b) & (a >= 0) & (b >= 0)).any():
            raise PlanError(
                "cannot merge statistics whose classes have other parents: collect both with the "
                "same coarser labels"
            )
    return tuple(torch.maximum(a, b) for a, b in zip(one, other, strict=True))
