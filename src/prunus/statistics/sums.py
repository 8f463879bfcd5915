"""What one pass accumulates, and the `Statistics` that it becomes."""

from __future__ import annotations

from torch import Tensor

from prunus.core import DataError
from prunus.modules import module_at
from prunus.statistics.accumulate import add_features
from prunus.statistics.dual import Dual
from prunus.statistics.guards import MemoryGuard
from prunus.statistics.outputs import Output
from prunus.statistics.request import Request
from prunus.statistics.sampling import cells_of
from prunus.statistics.scatter import Scatter
from prunus.statistics.sketch import Sketch
from prunus.statistics.statistics import Statistics
from prunus.statistics.teacher import Classes, Teacher

__all__ = ["Sums"]

#: Batches after which it is known which consumers' products are taken about the mean.
SETTLED = 2


class Sums:
    """The sums of one pass: scatters, kernels and outputs by consumer, images by block."""

    def __init__(self, request: Request, teacher: Teacher) -> None:
        self._request, self._teacher = request, teacher
        self._memory = MemoryGuard(request.store)
        self._columns = 0
        self._scatters: list[dict[str, Scatter]] = [{} for _ in range(request.blocks)]
        self._left_out: set[str] = set()
        self._duals: list[dict[str, Dual]] = [{} for _ in range(request.blocks)]
        self._outputs: dict[str, Output] = {}
        self._block_images = [0] * request.blocks
        self._totals: dict[tuple[str, int], Tensor] = {}
        self._centred: dict[str, bool] = {}

    @property
    def images(self) -> int:
        """How many images were counted."""
        return sum(self._block_images)

    @property
    def totals(self) -> list[Tensor]:
        """Σ x of every consumer met so far, by block: finite as long as all activations are."""
        return list(self._totals.values())

    def expect(self, Y: Tensor) -> None:
        """Note the width q of the teacher, from its columns in a batch. Shape (B, q, …)."""
        self._columns = Y.shape[1]

    def reserve(self) -> None:
        """Make the sums before the first batch, where their size is known without running.

        Made between the maps of a running network, they split the heap's free blocks, and the
        pass takes fresh pages for the maps of every later batch: a tenth of its time.
        """
        asked = self._request
        for name, consumer in asked.groups.consumers.items():
            module, features = module_at(asked.model, name), len(consumer.positions)
            cells = cells_of(module, features, asked.sampling, asked.feature_limit)
            if cells is not None or consumer.wide:
                self._scatter(0, name, (cells or 1) * features, cells or 1)

    def count(self, parts: list[tuple[slice, int]]) -> None:
        """Count the images of a batch in their blocks."""
        for part, block in parts:
            self._block_images[block] += part.stop - part.start

    def output(self, name: str) -> Output:
        """Return the sums over a consumer's output."""
        return self._outputs.setdefault(name, Output())

    def add(
        self, name: str, x: Tensor, weight: Tensor | None, *, block: int, cells: int, number: int
    ) -> tuple[Scatter, Tensor]:
        """Add features x (B, F, P) of batch `number` to one block's scatter.

        Returns the scatter and each image's sum over its samples, (B, F).
        """
        scatter = self._scatter(block, name, x.shape[1], cells)
        if isinstance(scatter, Sketch):
            self._totals[name, block] = scatter.total
            return scatter, scatter.add_(x, weight)
        centre = None if number < SETTLED else self._centred.get(name, False)
        sums, centred = add_features(scatter, x, weight, centre)
        self._centred[name] = self._centred.get(name, False) or centred
        self._totals[name, block] = scatter.total
        return scatter, sums

    def meet(self, name: str, x: Tensor) -> None:
        """Note the features of a batch whose kernel is added once its teacher is known."""
        self._totals[name, 0] = x

    def add_dual(self, name: str, x: Tensor, Y: Tensor, *, block: int, cells: int) -> None:
        """Add a batch to a consumer's kernel form."""
        held = self._duals[block]
        if name not in held:
            for every in self._duals:
                every[name] = Dual.zeros(x.shape[1] // cells, self._request.store)
        Y = Y if Y.dim() == 2 else Y.flatten(2).mean(2)
        held[name].add_(x, Y, discrete=self._teacher.discrete)

    def _scatter(self, block: int, name: str, features: int, cells: int) -> Scatter:
        found = self._scatters[block].get(name)
        if found is None or found.features != features:
            if any(float(h[name].weight) for h in self._scatters if name in h):
                raise DataError(
                    f"module {name!r} reads maps of several sizes, which have no features in "
                    f"common with sampling={self._request.sampling.kind!r}: pass 'pixel', or "
                    "'flatten:4'"
                )
            self._memory.reserve(name, features, self._request.blocks, sketch=self._sketched(name))
            for held in self._scatters:
                held[name] = self._zeros(name, features, cells)
        return self._scatters[block][name]

    def _sketched(self, name: str) -> bool:
        """Return whether a consumer is too wide for a Gram matrix; kernels need none."""
        asked = self._request
        return asked.groups.consumers[name].wide and asked.sampling.kind not in ("flatten", "dual")

    def _zeros(self, name: str, features: int, cells: int = 1) -> Scatter:
        discrete, store = self._teacher.discrete, self._request.store
        if self._sketched(name):
            return Sketch.empty(features, self._columns, store, discrete=discrete)
        return Scatter.zeros(features, self._columns, store, discrete=discrete, cells=cells)

    def leave_out(self, name: str) -> None:
        """Keep no statistics of a consumer: its rows are not those of the images of a batch."""
        self._left_out.add(name)

    def finish(self) -> Statistics:
        """Return the statistics of all batches."""
        asked = self._request
        used = [b for b, images in enumerate(self._block_images) if images]
        form: dict[str, Scatter] = {}
        for block in self._scatters:
            form |= block
        for name, consumer in asked.groups.consumers.items():
            like = form.get(name)
            features = like.features if like else len(consumer.positions)
            empty = self._zeros(name, features, like.cells if like else 1)
            for b in used:  # it did not run, or not in this block
                held = self._scatters[b].get(name)
                if held is None or not held.weight or name in self._left_out:
                    self._scatters[b][name] = empty
            for b in used:
                if isinstance(held := self._scatters[b][name], Sketch):
                    held.compress_()
        parents = tuple(self._teacher.parents) if isinstance(self._teacher, Classes) else ()
        text = asked.sampling.kind + (f":{asked.sampling.grid}" if asked.sampling.grid else "")
        ran = [name for name, _ in self._totals]
        order = list(dict.fromkeys([*ran, *asked.groups.consumers]))
        return Statistics(
            [{name: self._scatters[b][name] for name in order} for b in used],  # as they run
            asked.groups,
            self.images,
            block_images=[self._block_images[b] for b in used],
            sampling=text,
            parents=parents,
            outputs=self._outputs,
            dual_blocks=[self._duals[b] for b in used],
        )
