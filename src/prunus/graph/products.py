"""The products of one forward pass (matrices, convolutions, attention) and what shrinks them.

Every ATen operation that multiplies and accumulates is recorded with the labels along its axes. A
product with the weight of a layer is the layer's: its kernel, applied to so many positions. All
others, of activations or of raw parameters, get cheaper along the axes whose channels go.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from prunus.graph.counting import macs_of
from prunus.graph.groups import Extent, Group, Product
from prunus.graph.labels import FIXED, Labels, Nodes, Track, compress, varying

__all__ = ["Tally"]


@dataclass(eq=False)
class _Noted:
    """An operation that ran: where, its MACs, and the labels along each of its axes.

    The first `outer` axes are not its weight's. `shapes` are those of what may be its weight.
    """

    module: str
    name: str
    macs: int
    axes: list[list[tuple[Tensor, int]]]
    outer: int
    weight: int | None = None
    shapes: tuple[tuple[int, ...], ...] = ()
    share: tuple[int, int] = (1, 1)
    second: bool = False
    layer: str = ""
    extents: list[Nodes] = field(default_factory=list)


class Tally:
    """The products of a labelled forward pass, in the order in which they ran."""

    def __init__(self) -> None:
        """Start with none."""
        self.noted: list[_Noted] = []
        #: Each layer → the classes of the labels of its outputs.
        self.classes: dict[str, Nodes] = {}

    def note(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: Any,
        tracks: list[Track],
        module: str,
        weight_of: Callable[[Track], int | None],
    ) -> None:
        """Note one operation, if it is a product; `weight_of` names what a track is, by id."""
        macs = macs_of(func, args, kwargs, result)
        if not macs:
            return
        name = func._schema.name.split("::")[1]
        if "attention" in name:
            q, k, v = tracks[:3]
            inner, width = q.shape[-1], v.shape[-1]
            lead = [_along((q, d), (k, d), (v, d)) for d in range(len(q.shape) - 2)]
            lasts = ((inner, _along((q, -1), (k, -1))), (width, _along((v, -1))))
            for i, (size, last) in enumerate(lasts):
                part, axes, share = (
                    macs * size // (inner + width),
                    [*lead, last],
                    (size, inner + width),
                )
                self.noted.append(
                    _Noted(module, name, part, axes, len(axes), share=share, second=i > 0)
                )
        elif "conv" in name:
            x, weight = tracks[:2]
            transposed = len(args) > 6 and bool(args[6])
            single = len(args) > 8 and int(args[8]) == x.shape[1] > 1
            made = _along((weight, int(transposed)))
            axes = [_along((x, 0)), made, _along((x, 1), (weight, int(not transposed)))]
            if single:  # one filter for each channel
                axes = [axes[0], _along((weight, 0), (x, 1))]
            self.noted.append(
                _Noted(module, name, macs, axes, 1, weight_of(weight), (weight.shape,))
            )
        elif "mm" in name:
            one, other = tracks[-2:]
            axes = [_along((one, d), (other, d)) for d in range(len(one.shape) - 2)]
            batch = len(axes)
            summed = _along((one, -1), (other, -2))
            own = weight_of(other)
            turned = own is None and weight_of(one) is not None
            ends = [_along((one, -2)), _along((other, -1))]
            axes += [ends[int(turned)], summed, ends[int(not turned)]]
            own = weight_of(one) if turned else own
            shapes = (other.shape[-2:], other.shape[:-3:-1])
            self.noted.append(_Noted(module, name, macs, axes, batch + 1, own, shapes))
        else:
            self.noted.append(_Noted(module, name, macs, [], 0))

    def settle(
        self, labels: Labels, weights: Mapping[str, tuple[int, ...]], uses: Mapping[int, list[str]]
    ) -> None:
        """Find each product's layer, and the classes of the labels along its other axes.

        Args:
            weights: the shape of the weight of each layer.
            uses: id of a parameter → the layers whose weight it is.
        """
        for one in self.noted:
            owners = uses.get(one.weight, []) if one.weight is not None else []
            if one.module in owners:
                one.layer = one.module
            elif owners:
                one.layer = owners[0]
            elif one.weight is None and weights.get(one.module) in one.shapes:  # it was computed
                one.layer = one.module
            for arrays in one.axes[: one.outer] if one.layer else one.axes:
                for array, axis in arrays:
                    held = compress(labels.find(array)) if len(varying(array)) > 1 else array
                    if varying(held) == {axis}:
                        one.extents.append(labels.find(held).flatten().numpy())
                        break
            one.axes = []

    def finish(
        self,
        groups: Iterable[Group],
        kernels: Mapping[str, int],
        examples: int,
        single: Iterable[tuple[str, str, int]] | None,
        repeated: Collection[str],
    ) -> tuple[dict[str, int], tuple[Product, ...]]:
        """Return how often each layer's kernel is applied to an example, and all other products.

        Of layers, only those are among the products that are applied less often where units go.

        Args:
            kernels: the numbers of each layer's kernel.
            examples: how many examples ran.
            single: module, operation and MACs of each product of one example in evaluation, where
                those are not what ran, divided by `examples`.
            repeated: layers of which only a third of each call is used.
        """
        owners = self._owners(groups)
        found: dict[str, list[Product]] = defaultdict(list)
        for one, macs in zip(self.noted, self._macs(examples, single), strict=True):
            layer = one.layer if one.layer in kernels else ""
            if layer and macs % kernels[layer]:
                layer = ""
            axes = [_extent(classes, owners) for classes in one.extents]
            if layer in repeated:
                macs //= 3  # noqa: PLW2901
            if macs:
                found[layer].append(Product(layer, macs, tuple(a for a in axes if a.shares)))
        others = found.pop("", [])
        times = {n: sum(p.macs for p in each) // kernels[n] for n, each in found.items()}
        for products in found.values():
            if any(p.axes for p in products):
                others += products
        return times, tuple(others)

    def _owners(self, groups: Iterable[Group]) -> dict[int, tuple[str, int]]:
        """Return for each class of labels the group and the unit that it is removed with."""
        found = {}
        for group in groups:
            member = next((m for m in group.producers if m.module in self.classes), None)
            if member is None:  # positions that a layer selects: no operation has them as an axis
                continue
            for unit, classes in enumerate(self.classes[member.module][member.index]):
                found.update({int(each): (group.name, unit) for each in np.unique(classes)})
        found.pop(FIXED, None)
        return found

    def _macs(self, examples: int, single: Iterable[tuple[str, str, int]] | None) -> list[int]:
        """Return the MACs of every product for one example.

        Those of `single` are matched in the order of each module and operation; what does not run
        there has none.
        """
        if single is None:
            return [one.macs // examples for one in self.noted]
        counted: dict[tuple[str, str], list[int]] = defaultdict(list)
        for module, name, macs in single:
            counted[module, name].append(macs)
        left = {key: iter(each) for key, each in counted.items()}
        found, whole = [], 0
        for one in self.noted:
            if not one.second:
                whole = next(left.get((one.module, one.name), iter(())), 0)
            found.append(whole * one.share[0] // one.share[1])
        return found


def _along(*sides: tuple[Track, int]) -> list[tuple[Tensor, int]]:
    """Return the arrays of tracks that vary along an axis of each, with that axis."""
    found = []
    for track, axis in sides:
        place = axis % len(track.shape)
        found += [(array, place) for array in track.along(place)]
    return found


def _extent(classes: Nodes, owners: Mapping[int, tuple[str, int]]) -> Extent:
    """Return how much of an axis each unit holds, by the classes of its labels."""
    shares: dict[str, dict[int, int]] = defaultdict(dict)
    for each, count in zip(*np.unique(classes, return_counts=True), strict=True):
        if int(each) in owners:
            group, unit = owners[int(each)]
            shares[group][unit] = shares[group].get(unit, 0) + int(count)
    found = {}
    for group, held in shares.items():
        found[group] = np.zeros(max(held) + 1, dtype=np.int64)
        found[group][list(held)] = list(held.values())
    return Extent(len(classes), found)
