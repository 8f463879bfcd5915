"""The exact cost of a network while units are removed, in O(members) per unit."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prunus.evaluation import LatencyTable
from prunus.graph import Axis, Branches, Group, Groups, Product

__all__ = ["CostTracker"]

Mask = NDArray[np.bool_]
#: Channels left of a module (outputs, inputs read, inputs that arrive), and its MACs.
Counts = tuple[int, int, int, int]
#: A change: a module and its axis, or a group whose units products hold, and the mask before.
Change = tuple[str, Axis | Literal["units"], Mask]


class CostTracker:
    """Which channels of every module are left, and the resulting cost of the network.

    A channel a linear layer no longer reads (`select`) and one that no longer arrives (`in`)
    are counted once. `totals` holds the exact `params`, `macs` and `bytes`, and with a latency
    table its `ms`. MACs are those that `count_macs` finds on the cut network, of attention and of
    raw parameters too; only where units of a product form no box (whole rows or columns of what
    remains) do they count as if all of it stayed, so that a budget is met with a margin.
    """

    def __init__(self, groups: Groups, table: LatencyTable | None = None) -> None:
        self.groups = groups
        self.table = table
        self.branches = Branches(groups)
        self.out = {n: np.ones(layer.out, dtype=bool) for n, layer in groups.layers.items()}
        self.arriving = {n: np.ones(layer.in_, dtype=bool) for n, layer in groups.layers.items()}
        self.reading = {n: np.ones(layer.in_, dtype=bool) for n, layer in groups.layers.items()}
        for name, consumer in groups.consumers.items():
            self.reading[name][:] = consumer.feature_of >= 0
        self.left = {group.name: np.ones(group.units, dtype=bool) for group in groups.values()}
        self._products: dict[str, list[Product]] = defaultdict(list)
        for i, product in enumerate(groups.products):
            self._products[product.layer or f":{i}"].append(product)
        #: The units left of each group that products hold, and which products those are.
        self._held: dict[str, Mask] = {}
        self._holding: dict[str, set[str]] = defaultdict(set)
        for name, products in self._products.items():
            for group in {g for p in products for axis in p.axes for g in axis.shares}:
                if group in self.left:
                    self._held[group] = self.left[group].copy()
                    self._holding[group].add(name)
        self._counts = {n: self._count(n) for n in {**groups.layers, **self._products}}
        self.totals: dict[str, float] = {
            "params": groups.total_params,
            "macs": groups.total_macs,
            "bytes": groups.total_bytes,
        }
        self._costs = {n: self._cost(n, counts) for n, counts in self._counts.items()}
        self._add_up_ms()

    def _multiplied(self, name: str, kernel: int) -> int:
        """Return the MACs of the products `name`, of a layer with `kernel` numbers left."""
        found = 0
        for product in self._products[name]:
            macs, whole = product.macs, 1
            if product.layer:
                layer = self.groups.layers[name]
                macs, whole = macs * kernel, layer.kernel(layer.out, layer.in_)
            for axis in product.axes:
                held = ((self._held[g], n) for g, n in axis.shares.items() if g in self._held)
                gone = sum(int(n[~mask[: len(n)]].sum()) for mask, n in held)
                macs, whole = macs * (axis.length - gone), whole * axis.length
            found += macs // whole
        return found

    def _count(self, name: str) -> Counts:
        layer = self.groups.layers.get(name)
        if layer is None:
            return 0, 0, 0, self._multiplied(name, 1)
        arriving = self.arriving[name]
        out = int(np.count_nonzero(self.out[name]))
        in_ = int(np.count_nonzero(arriving & self.reading[name]))
        own = name in self._products
        macs = self._multiplied(name, layer.kernel(out, in_)) if own else layer.macs(out, in_)
        return out, in_, int(np.count_nonzero(arriving)), macs

    def _cost(self, name: str, counts: Counts) -> dict[str, float]:
        out, in_, arriving, macs = counts
        cost: dict[str, float] = dict.fromkeys(self.totals, 0)
        layer = self.groups.layers.get(name)
        cost["macs"] = macs
        if layer is None:
            return cost
        cost["params"], cost["bytes"] = layer.params(out, in_), layer.bytes(out, in_, arriving)
        if self.table is not None:
            runs = layer.positions and out
            cost["ms"] = self.table.ms(name, out, in_, arriving) if runs else 0.0
        return cost

    def _mask(self, module: str, axis: Axis | Literal["units"]) -> Mask | None:
        masks = {
            "out": self.out,
            "in": self.arriving,
            "select": self.reading,
            "units": self._held,
        }[axis]
        return masks.get(module)

    def _touched(self, changed: Iterable[Change]) -> set[str]:
        """Return the layers and products whose cost changes may change."""
        names = set()
        for name, axis, _ in changed:
            names |= self._holding[name] if axis == "units" else {name}
        return names

    def saving(
        self, group: Group, units: Iterable[int], *, selected: bool = False
    ) -> dict[str, float]:
        """Return what removing `units` next would save, in each currency.

        With `selected`, a consumer that does not select yet is treated as if it did: its index,
        which the first deselected unit requires, is not deducted from the saving of that one unit.
        """
        changed = self._strike(group, units)
        saved = self._saved(changed, selected=selected and group.selects)
        self._restore(changed)
        return saved

    def _saved(self, changed: Iterable[Change], *, selected: bool = False) -> dict[str, float]:
        """Return what the changes `changed` save, in each currency."""
        saved = dict.fromkeys(self.totals, 0.0)
        for name in self._touched(changed):
            before, after = self._costs[name], self._cost(name, self._count(name))
            if selected:
                before, after = (
                    self._cost(name, (out, in_, in_ + 1, macs))
                    for out, in_, _, macs in (self._counts[name], self._count(name))
                )
            for currency in saved:
                saved[currency] += before[currency] - after[currency]
        return saved

    def falling(self, group: Group) -> list[Group]:
        """Return what is removed together with all of `group`: it, and what only dead modules read.

        Empty if it may not be removed as a whole, or is removed already.
        """
        if group.least > 0 or not self.left[group.name].any():
            return []
        gone = [name for name, left in self.left.items() if not left.any()]
        names = self.branches.fallen([group.name], gone)
        return [each for each in self.groups.values() if each.name in names]

    def drop(self, fallen: Iterable[Group], *, trial: bool = False) -> dict[str, float] | None:
        """Remove whole groups, as `falling` returned them; return what that saves.

        Returns None, without a change, if a live layer would be left without inputs. With `trial`
        nothing changes in any case.
        """
        fallen = list(fallen)
        changed = [c for group in fallen for c in self._strike(group, range(group.units))]
        saved = None if self._starved(changed) else self._saved(changed)
        if saved is None or trial:
            self._restore(changed)
            return saved
        for group in fallen:
            self.left[group.name][:] = False
        self._update(self._touched(changed))
        return saved

    def _starved(self, changed: Iterable[Change]) -> bool:
        """Return whether a layer with outputs would be left without inputs."""
        counts = (self._count(name) for name in self._touched(changed))
        return any(made and not read for made, read, _, _ in counts)

    def remove(self, group: Group, units: Iterable[int]) -> None:
        """Remove `units` of `group`.

        A unit is kept if a layer would be left without inputs otherwise: the last flattened
        position that is read keeps its channel.
        """
        units = list(units)
        changed = self._strike(group, units)
        if self._starved(changed):
            self._restore(changed)
            if len(units) > 1:
                for unit in units:
                    self.remove(group, [unit])
            return
        self.left[group.name][units] = False
        self._update(self._touched(changed))

    def put_back(self, group: Group, units: Iterable[int]) -> None:
        """Undo the removal of `units`; units that were not removed stay as they are."""
        units = list(units)
        touched: set[str] = set()
        for member in group.members:
            mask = self._mask(member.module, member.axis)
            if mask is not None:
                mask[member.index[units].ravel()] = True
                touched.add(member.module)
        if group.name in self._held:
            self._held[group.name][units] = True
            touched |= self._holding[group.name]
        self.left[group.name][units] = True
        self._update(touched)

    def _update(self, modules: Iterable[str]) -> None:
        for name in set(modules):
            counts = self._count(name)
            if counts == self._counts[name]:
                continue
            before, after = self._costs[name], self._cost(name, counts)
            for currency in self.totals:
                self.totals[currency] -= before[currency] - after[currency]
            self._counts[name], self._costs[name] = counts, after
        self._add_up_ms()

    def _add_up_ms(self) -> None:
        """Sum milliseconds from scratch: a running difference would accumulate rounding errors."""
        if self.table is not None:
            spent = math.fsum(cost["ms"] for cost in self._costs.values())
            self.totals["ms"] = self.table.rest + spent

    def _strike(self, group: Group, units: Iterable[int]) -> list[Change]:
        """Clear the masks of `units`; return each touched mask as it was before."""
        units = list(units)
        changed: list[Change] = []
        for member in group.members:
            mask = self._mask(member.module, member.axis)
            if mask is not None:
                changed.append((member.module, member.axis, mask.copy()))
                mask[member.index[units].ravel()] = False
        if group.name in self._held:
            held = self._held[group.name]
            changed.append((group.name, "units", held.copy()))
            held[units] = False
        return changed

    def _restore(self, changed: list[Change]) -> None:
        """Undo a removal; a mask that was changed twice goes back to its first state."""
        for module, axis, old in reversed(changed):
            mask = self._mask(module, axis)
            assert mask is not None
            mask[:] = old

    def present(self, group: Group) -> Mask:
        """Return which units are left: not removed and, if selected, still arriving."""
        return self.left[group.name] & self.arrives(group)

    def arrives(self, group: Group) -> Mask:
        """Return which units still arrive where they are read; all, except for selections."""
        there = np.ones(group.units, dtype=bool)
        for member in group.members:
            if member.axis == "select":
                there &= self.arriving[member.module][member.index].any(axis=1)
        return there

    def meets(self, limits: Mapping[str, float]) -> bool:
        """Return whether every limit is met."""
        return all(self.totals[currency] <= limit for currency, limit in limits.items())
