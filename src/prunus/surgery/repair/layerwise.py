"""Patch repair: refit every consumer of a cut network, layer by layer, to the dense outputs.

Let X (F×n) be the k×k patches that a consumer sees *in the cut network*, where everything before it
has been refitted already, and T (O×n) what the dense network computes there. The weight becomes

    V = argmin ‖VᵀX − T‖² + ‖R^½(V − W_K)‖²,  R = ridge·diag(XXᵀ),

in affine form, the bias going into the running mean of a BatchNorm that follows. Where the
consumer's output is added to another stream s (a residual connection), the cut network's stream has
drifted by s_dense − s_cut; then T is what makes the *sum* right, T = (z + s)_dense − s_cut, mapped
back through the BatchNorm between. Where a ReLU alone reads the result y, what is negative in the
dense network need only be negative: T is lifted to min(y_cut, 0) there and V solved again, a few
times.

A consumer that runs several times in a pass has one weight for all its calls. At each call it is
fitted to all calls so far, so that at the last the regression sums over all of them
(`refit_weight_`). What lies behind its first call was fitted to weights that it had on the way,
and is fitted once more with the last ones.

Sources: [ThiNet, eq. 7] and [Channel-pruning, section 3.1] for the layer-wise least squares,
[Zhang-ReLU, section 3.2] for the ReLU; the drift correction and the sharing are reconstructions
of ours. theory.md (63) to (65).

Both networks run in step over all calibration images at once, so it costs one forward pass of
each (two where a consumer runs several times) and n·F² multiply-adds per consumer, n at least
40 000 positions, and holds the live maps of a forward pass of all images; as many of these are
taken as fit into 4 GB, or into half the memory that the process may use, 2 048 where they suffice.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from prunus.batches import Inputs, read
from prunus.core import DataError, derive_seed
from prunus.graph import Groups
from prunus.modules import CONVOLUTIONS, SelectLinear, evaluating, module_at, opened
from prunus.plan import Plan
from prunus.statistics import Samples, draw_places, patches
from prunus.surgery.repair.closed_form import Repair
from prunus.surgery.repair.consumers import RefittedConsumer, Use, behind_shared, find_refitted
from prunus.surgery.repair.forward_pass import CallKey, Run, norms_of
from prunus.surgery.repair.joint import fit_pair_
from prunus.surgery.repair.ridge import Target, refit_weight_

__all__ = ["refit_"]

#: Fewer samples per feature than this fit noise: the consumer is left as it is.
LEAST_A_FEATURE = 2


@torch.no_grad()
def refit_(
    model: nn.Module,
    dense: nn.Module,
    groups: Groups,
    plan: Plan,
    batches: Iterable[Any],
    *,
    ridge: float = 1e-3,
    joint: bool = False,
) -> list[Repair]:
    """Refit, in place, every consumer of the cut `model` that lies behind the first cut.

    Args:
        model: the network after `replay_(model, plan)`.
        dense: the network before.
        groups: those of the dense network, for its consumers in running order.
        batches: calibration batches; labels are not used. Of images of several sizes those as
            large as the first are used.
        ridge: weight of the old weights, in units of each feature's own energy.
        joint: also fit what makes the channels that were cut with what reads them (`fit_pair_`),
            where one convolution makes them and one reads them, behind a ReLU.

    Returns:
        For each consumer, the share of its target's variance that it cannot reproduce.

    Raises:
        DataError: the loader yields no image.
    """
    with _in_float(model, dense):
        return _refit(model, dense, groups, plan, batches, ridge=ridge, joint=joint)


@contextmanager
def _in_float(*models: nn.Module) -> Iterator[None]:
    """Compute in float32 where networks have half precision; their types are restored."""
    held = [
        (tensor, tensor.dtype)
        for model in models
        for tensor in (*model.parameters(), *model.buffers())
        if tensor.dtype in (torch.float16, torch.bfloat16)
    ]
    for tensor, _ in held:
        tensor.data = tensor.data.float()
    try:
        yield
    finally:
        for tensor, dtype in held:
            tensor.data = tensor.data.to(dtype)


def _refit(
    model: nn.Module,
    dense: nn.Module,
    groups: Groups,
    plan: Plan,
    batches: Iterable[Any],
    *,
    ridge: float,
    joint: bool,
) -> list[Repair]:
    stream = iter(read(batches, model))
    first = next(stream, None)
    if first is None:
        raise DataError(
            "the calibration loader gave no batch: give it at least one image per class"
        )
    with evaluating(model, dense), opened(model, dense):
        one = first.inputs.first(1)
        consumers, repairs, count = find_refitted(dense, groups, plan, one, joint)
        if not consumers:
            return repairs
        taken = [first]
        held = first.size
        while held < count and (batch := next(stream, None)) is not None:
            if [t.shape[1:] for t in batch.inputs] == [t.shape[1:] for t in first.inputs]:
                taken.append(batch)
                held += batch.size
        inputs = Inputs.joined([batch.inputs for batch in taken]).first(count)
        made = _lockstep(model, dense, consumers, groups, inputs, ridge)
        if again := behind_shared(consumers):
            made += _lockstep(model, dense, again, groups, inputs, ridge)
        return repairs + list({repair.module: repair for repair in made}.values())


def _lockstep(
    model: nn.Module,
    dense: nn.Module,
    consumers: dict[str, RefittedConsumer],
    groups: Groups,
    inputs: Inputs,
    ridge: float,
) -> list[Repair]:
    """Run both networks in step, the dense one a thread ahead, and refit the cut one."""
    targets: queue.Queue[Any] = queue.Queue(maxsize=2)
    stop = threading.Event()
    thread = threading.Thread(
        target=_send, args=(dense, consumers, groups, inputs, targets, stop), daemon=True
    )
    thread.start()
    pupil = _Pupil(model, consumers, groups, targets, ridge)
    try:
        with pupil:
            inputs(model)
    finally:
        stop.set()
        thread.join()
    return pupil.finish()


class _Stopped(Exception):  # noqa: N818 - a signal, not an error
    pass


def _send(
    dense: nn.Module,
    consumers: dict[str, RefittedConsumer],
    groups: Groups,
    inputs: Inputs,
    targets: queue.Queue[Any],
    stop: threading.Event,
) -> None:
    """Run the dense network in another thread, and send every target in order, then the end."""
    last: BaseException | None = None
    try:
        with torch.no_grad(), _Teacher(dense, consumers, groups, targets, stop):
            inputs(dense)
    except _Stopped:
        return
    except BaseException as error:
        last = error
    _put(targets, last, stop)


def _put(targets: queue.Queue[Any], item: Any, stop: threading.Event) -> bool:
    """Put an item into the queue unless nobody reads it any more; return whether it was."""
    while not stop.is_set():
        try:
            targets.put(item, timeout=0.2)
        except queue.Full:
            continue
        return True
    return False


class _Teacher(Run):
    """Puts the sampled result of every consumer, or the sum behind it, into the queue."""

    def __init__(
        self,
        dense: nn.Module,
        consumers: dict[str, RefittedConsumer],
        groups: Groups,
        targets: queue.Queue[Any],
        stop: threading.Event,
    ) -> None:
        super().__init__(dense, consumers, norms_of(groups), groups.uncalled)
        self.consumers, self.targets, self.stop = consumers, targets, stop

    def after(self, call: CallKey, z: Tensor) -> None:
        """Send the output of a consumer without a norm."""
        use = self._use(call)
        if use is not None and not use.summed and call not in self.norms:
            self._put(call, z)

    def at_sum(self, calls: list[CallKey | None], terms: list[Tensor]) -> list[Tensor]:
        """Send the sum, once for each consumer that made a term."""
        total = terms[0] + terms[1]
        for call in filter(None, calls):
            if self._use(call) is not None:
                self._put(call, total)
        return terms

    def _passing(self, module: nn.Module, args: tuple[Any, ...], y: Tensor) -> None:
        super()._passing(module, args, y)
        _, call = self.made.get(id(y), (None, None))
        use = None if call is None else self._use(call)
        if call is not None and use is not None and not use.summed:
            self._put(call, y)

    def _use(self, call: CallKey) -> Use | None:
        """Return what follows a call; None for one more call than there were for one example."""
        uses = self.consumers[call[0]].uses
        return uses[call[1]] if call[1] < len(uses) else None

    def _put(self, call: CallKey, z: Tensor) -> None:
        consumer = self.consumers[call[0]]
        item = _sampled_output(consumer, module_at(self.model, consumer.name), z)
        item = item if consumer.kept is None else item[:, consumer.kept]
        if not _put(self.targets, (call, item), self.stop):
            raise _Stopped


class _Pupil(Run):
    """Refits each consumer as the cut network's forward pass reaches it."""

    def __init__(
        self,
        model: nn.Module,
        consumers: dict[str, RefittedConsumer],
        groups: Groups,
        targets: queue.Queue[Any],
        ridge: float,
    ) -> None:
        self.makers = {r.maker: r.name for r in consumers.values() if r.maker is not None}
        names = {**consumers, **dict.fromkeys(self.makers)}
        super().__init__(model, names, norms_of(groups), groups.uncalled)
        self.consumers, self.targets, self.ridge = consumers, targets, ridge
        self.repairs: list[Repair] = []
        self.waiting: dict[CallKey, Tensor] = {}  # inputs of consumers whose sum comes later
        self.sources: dict[str, Tensor] = {}  # inputs of makers, by the consumer's name
        self.earlier: dict[str, list[tuple[Tensor, Target]]] = {}  # of consumers with later calls
        self.first: dict[str, Tensor] = {}  # weights of those before any refit
        self.parted = False

    def before(self, call: CallKey, module: nn.Module, x: Tensor) -> Tensor | None:
        """Refit a consumer, unless a sum behind it gives a better target."""
        name, number = call
        if name not in self.consumers:
            self.sources[self.makers[name]] = x
            return None
        again = None
        if number >= len(self.consumers[name].uses):
            return None  # more often than for one example
        if self.consumers[name].uses[number].summed:
            self.waiting[call] = x
        else:
            again = self._refit(call, x, self._hear(call))
        if name in self.makers:  # refitted itself before its input is kept
            self.sources[self.makers[name]] = x if again is None else again
        return again

    def at_sum(self, calls: list[CallKey | None], terms: list[Tensor]) -> list[Tensor]:
        """Refit the consumers that made a term, and put what they make now in its place."""
        totals = [self._hear(call) if call else None for call in calls]
        for i, (call, total) in enumerate(zip(calls, totals, strict=True)):
            if call is None or total is None:
                self.waiting.pop(call, None)  # type: ignore[arg-type]
                continue
            module, norm = module_at(self.model, call[0]), self._norm(call)
            if call not in self.waiting:
                continue
            x = self.waiting.pop(call)
            other = _sampled_output(self.consumers[call[0]], module, terms[1 - i])
            x_now = self._refit(call, x, total, other)
            z = self._run(module, x if x_now is None else x_now)
            terms[i].copy_(z if norm is None else self._run(norm, z))
        return terms

    def _refit(
        self, call: CallKey, x: Tensor, T: Tensor | None, other: Tensor | None = None
    ) -> Tensor | None:
        """Refit one consumer to its calls so far; what is reported is the fit to all of them.

        Returns its input again where what makes it was changed too.
        """
        if T is None:
            return None
        name, number = call
        consumer, module = self.consumers[name], module_at(self.model, name)
        target = Target(T, self._norm(call), other, consumer.uses[number].rectified)
        seen = _sampled_input(consumer, module, x)
        rows, earlier = _rows(seen), self.earlier.pop(name, [])
        if len(rows) != len(T):
            reason = "what it reads has fewer rows than before the cut, so there is no target"
            self.repairs.append(Repair(name, None, reason))
            return None
        last = len(earlier) + 1 == len(consumer.uses)
        if not last:
            self.earlier[name] = [*earlier, (rows, target)]
            self.first.setdefault(name, module.get_parameter("weight").clone())
        samples = sum(len(r) for r, _ in earlier) + len(rows)
        features = seen.x.shape[1] // getattr(module, "groups", 1)
        if samples < LEAST_A_FEATURE * features:
            reason = f"{samples} samples are too few to refit {features} features: give more images"
            self.repairs += [Repair(name, None, reason)] * last
            return None
        towards = self.first.get(name)
        maker = None if consumer.maker is None else module_at(self.model, consumer.maker)
        behind = None if consumer.maker is None else self._norm((consumer.maker, 0))
        touched = [m for m in (module, target.norm, maker, behind) if m is not None]
        held = [
            (t, t.clone())
            for m in touched
            for t in (*m._parameters.values(), *m._buffers.values())
            if t is not None
        ]
        again = None
        try:
            left = refit_weight_(
                module, rows, target, ridge=self.ridge, earlier=earlier, towards=towards
            )
            if maker is not None:
                source = self.sources.pop(name)
                fit_pair_(maker, behind, module, source, seen, target, seed=_seed(name))
                again = self._run(maker, source)
                again = (again if behind is None else self._run(behind, again)).relu()
                rows = _rows(_sampled_input(consumer, module, again))
                left = refit_weight_(module, rows, target, ridge=self.ridge)
            failed = not all(bool(t.isfinite().all()) for t, _ in held)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            failed = True
        if failed:
            for tensor, value in held:
                tensor.copy_(value)
            reason = "its inputs are too large or too small for a least-squares fit"
            self.repairs += [Repair(name, None, reason)] * last
            return None
        self.repairs += [Repair(name, left)] * last
        return again

    def _run(self, module: nn.Module, x: Tensor) -> Tensor:
        """Run a module without seeing it."""
        self.paused = True
        try:
            y = module(x)
        finally:
            self.paused = False
        assert isinstance(y, Tensor)
        return y

    def _norm(self, call: CallKey) -> nn.Module | None:
        norm = self.norms.get(call)
        return None if norm is None else module_at(self.model, norm)

    def _hear(self, call: CallKey) -> Tensor | None:
        """Return the target of a call; None once the two networks run differently."""
        if self.parted:
            return None
        item = self.targets.get()
        if isinstance(item, BaseException):
            raise item
        if item is None or item[0] != call:  # the dense network has ended, or runs another layer
            self.parted = True
            return None
        target = item[1]
        assert isinstance(target, Tensor)
        return target

    def finish(self) -> list[Repair]:
        """Return what was done; a consumer without a target was left as it is."""
        met = {repair.module for repair in self.repairs}
        reason = "the cut network takes another path here than the dense one"
        left = [name for name in self.consumers if name not in met]
        return self.repairs + [Repair(name, None, reason) for name in left]


