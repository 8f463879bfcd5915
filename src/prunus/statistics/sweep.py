"""One batch after another through the network: hooks that add every consumer's input to `Sums`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from prunus.batches import Batch, Inputs, primary
from prunus.core import ConfigError, DataError, NonFiniteError
from prunus.graph import Consumer
from prunus.modules import Products, calling, module_at
from prunus.statistics.accumulate import add_teacher
from prunus.statistics.guards import (
    first_bad,
    only_activations,
    values_of,
    watch_gradient,
    with_graph,
)
from prunus.statistics.loader import weigh
from prunus.statistics.request import Request
from prunus.statistics.sampling import Samples, Sampling, take_samples
from prunus.statistics.scatter import Scatter
from prunus.statistics.statistics import Statistics
from prunus.statistics.sums import Sums
from prunus.statistics.teacher import Teacher

__all__ = ["Sweep"]


@dataclass(eq=False)
class _Passing:
    """A batch on its way through the network.

    Attributes:
        parts: which of its images belong to which block.
        weight: of each image where classes are balanced. Shape (B,).
        Y: the teacher's columns, (B, q, …); None until the output is known where that teaches.
        later: what is left to do once it is.
        read: what consumers read, until it is known whether each has a gradient.
        again: whether it runs a second time, for the gradients that the first run lost.
        over: whether the forward pass is: in the backward pass, checkpoints run modules again.
    """

    number: int
    size: int
    parts: list[tuple[slice, int]]
    weight: Tensor | None
    Y: Tensor | None
    later: list[Callable[[], None]] = field(default_factory=list)
    read: list[Tensor] = field(default_factory=list)
    again: bool = False
    over: bool = False


class Sweep:
    """One pass: runs batches through the network and adds up what its consumers read."""

    def __init__(self, request: Request, teacher: Teacher) -> None:
        self._request, self._teacher = request, teacher
        self._sums = Sums(request, teacher)
        self._done = 0
        self._through = False

    def batch(self, given: Batch, class_weights: Tensor | None) -> None:
        """Run one batch and add it to its blocks."""
        asked, teacher, sums = self._request, self._teacher, self._sums
        y, size, Y = given.labels, given.size, None
        if not teacher.own:
            if y is None:
                raise DataError("the images have no labels: pass teacher='logits'")
            if y.dim() == 0 or len(y) != size:
                shape = len(y) if y.dim() else "no"
                raise DataError(f"{shape} labels were given for {size} images")
            Y = teacher.encode(y).to(asked.store)
            sums.expect(Y)
        weight = None
        if class_weights is not None and y is not None:
            weight = weigh(y, class_weights).to(asked.store)
        batch = _Passing(self._done, size, asked.parts(self._done, size), weight, Y)
        if not self._done:
            sums.reserve()
        with (
            self._hooked(batch),
            only_activations(asked.model, asked.gradients, through=self._through) as mode,
            calling(asked.model, asked.groups.uncalled),
        ):
            output = self._run(given.inputs)
            if asked.gradients and mode.loses(output, batch.read):
                mode.through = self._through = batch.again = True
                output = self._run(given.inputs)
            batch.read.clear()
            batch.over = True
            checks = [total.sum().to(asked.store) for total in sums.totals]
            if teacher.own or asked.gradients:
                checks.append(values_of(output).sum().to(asked.store))
            finite = not checks or bool(torch.stack([s.double() for s in checks]).isfinite().all())
            if asked.gradients and finite:
                labels = y if y is not None else torch.empty(0)
                if not output.requires_grad:
                    raise ConfigError(
                        f"the output of {type(asked.model).__name__} has no gradient, for example "
                        "because it is detached: leave that out of the forward pass, or use what "
                        "needs no gradients"
                    )
                teacher.loss(output, labels).backward()  # type: ignore[no-untyped-call]
        if not finite:
            raise NonFiniteError(first_bad(asked.model, given.inputs))
        if teacher.own:
            batch.Y = teacher.encode(values_of(output)).to(asked.store)
            sums.expect(batch.Y)
        for finish in batch.later:
            finish()
        batch.later.clear()  # they hold the batch, which holds them
        sums.count(batch.parts)
        self._done += 1

    def _run(self, inputs: Inputs) -> Tensor:
        inputs = inputs.detached()
        if self._request.gradients:
            inputs = inputs.map(with_graph)
        return primary(inputs.run(self._request.model))

    @property
    def images(self) -> int:
        """How many images were run."""
        return self._sums.images

    def finish(self) -> Statistics:
        """Return the statistics of all batches."""
        return self._sums.finish()

    @contextmanager
    def _hooked(self, batch: _Passing) -> Iterator[None]:
        asked = self._request
        running: list[str] = []
        seen = asked.groups.consumers if asked.gradients or asked.ranges else ()
        writing = {name: self._writing(name, batch) for name in seen}

        def product(_: Tensor, made: Tensor) -> None:
            if running and running[-1] in asked.groups.composite:
                name = running[-1]
                writing[name](module_at(asked.model, name), None, made)

        with ExitStack() as hooks:

            def add(handle: Any) -> None:
                hooks.callback(handle.remove)

            for name, consumer in asked.groups.consumers.items():
                module = module_at(asked.model, name)
                add(module.register_forward_pre_hook(self._reading(consumer, batch)))
                if name not in writing:
                    continue
                if name not in asked.groups.composite:
                    add(module.register_forward_hook(writing[name]))
                if asked.groups.composite:  # their output is more than their product
                    add(module.register_forward_pre_hook(partial(_enter, running, name)))
                    add(module.register_forward_hook(partial(_leave, running)))
            if asked.groups.composite and writing:
                hooks.enter_context(Products(product))
            yield

    def _reading(self, consumer: Consumer, batch: _Passing) -> Any:
        """Return the hook that adds a consumer's input."""
        asked = self._request

        def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            raw = with_graph(args[0]) if asked.gradients else args[0]
            changed = None if raw is args[0] else (raw, *args[1:])
            if batch.over:
                return changed
            if asked.gradients:
                batch.read.append(raw)
                self._watch_gradient(consumer, module, raw)
            if batch.again:
                return changed
            samples = asked.samples(
                values_of(raw), module, consumer, number=batch.number, size=batch.size
            )
            if len(samples.x) != batch.size:
                self._sums.leave_out(consumer.module)
                return None
            self._add(consumer.module, samples, batch)
            return changed

        return before

    def _add(self, name: str, samples: Samples, batch: _Passing) -> None:
        sums = self._sums
        if self._request.sampling.kind == "dual":
            x = samples.x.squeeze(-1) if samples.x.shape[2] == 1 else samples.x.mean(2)
            sums.meet(name, x)

            def add_dual() -> None:
                assert batch.Y is not None
                sums.add_dual(name, x, batch.Y, block=batch.parts[0][1], cells=samples.cells)

            batch.later.append(add_dual)
            return
        for part, block in batch.parts:
            x = samples.x[part]
            weight = None if batch.weight is None else batch.weight[part]
            scatter, totals = sums.add(
                name, x, weight, block=block, cells=samples.cells, number=batch.number
            )
            self._teach(scatter, samples, part, totals, batch)

    def _teach(
        self, scatter: Scatter, samples: Samples, part: slice, totals: Tensor, batch: _Passing
    ) -> None:
        """Add the teacher's side: now, or once the network's output is known."""
        weight = None if batch.weight is None else batch.weight[part]
        if batch.Y is not None and batch.Y.dim() > 2:
            x = samples.x[part].to(self._request.store, torch.float64)
            add_teacher(scatter, samples.at(batch.Y)[part], x, weight)
            return
        positions = samples.x.shape[2]

        def finish() -> None:
            assert batch.Y is not None
            add_teacher(scatter, batch.Y[part], totals, weight, positions)

        batch.later.append(finish)

    def _watch_gradient(self, consumer: Consumer, module: nn.Module, raw: Tensor) -> None:
        output = self._sums.output(consumer.module)

        def channels(t: Tensor) -> Tensor:
            plain = Sampling("pixel")
            return take_samples(t, module, consumer, plain, images=1, batch=0, feature_limit=0).x

        values = values_of(raw)  # raw itself would hold its graph, which holds the hook: a leak

        def hook(g: Tensor) -> None:
            output.add_taylor_(channels(values), channels(g))

        watch_gradient(raw, hook, consumer.module)

    def _writing(self, name: str, batch: _Passing) -> Any:
        """Return the hook that looks at a consumer's output."""
        asked, seen = self._request, self._sums.output(name)

        def after(module: nn.Module, _: Any, z: Tensor) -> None:
            if batch.over:
                return
            linear = isinstance(module, nn.Linear)
            if asked.ranges and not batch.again:
                seen.add_range_(_by_channel(values_of(z), linear=linear))
            if asked.gradients:
                watch_gradient(z, lambda g: seen.add_gradient_(_by_channel(g, linear=linear)), name)

        return after


def _enter(running: list[str], name: str, *_: Any) -> None:
    running.append(name)


def _leave(running: list[str], *_: Any) -> None:
    running.pop()


def _by_channel(z: Tensor, *, linear: bool) -> Tensor:
    """Return an output as (B, O, P)."""
    if not linear:
        return z.flatten(2)
    return z.unsqueeze(-1) if z.dim() == 2 else z.flatten(1, -2).transpose(1, 2)
