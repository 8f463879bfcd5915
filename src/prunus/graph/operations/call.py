"""What each ATen operation does to labels: the only list of operations in the package.

| kind | rule |
|---|---|
| elementwise | labels that meet are merged; a label that meets a fixed size is fixed |
| shape | the operation itself, run on the labels |
| contraction (matrix product, convolution) | labels summed over are merged, others passed on |
| over positions (pooling, upsampling) | a channel is one label, at all positions |
| reduction | a sum consumes labels; a mean, a norm or a softmax over labels fixes them |
| normalisation | labels meet the norm's own parameters |
| unknown | fixes every label it reads |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from prunus.graph.labels import Labels, Track, compress, varying
from prunus.graph.numbers import Read, SizesRead, counts_heads

__all__ = [
    "RULES",
    "SLICED",
    "Call",
    "CallSite",
    "Part",
    "Reshape",
    "Rule",
    "Split",
    "TraceState",
    "meet",
    "opaque",
    "rule",
]

#: Why labels stay of which a slice takes some.
SLICED = "a slice by fixed numbers takes part of its channels"

Rule = Callable[["Call"], list[Track]]
RULES: dict[str, Rule] = {}


@dataclass
class Split:
    """Labels of one axis split into several, (a₁, …, aₘ): what a cut leaves must be a box."""

    array: Tensor


@dataclass
class Part:
    """Labels of which a slice along `axis` takes `length`, one of several equal parts."""

    array: Tensor
    axis: int
    length: int


@dataclass
class Reshape:
    """Labels after a reshape in `module`, and the numbers that its sizes are taken from."""

    array: Tensor
    numbers: list[Read]
    module: str = ""

    def candidates(self, axis: int) -> list[str]:
        """Return the numbers that the size of an axis may be taken from.

        Without one at the axis itself (−1), it may be what a number of heads leaves at another.
        """
        here = [name for read in self.numbers if read.axis == axis for name in read.origins]
        if not here:
            here = [
                name
                for read in self.numbers
                for name in read.origins
                if read.axis is None or (not read.direct and counts_heads(name))
            ]
        return sorted(set(here))


@dataclass
class Meeting:
    """Labels (heads, dimensions) that meet those of a tensor that all heads share.

    Either the same dimension is removed in every head, or heads are removed and `shared` stays.
    """

    array: Tensor
    shared: Tensor
    operation: str


@dataclass(kw_only=True)
class TraceState:
    """What the operations of one trace share, and add to.

    Attributes:
        labels: which labels are one.
        splits: axes whose labels were laid out over several.
        parts: equal parts that slices took.
        reshapes: reshapes that may use a module's numbers.
        meetings: labels that are joined unless heads stay whole, which is known at the end.
        sizes: the integers that the running function was given.
        inside_heads: whether units are dimensions of every head, not whole heads.
    """

    labels: Labels = field(default_factory=Labels)
    splits: list[Split] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    reshapes: list[Reshape] = field(default_factory=list)
    meetings: list[Meeting] = field(default_factory=list)
    sizes: SizesRead = field(default_factory=SizesRead)
    inside_heads: bool = False

    def sized(self, array: Tensor, module: str) -> None:
        """Remember labels of a result whose sizes the running function was given in `module`."""
        if varying(array) and (numbers := self.sizes.at(array.dim(), module)):
            self.reshapes.append(Reshape(array, numbers, module))

    def join(self, one: Tensor, other: Tensor, operation: str) -> None:
        """Merge labels that meet; where a tensor meets each of several heads, wait for the end."""
        for array, shared in ((one, other), (other, one)):
            if not self.inside_heads and _may_be_heads(array, shared):
                self.meetings.append(Meeting(array, shared, operation))
                return
        self.labels.join(one, other)

    def settle_parts(self) -> None:
        """Make parts a split where all slices of some labels took as many; fix the others."""
        taken: dict[bytes, list[Part]] = {}
        for part in self.parts:
            taken.setdefault(part.array.numpy().tobytes(), []).append(part)
        for parts in taken.values():
            if len({part.length for part in parts}) > 1:
                self.labels.fix(parts[0].array, SLICED)
                continue
            each = torch.split(parts[0].array, parts[0].length, parts[0].axis)
            self.splits.append(Split(torch.stack(each)))

    def settle_meetings(self) -> None:
        """Decide for every meeting whether heads stay whole or lose the same dimensions."""
        waiting = self.meetings
        while whole := [m for m in waiting if not self._overlaps(m)]:
            for each in whole:
                reason = f"{each.operation!r} reads all of it in every head"
                self.labels.fix(each.shared, reason)
            waiting = [m for m in waiting if self._overlaps(m)]
        for each in waiting:
            self.labels.join(each.array, each.shared)

    def _overlaps(self, each: Meeting) -> bool:
        """Return whether labels still differ along an axis of the shared tensor."""
        array = compress(self.labels.find(each.array))
        lead = array.dim() - each.shared.dim()
        return any(axis + lead in varying(array) for axis in varying(each.shared))


def _may_be_heads(array: Tensor, shared: Tensor) -> bool:
    """Return whether an array (heads, …) meets one that lacks the axis of its heads."""
    rank = max(array.dim(), shared.dim())
    axes, others = ({axis + rank - a.dim() for axis in varying(a)} for a in (array, shared))
    return others < axes and min(axes) not in others


@dataclass(frozen=True, kw_only=True)
class CallSite:
    """Where an operation runs.

    Attributes:
        module: the innermost module that runs.
        in_norm: whether that is a custom norm, which may reduce over its channels.
        filters: the labels of a convolution's inputs and outputs.
        own: labels of an axis of the module, where it is a norm without parameters.
    """

    module: str
    in_norm: bool
    filters: tuple[Tensor | None, Tensor | None]
    own: Callable[[str, int], Tensor | None]


@dataclass(kw_only=True)
class Call:
    """One operation that runs.

    Attributes:
        name: the ATen operation's, without overload and without the underscore of in-place ones.
        func: what runs it, on `args` and `kwargs`.
        tracks: the labels of its tensor arguments, in order.
        outputs: its results.
        trace: what the operations of this trace share.
        site: where it runs.
    """

    name: str
    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    tracks: list[Track]
    outputs: list[Tensor]
    trace: TraceState
    site: CallSite

    @property
    def labels(self) -> Labels:
        """The labels of this trace."""
        return self.trace.labels

    @property
    def writes(self) -> bool:
        """Whether the result is written into the first argument."""
        first = self.func._schema.arguments[:1]
        return any(a.alias_info is not None and a.alias_info.is_write for a in first)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first result."""
        return tuple(self.outputs[0].shape)

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """Return an argument by position or by name."""
        if len(self.args) > position:
            return self.args[position]
        return self.kwargs.get(name, default)


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the rule for operations of these names."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def meet(
    trace: TraceState, tracks: Sequence[Track], shape: tuple[int, ...], name: str
) -> list[Tensor]:
    """Return the arrays of an elementwise operation over broadcast tensors."""
    labels, rank = trace.labels, len(shape)
    padded = [
        ((1,) * (rank - len(t.shape)) + t.shape, [a[(None,) * (rank - a.dim())] for a in t.arrays])
        for t in tracks
    ]
    kept: list[Tensor] = []
    for i, (_, arrays) in enumerate(padded):
        for array in arrays:
            for j, (size, others) in enumerate(padded):
                if i == j:
                    continue
                alone = {
                    axis
                    for axis in varying(array)
                    if size[axis] > 1 and not any(o.shape[axis] > 1 for o in others)
                }
                if alone and alone != varying(array):  # the other has one label along it
                    array = labels.join_along(array, alone)  # noqa: PLW2901
                elif alone:
                    labels.fix(array, f"{name!r} joins it with {tracks[j].fixed}")
                if j > i:
                    for other in others:
                        if varying(array) & varying(other):
                            trace.join(array, other, name)
            if not any(varying(array) <= varying(k) for k in kept):
                kept = [k for k in kept if not varying(k) < varying(array)] + [array]
    return kept


def opaque(call: Call, how: str = "") -> list[Track]:
    """Fix every label that an operation reads."""
    for track in call.tracks:
        for array in track.arrays:
            call.labels.fix(array, f"{call.name!r} is not an operation that can be traced{how}")
    return [Track(tuple(t.shape)) for t in call.outputs]
