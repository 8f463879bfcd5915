"""Watching a forward pass: what modules read and make, and the sums and ReLUs behind them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from prunus.graph import Groups
from prunus.modules import CONVOLUTIONS, calling, module_at

__all__ = ["CallKey", "PassRecorder", "Run", "norms_of"]

#: One call of a module in a pass: its name, and how many calls of it came before.
CallKey = tuple[str, int]

ADDITIONS = {"add", "__add__", "__radd__", "add_", "__iadd__"}


def norms_of(groups: Groups) -> dict[CallKey, str]:
    """Return the BatchNorm behind each call that has one."""
    return {
        (name, call): norm
        for name, norms in groups.normalizers.items()
        for call, norm in enumerate(norms)
        if norm is not None
    }


class Run(TorchFunctionMode):
    """One forward pass in which every call of consumers and the sums behind them are seen.

    Subclasses define what happens before a consumer, after it, and at a sum of its output. `calls`
    counts how often each has run.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Iterable[str],
        norms: Mapping[CallKey, str],
        uncalled: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.model, self.names, self.norms = model, list(names), norms
        self.calls: dict[str, int] = {}
        self.calling = calling(model, uncalled)
        self.made: dict[int, tuple[Tensor, CallKey]] = {}  # outputs that may meet a sum, by id
        self.handles: list[Any] = []
        self.paused = False

    def before(self, call: CallKey, module: nn.Module, x: Tensor) -> Tensor | None:
        """See the input of a consumer; return what it should read instead, or None."""
        return None

    def after(self, call: CallKey, z: Tensor) -> None:
        """See the output of a consumer."""

    def at_sum(self, calls: list[CallKey | None], terms: list[Tensor]) -> list[Tensor]:
        """See a sum of two maps, of which `calls` of consumers made some; return its terms."""
        return terms

    def __enter__(self) -> Run:
        for name in self.names:
            module = module_at(self.model, name)
            self.handles.append(module.register_forward_pre_hook(self._entering(name)))
            self.handles.append(module.register_forward_hook(self._leaving(name)))
        wanted = {norm: None for (name, _), norm in self.norms.items() if name in self.names}
        for norm in wanted:
            handle = module_at(self.model, norm).register_forward_hook(self._passing)
            self.handles.append(handle)
        self.calling.__enter__()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self.calling.__exit__(*error)
        for handle in self.handles:
            handle.remove()
        self.made.clear()

    def _entering(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> Tensor | None:
            if self.paused:
                return None
            call = name, self.calls.get(name, 0)
            self.calls[name] = call[1] + 1
            return self.before(call, module, args[0])

        return hook

    def _leaving(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, z: Tensor) -> None:
            if not self.paused:
                call = name, self.calls[name] - 1
                self.after(call, z)
                self.made[id(z)] = z, call

        return hook

    def _passing(self, module: nn.Module, args: tuple[Any, ...], y: Tensor) -> None:
        if not self.paused and id(args[0]) in self.made:
            _, call = self.made.pop(id(args[0]))
            self.made[id(y)] = y, call

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Look at every sum of two maps of one shape."""
        terms = list(args[:2])
        if (
            getattr(func, "__name__", "") in ADDITIONS
            and not kwargs
            and len(terms) == 2
            and all(isinstance(t, Tensor) for t in terms)
            and terms[0].shape == terms[1].shape
        ):
            calls = [self.made.pop(id(t), (None, None))[1] for t in terms]
            if any(calls):
                args = tuple(self.at_sum(calls, terms))
        return func(*args, **(kwargs or {}))


class PassRecorder(Run):
    """Sees how often each module runs, whose outputs are summed, and what reads the result.

    Attributes:
        calls: how often each module ran, in running order.
        largest: bytes of the largest map.
        summed: calls whose output, or that of the norm behind, is a term of a sum.
        pairs: the call that makes all that a convolution reads, by the consumer's call, where its
            result goes through one ReLU to this consumer.
    """

    def __init__(self, model: nn.Module, names: list[str], groups: Groups) -> None:
        super().__init__(model, names, norms_of(groups), groups.uncalled)
        self.largest = 1
        self.summed: set[CallKey] = set()
        self.pairs: dict[CallKey, CallKey] = {}
        self.results: dict[int, tuple[Tensor, list[CallKey]]] = {}  # sums, and outputs behind norms
        self.read_by: dict[CallKey, list[str]] = {}
        self.relus: dict[int, tuple[Tensor, CallKey]] = {}
        self.relu_read: dict[CallKey, int] = {}

    @property
    def rectified(self) -> set[CallKey]:
        """The calls whose result nothing but one ReLU reads."""
        return {c for c, by in self.read_by.items() if by in (["relu"], ["relu_"])}

    def sole_pairs(self) -> dict[str, str]:
        """Return consumer and maker of `pairs` that run once and have no other consumer or source.

        Only once the pass is over is it known who else reads.
        """
        return {
            consumer[0]: maker[0]
            for consumer, maker in self.pairs.items()
            if maker in self.rectified - self.summed and self.relu_read.get(maker) == 1
            if self.calls[consumer[0]] == self.calls[maker[0]] == 1
        }

    def before(self, call: CallKey, module: nn.Module, x: Tensor) -> Tensor | None:
        """Note whose rectified result is read."""
        self.largest = max(self.largest, x.nbytes)
        if id(x) in self.relus and isinstance(module, CONVOLUTIONS):
            self.pairs[call] = self.relus[id(x)][1]
        return None

    def after(self, call: CallKey, z: Tensor) -> None:
        """Follow the output of a module without a norm."""
        self.largest = max(self.largest, z.nbytes)
        if call not in self.norms:
            self.results[id(z)] = z, [call]

    def at_sum(self, calls: list[CallKey | None], terms: list[Tensor]) -> list[Tensor]:
        """Note the terms."""
        self.summed |= {call for call in calls if call}
        return terms

    def _passing(self, module: nn.Module, args: tuple[Any, ...], y: Tensor) -> None:
        super()._passing(module, args, y)
        if id(y) in self.made:
            self.results[id(y)] = y, [self.made[id(y)][1]]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Note what reads a result; that of a sum takes its terms' place."""
        before = set(self.summed)
        read = [self.results[id(a)][1] for a in args if id(a) in self.results]
        relus = [self.relus[id(a)][1] for a in args if id(a) in self.relus]
        result = super().__torch_function__(func, types, args, kwargs)
        if not isinstance(result, Tensor):
            return result
        for maker in relus:
            self.relu_read[maker] = self.relu_read.get(maker, 0) + 1
        fresh = self.summed - before
        if fresh:
            self.results[id(result)] = result, sorted(fresh)
            return result
        for call in (call for calls in read for call in calls):
            self.read_by.setdefault(call, []).append(func.__name__)
            if func.__name__ in ("relu", "relu_"):
                self.results.pop(id(result), None)  # in place: what follows reads the ReLU
                self.relus[id(result)] = result, call
        return result