def _seed(name: str) -> int:
    return derive_seed(0, "refit", name)


def _sampled_input(consumer: RefittedConsumer, module: nn.Module, x: Tensor) -> Samples:
    """Return what a consumer sees at the places looked at."""
    if isinstance(module, CONVOLUTIONS):
        return patches(x, module, -(-consumer.samples // len(x)), _seed(consumer.name))
    if isinstance(module, SelectLinear):
        x = x[..., module.index]
    return Samples(x.flatten(0, -2)[..., None])


def _rows(samples: Samples) -> Tensor:
    """Return samples (B, F, P) as rows (B·P, F)."""
    return samples.x.transpose(1, 2).flatten(0, 1)


def _sampled_output(consumer: RefittedConsumer, module: nn.Module, z: Tensor) -> Tensor:
    """Return an output (or what it is summed to) at the same places: (n, O)."""
    if not isinstance(module, CONVOLUTIONS):
        return z.flatten(0, -2)
    flat, count = z.flatten(2), -(-consumer.samples // len(z))
    places = draw_places(len(z), flat.shape[2], count, _seed(consumer.name))
    if places is not None:
        flat = flat.gather(2, places.to(z.device)[:, None].expand(-1, flat.shape[1], -1))
    return flat.transpose(1, 2).flatten(0, 1)
