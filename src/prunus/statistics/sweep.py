"""The state of one pass: hooks that add every consumer's input to the sums of its block."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from prunus.core import ConfigError, DataError, NonFiniteError
from prunus.graph import Consumer, Groups
from prunus.modules import calling, flatten_tensors, module_at
from prunus.statistics.accumulate import add_features, add_teacher
from prunus.statistics.dual import Dual
from prunus.statistics.guards import first_bad, free_memory, only_activations
from prunus.statistics.loader import weigh
from prunus.statistics.outputs import Output
from prunus.statistics.sampling import Samples, Sampling, cells_of, take_samples
from prunus.statistics.scatter import Scatter
from prunus.statistics.statistics import Statistics
from prunus.statistics.teacher import Classes, Teacher

__all__ = ["Sweep"]

#: Batches after which it is known which consumers' products are taken about the mean.
SETTLED = 2


class Sweep:
    """The state of one pass."""

    def __init__(
        self,
        model: nn.Module,
        groups: Groups,
        sampling: Sampling,
        blocks: int,
        feature_limit: int,
        gradients: bool,
        ranges: bool,
        place: tuple[int, int] = (0, 1),
    ) -> None:
        """`place` is this process's rank among how many: each takes a share of the samples."""
        self.model, self.groups, self.sampling = model, groups, sampling
        self.blocks, self.feature_limit = blocks, feature_limit
        self.gradients, self.ranges = gradients, ranges
        self.rank, self.ranks = place
        self.device = next(model.parameters()).device
        self.store = "cpu" if self.device.type == "mps" else self.device  # MPS has no float64
        self.free, self.reserved = free_memory(torch.device(self.store)), 0
        self.teacher: Teacher | None = None
        self.expected: int | None = None  # batches
        self.everywhere: int | None = None  # those of all ranks
        self.scatters: list[dict[str, Scatter]] = [{} for _ in range(blocks)]
        self.duals: list[dict[str, Dual]] = [{} for _ in range(blocks)]
        self.outputs: dict[str, Output] = {}
        self.images = self.done = self.columns = 0
        self.block_images = [0] * blocks
        self.totals: dict[tuple[str, int], Tensor] = {}
        self.centred: dict[str, bool] = {}
        self.later: list[Any] = []

    def batch(self, x: Tensor, y: Tensor | None, class_weights: Tensor | None) -> None:
        """Run one batch and add it to its blocks."""
        teacher = self.teacher
        assert teacher is not None
        self.size = len(x)
        self.Y: Tensor | None = None
        if not teacher.own:
            if y is None:
                raise DataError("images came without labels: say teacher='logits'")
            if len(y) != len(x):
                raise DataError(f"{len(y)} labels came for {len(x)} images")
            self.Y = teacher.encode(y).to(self.store)
            self.columns = self.Y.shape[1]
        self.weight = None
        if class_weights is not None and y is not None:
            self.weight = weigh(y, class_weights).to(self.store)
        self.parts = self._parts(len(x))
        for part, block in self.parts:
            self.block_images[block] += part.stop - part.start
        if not self.done:
            self._reserve()
        x = x.to(self.device)
        self.later.clear()
        with (
            self._hooked(),
            only_activations(self.model, self.gradients),
            calling(self.model, self.groups.uncalled),
        ):
            output = flatten_tensors(self.model(x.detach().requires_grad_(self.gradients)))[0]
            sums = [total.sum().to(self.store) for total in self.totals.values()]
            if teacher.own or self.gradients:
                sums.append(output.detach().sum().to(self.store))
            finite = not sums or bool(torch.stack([s.double() for s in sums]).isfinite().all())
            if self.gradients and finite:
                labels = y if y is not None else torch.empty(0)
                teacher.loss(output, labels).backward()  # type: ignore[no-untyped-call]
        if not finite:
            raise NonFiniteError(first_bad(self.model, x.detach()))
        if teacher.own:
            self.Y = teacher.encode(output.detach()).to(self.store)
            self.columns = self.Y.shape[1]
        for finish in self.later:
            finish()
        self.images += len(x)
        self.done += 1

    def _reserve(self) -> None:
        """Make the sums before the first batch, where their size is known without running.

        Made between the maps of a running network, they split the heap's free blocks, and the
        pass takes fresh pages for the maps of every later batch: a tenth of its time.
        """
        for name, consumer in self.groups.consumers.items():
            module, features = module_at(self.model, name), len(consumer.positions)
            cells = cells_of(module, features, self.sampling, self.feature_limit)
            if cells is not None:
                self._scatter(0, name, cells * features, cells)

    def _parts(self, size: int) -> list[tuple[slice, int]]:
        """Split a batch among blocks: whole batches in turn where there are enough of them."""
        whole = self.sampling.kind == "dual" or (self.expected or 0) >= self.blocks
        each = 1 if whole else min(size, self.blocks)
        edges = [size * i // each for i in range(each + 1)]
        return [
            (slice(a, b), (self.done * each + i) % self.blocks)
            for i, (a, b) in enumerate(itertools.pairwise(edges))
        ]

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        handles = []
        for name, consumer in self.groups.consumers.items():
            module = module_at(self.model, name)
            handles.append(module.register_forward_pre_hook(self._reading(consumer)))
            if self.gradients or self.ranges:
                handles.append(module.register_forward_hook(self._writing(name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _reading(self, consumer: Consumer) -> Any:
        """Return the hook that adds a consumer's input."""

        def before(module: nn.Module, args: tuple[Any, ...]) -> None:
            raw = args[0]
            samples = self._samples(raw.detach(), module, consumer)
            if len(samples.x) != self.size:
                raise DataError(
                    f"module {consumer.module!r} reads {len(samples.x)} rows for {self.size} "
                    "images, so its samples have no class: keep the batch as the first axis"
                )
            self._add(consumer.module, samples)
            if self.gradients:
                self._watch_gradient(consumer, module, raw)

        return before

    def _samples(self, x: Tensor, module: nn.Module, consumer: Consumer) -> Samples:
        if isinstance(module, nn.Linear):
            x = _by_image(x, self.size)
        return take_samples(
            x,
            module,
            consumer,
            self.sampling,
            images=self.size * (self.everywhere or 8 * self.ranks),
            batch=self.done * self.ranks + self.rank,  # as one pass over the ranks' batches in turn
            feature_limit=self.feature_limit,
        )

    def _add(self, name: str, samples: Samples) -> None:
        if self.sampling.kind == "dual":
            x = samples.x.squeeze(-1) if samples.x.shape[2] == 1 else samples.x.mean(2)
            self.totals[name, 0] = x
            self.later.append(lambda: self._add_dual(name, x, samples.cells))
            return
        for part, block in self.parts:
            x = samples.x[part]
            scatter = self._scatter(block, name, x.shape[1], samples.cells)
            weight = None if self.weight is None else self.weight[part]
            centre = None if self.done < SETTLED else self.centred.get(name, False)
            sums, centred = add_features(scatter, x, weight, centre)
            self.centred[name] = self.centred.get(name, False) or centred
            self.totals[name, block] = scatter.total
            self._teach(scatter, samples, part, x, sums, weight)

    def _teach(
        self,
        scatter: Scatter,
        samples: Samples,
        part: slice,
        x: Tensor,
        sums: Tensor,
        weight: Tensor | None,
    ) -> None:
        """Add the teacher's side: now, or once the network's output is known."""
        if self.Y is not None and self.Y.dim() > 2:
            x = x.to(self.store, torch.float64)
            add_teacher(scatter, samples.at(self.Y)[part], x, weight)
            return
        positions = x.shape[2]

        def finish() -> None:
            assert self.Y is not None
            add_teacher(scatter, self.Y[part], sums, weight, positions)

        self.later.append(finish)

    def _scatter(self, block: int, name: str, features: int, cells: int) -> Scatter:
        found = self.scatters[block].get(name)
        if found is None or found.features != features:
            if any(float(h[name].weight) for h in self.scatters if name in h):
                raise DataError(
                    f"module {name!r} reads maps of several sizes, which have no features in "
                    f"common with sampling={self.sampling.kind!r}: say 'pixel', or 'flatten:4'"
                )
            self._check_memory(name, features)
            for held in self.scatters:
                held[name] = self._zeros(features, cells)
        return self.scatters[block][name]

    def _zeros(self, features: int, cells: int = 1) -> Scatter:
        discrete = self.teacher is None or self.teacher.discrete
        return Scatter.zeros(features, self.columns, self.store, discrete=discrete, cells=cells)

    def _check_memory(self, name: str, features: int) -> None:
        need = 8 * self.blocks * features**2
        self.reserved += need  # zeros take no memory until they are written to
        if self.reserved > self.free:
            raise ConfigError(
                f"module {name!r} reads {features} features, whose Gram matrices take "
                f"{need / 1e9:.1f} GB in {self.blocks} blocks, {self.reserved / 1e9:.1f} GB with "
                f"those before, and {self.free / 1e9:.1f} GB are free: say sampling='dual' or "
                "'pool:1', pool first ('flatten:4'), or fewer blocks"
            )

    def _add_dual(self, name: str, x: Tensor, cells: int) -> None:
        held = self.duals[self.parts[0][1]]
        if name not in held:
            for block in self.duals:
                block[name] = Dual.zeros(x.shape[1] // cells, self.store)
        assert self.Y is not None and self.teacher is not None
        Y = self.Y if self.Y.dim() == 2 else self.Y.flatten(2).mean(2)
        held[name].add_(x, Y, discrete=self.teacher.discrete)

    def _watch_gradient(self, consumer: Consumer, module: nn.Module, raw: Tensor) -> None:
        output = self.outputs.setdefault(consumer.module, Output())

        def channels(t: Tensor) -> Tensor:
            plain = Sampling("pixel")
            return take_samples(t, module, consumer, plain, images=1, batch=0, feature_limit=0).x

        values = raw.detach()  # raw itself would hold its graph, which holds the hook: a leak

        def hook(g: Tensor) -> None:
            output.add_taylor_(channels(values), channels(g))

        raw.register_hook(hook)  # type: ignore[no-untyped-call]

    def _writing(self, name: str) -> Any:
        """Return the hook that looks at a consumer's output."""
        seen = self.outputs.setdefault(name, Output())

        def after(module: nn.Module, _: Any, z: Tensor) -> None:
            linear = isinstance(module, nn.Linear)
            if self.ranges:
                seen.add_range_(_by_channel(z.detach(), linear=linear))
            if self.gradients:
                z.register_hook(  # type: ignore[no-untyped-call]
                    lambda g: seen.add_gradient_(_by_channel(g, linear=linear))
                )

        return after

    def finish(self) -> Statistics:
        """Return the statistics of all batches."""
        if not self.images:
            raise DataError(
                "the calibration loader gave no batch: give it at least one image a class"
            )
        used = [b for b, images in enumerate(self.block_images) if images]
        form: dict[str, Scatter] = {}
        for block in self.scatters:
            form |= block
        for name, consumer in self.groups.consumers.items():
            like = form.get(name)
            features = like.features if like else len(consumer.positions)
            empty = self._zeros(features, like.cells if like else 1)
            for b in used:  # it did not run, or not in this block
                held = self.scatters[b].get(name)
                if held is None or not held.weight:
                    self.scatters[b][name] = empty
        parents = tuple(self.teacher.parents) if isinstance(self.teacher, Classes) else ()
        text = self.sampling.kind + (f":{self.sampling.grid}" if self.sampling.grid else "")
        order = list(dict.fromkeys([name for name, _ in self.totals] + [*self.groups.consumers]))
        return Statistics(
            [{name: self.scatters[b][name] for name in order} for b in used],  # as they run
            self.groups,
            self.images,
            block_images=[self.block_images[b] for b in used],
            sampling=text,
            parents=parents,
            outputs=self.outputs,
            dual_blocks=[self.duals[b] for b in used],
        )


def _by_image(x: Tensor, images: int) -> Tensor:
    """Return what a linear layer reads with one row an image: its windows are tokens of it.

    Networks that attend within windows make them the first axis, image by image. An input whose
    second axis is the batch has its tokens first, and stays as it is.
    """
    rows = len(x)
    if rows == images or rows % images or (x.dim() > 2 and x.shape[1] == images):
        return x
    return x.reshape(images, -1, x.shape[-1])


def _by_channel(z: Tensor, *, linear: bool) -> Tensor:
    """Return an output as (B, O, P)."""
    if not linear:
        return z.flatten(2)
    return z.unsqueeze(-1) if z.dim() == 2 else z.flatten(1, -2).transpose(1, 2)
