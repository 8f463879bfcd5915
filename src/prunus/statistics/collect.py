"""One pass over the calibration images: `collect`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from prunus.core.errors import ConfigError, DataError, NonFiniteError
from prunus.graph import Consumer, Groups
from prunus.graph.probe import flatten_tensors
from prunus.statistics.accumulate import add_features, add_teacher
from prunus.statistics.dual import Dual
from prunus.statistics.guards import first_bad, free_memory, only_activations
from prunus.statistics.outputs import Output
from prunus.statistics.sampling import Samples, Sampling, take_samples
from prunus.statistics.scatter import Scatter
from prunus.statistics.statistics import Statistics
from prunus.statistics.teacher import Classes, Teacher, make_teacher

__all__ = ["collect"]

Loader = Iterable[Any]


def collect(
    model: nn.Module,
    loader: Loader,
    groups: Groups,
    teacher: Teacher | int | str | None = None,
    *,
    parents: Sequence[Sequence[int]] = (),
    sampling: str = "pixel",
    blocks: int = 8,
    balance: bool = False,
    gradients: bool = False,
    ranges: bool = False,
    batches: int | None = None,
    feature_limit: int = 4096,
    progress: Any = None,
) -> Statistics:
    """Sum up the input of every consumer over `loader`: one pass, nothing kept an image.

    Args:
        loader: batches (images, labels or targets) of the training data; images alone do for
            `teacher="logits"`.
        teacher: the number of classes (by default the width of the network's output), `targets`
            for continuous vectors or maps, `logits` for the network's own output.
        parents: the coarser class of each class, one sequence a granularity; or labels come as
            (B, G), the finest first.
        sampling: `patch`, `pixel`, `pool:G`, `flatten`, `flatten:G` or `dual` (see `Sampling`).
        blocks: K, how many parts the images are kept in, for intervals. Memory: 8·K·F² bytes a
            consumer.
        balance: weigh each image by N/(L·N_l), so that classes count alike; reads the labels
            once before the pass. Merging balanced statistics is exact where classes have the
            same frequencies. Gradients and ranges are not weighed.
        gradients: also sum the second moment of the loss's gradient in each consumer's output
            and first-order Taylor terms; a backward pass to the activations.
        ranges: also note the range of each consumer's output.
        batches: stop after so many batches.
        feature_limit: wider patches are sampled by pixel.
        progress: wraps the loader's iteration (a progress bar).

    Each batch is summed in the activations' precision, batches add up in float64.
    Cost: N·P·F² multiply-adds a consumer, P samples an image. By pixel P = H·W and F = C, 1 ÷
    (taps·C_out/C) of its forward pass; patches (F = k²·C) are taken at as many random positions
    as give 10 000 samples and 16 a feature.

    Raises:
        NonFiniteError: an activation is NaN or infinite; names the first module that makes one.
        DataError: no batch came, or labels that do not fit the network.
        ConfigError: the Gram matrices would not fit into memory (says what would), or settings
            that do not go together.
    """
    how = Sampling.parse(sampling)
    if blocks < 1:
        raise ConfigError(f"blocks is {blocks}, expected at least 1")
    if balance and how.kind == "dual":
        raise ConfigError("sampling='dual' sums whole batches: say balance=False")
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        weights = _class_weights(loader, batches) if balance else None
        sweep = _Sweep(model, groups, how, blocks, feature_limit, gradients, ranges)
        sweep.expected = _length(loader, batches)
        taken = loader if batches is None else itertools.islice(loader, batches)
        for batch in progress(taken) if progress else taken:
            x, y = _pair(batch)
            if sweep.teacher is None:
                x_first = x[:1].to(sweep.device)
                sweep.teacher = make_teacher(teacher, model, x_first, parents)
            sweep.batch(x, y, weights)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return sweep.finish()


class _Sweep:
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
    ) -> None:
        self.model, self.groups, self.sampling = model, groups, sampling
        self.blocks, self.feature_limit = blocks, feature_limit
        self.gradients, self.ranges = gradients, ranges
        self.device = next(model.parameters()).device
        self.store = "cpu" if self.device.type == "mps" else self.device  # MPS has no float64
        self.teacher: Teacher | None = None
        self.expected: int | None = None
        self.scatters: list[dict[str, Scatter]] = [{} for _ in range(blocks)]
        self.duals: list[dict[str, Dual]] = [{} for _ in range(blocks)]
        self.outputs: dict[str, Output] = {}
        self.images = self.done = self.columns = 0
        self.block_images = [0] * blocks
        self.bad: list[str] = []
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
            self.weight = _weigh(y, class_weights).to(self.store)
        self.parts = self._parts(len(x))
        for part, block in self.parts:
            self.block_images[block] += part.stop - part.start
        x = x.to(self.device)
        self.later.clear()
        with self._hooked(), only_activations(self.model, self.gradients):
            output = flatten_tensors(self.model(x.detach().requires_grad_(self.gradients)))[0]
            if (teacher.own or self.gradients) and not torch.isfinite(output).all():
                self.bad.append("the output")
            if self.gradients and not self.bad:
                labels = y if y is not None else torch.empty(0)
                teacher.loss(output, labels).backward()  # type: ignore[no-untyped-call]
        if self.bad:
            raise NonFiniteError(first_bad(self.model, x.detach()))
        if teacher.own:
            self.Y = teacher.encode(output.detach()).to(self.store)
            self.columns = self.Y.shape[1]
        for finish in self.later:
            finish()
        self.images += len(x)
        self.done += 1

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
            module = self.model.get_submodule(name)
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
        return take_samples(
            x,
            module,
            consumer,
            self.sampling,
            images=self.size * (self.expected or 8),
            batch=self.done,
            feature_limit=self.feature_limit,
        )

    def _add(self, name: str, samples: Samples) -> None:
        if self.sampling.kind == "dual":
            x = samples.x.squeeze(-1) if samples.x.shape[2] == 1 else samples.x.mean(2)
            if not torch.isfinite(x.sum()):
                self.bad.append(name)
            self.later.append(lambda: self._add_dual(name, x, samples.cells))
            return
        for part, block in self.parts:
            x = samples.x[part]
            scatter = self._scatter(block, name, x.shape[1], samples.cells)
            weight = None if self.weight is None else self.weight[part]
            sums = add_features(scatter, x, weight)
            if sums is None:
                self.bad.append(name)
                return
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
        held = self.scatters[block]
        if name not in held:
            self._check_memory(name, features)
            held[name] = self._zeros(features, cells)
        return held[name]

    def _zeros(self, features: int, cells: int = 1) -> Scatter:
        discrete = self.teacher is None or self.teacher.discrete
        return Scatter.zeros(features, self.columns, self.store, discrete=discrete, cells=cells)

    def _check_memory(self, name: str, features: int) -> None:
        need = 8 * features**2
        free = free_memory(torch.device(self.store))
        if free is not None and need > free:
            raise ConfigError(
                f"module {name!r} reads {features} features, whose Gram matrix takes "
                f"{need / 1e9:.1f} GB a block, and {free / 1e9:.1f} GB are free: say "
                "sampling='dual' or 'pool:1', pool first ('flatten:4'), or fewer blocks"
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

        def hook(g: Tensor) -> None:
            output.add_taylor_(channels(raw.detach()), channels(g))

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
                self.scatters[b].setdefault(name, empty)
        parents = tuple(self.teacher.parents) if isinstance(self.teacher, Classes) else ()
        text = self.sampling.kind + (f":{self.sampling.grid}" if self.sampling.grid else "")
        return Statistics(
            [self.scatters[b] for b in used],
            self.groups,
            self.images,
            block_images=[self.block_images[b] for b in used],
            sampling=text,
            parents=parents,
            outputs=self.outputs,
            dual_blocks=[self.duals[b] for b in used],
        )


def _pair(batch: Any) -> tuple[Tensor, Tensor | None]:
    if isinstance(batch, Tensor):
        return batch, None
    x, *rest = batch
    return x, rest[0] if rest else None


def _by_channel(z: Tensor, *, linear: bool) -> Tensor:
    """Return an output as (B, O, P)."""
    if not linear:
        return z.flatten(2)
    return z.unsqueeze(-1) if z.dim() == 2 else z.flatten(1, -2).transpose(1, 2)


def _class_weights(loader: Loader, batches: int | None) -> Tensor:
    """Return N/(L·N_l) of every class l of the loader's labels."""
    if isinstance(loader, Iterator):
        raise DataError("balance=True reads the loader twice: give one that can be, no iterator")
    labels = [_pair(batch)[1] for batch in itertools.islice(loader, batches)]
    if not labels or any(y is None or y.is_floating_point() for y in labels):
        raise DataError("balance=True needs class labels (int64): give a loader that has them")
    fine = torch.cat([_finest(y) for y in labels if y is not None])
    if (fine < 0).any():
        raise DataError(f"labels run from {int(fine.min())}, expected class indices from 0")
    count = torch.bincount(fine).double()
    present = int((count > 0).sum())
    return torch.where(count > 0, len(fine) / present / count.clamp(min=1), 0.0)


def _weigh(y: Tensor, class_weights: Tensor) -> Tensor:
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


def _length(loader: Loader, batches: int | None) -> int | None:
    try:
        length = len(loader) if isinstance(loader, Sized) else None
    except TypeError:
        return batches
    return length if batches is None or length is None else min(length, batches)
