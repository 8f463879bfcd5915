"""The exact cost of a network while units are struck off, in O(members) a unit."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from prunus.graph import Axis, Group, Groups

__all__ = ["Ledger"]

Mask = NDArray[np.bool_]


class Ledger:
    """Which channels of every module are left, and what the network then costs.

    A channel a linear layer no longer reads (`select`) and one that no longer arrives (`in`)
    are counted once.
    """

    def __init__(self, groups: Groups) -> None:
        self.groups = groups
        self.out = {n: np.ones(layer.out, dtype=bool) for n, layer in groups.layers.items()}
        self.arriving = {n: np.ones(layer.in_, dtype=bool) for n, layer in groups.layers.items()}
        self.reading = {n: np.ones(layer.in_, dtype=bool) for n, layer in groups.layers.items()}
        for name, consumer in groups.consumers.items():
            self.reading[name][:] = consumer.feature_of >= 0
        self.left = {group.name: np.ones(group.units, dtype=bool) for group in groups}
        self._counts = {n: self._count(n) for n in groups.layers}
        self.totals = {"params": groups.total_params, "macs": groups.total_macs}

    def _count(self, name: str) -> tuple[int, int]:
        read = np.count_nonzero(self.arriving[name] & self.reading[name])
        return int(np.count_nonzero(self.out[name])), int(read)

    def _mask(self, module: str, axis: Axis) -> Mask | None:
        masks = {"out": self.out, "in": self.arriving, "select": self.reading}[axis]
        return masks.get(module)

    def saving(self, group: Group, units: Iterable[int]) -> dict[str, int]:
        """Return what removing `units` next would save, in each currency."""
        saved = dict.fromkeys(self.totals, 0)
        changed = self._strike(group, units)
        for name in {module for module, _, _ in changed}:
            layer, before, after = self.groups.layers[name], self._counts[name], self._count(name)
            saved["params"] += layer.params(*before) - layer.params(*after)
            saved["macs"] += layer.macs(*before) - layer.macs(*after)
        self._restore(changed)
        return saved

    def remove(self, group: Group, units: Iterable[int]) -> None:
        """Strike `units` of `group` off.

        A unit stays where without it a layer would read nothing at all: the last flattened
        position that is read keeps its channel.
        """
        units = list(units)
        changed = self._strike(group, units)
        if any(self._count(module)[1] == 0 for module, _, _ in changed):
            self._restore(changed)
            if len(units) > 1:
                for unit in units:
                    self.remove(group, [unit])
            return
        self.left[group.name][units] = False
        for name in {module for module, _, _ in changed}:
            layer, before, after = self.groups.layers[name], self._counts[name], self._count(name)
            self.totals["params"] -= layer.params(*before) - layer.params(*after)
            self.totals["macs"] -= layer.macs(*before) - layer.macs(*after)
            self._counts[name] = after

    def _strike(self, group: Group, units: Iterable[int]) -> list[tuple[str, Axis, Mask]]:
        """Clear the masks of `units`; return each touched mask as it was before."""
        units = list(units)
        changed = []
        for member in group.members:
            mask = self._mask(member.module, member.axis)
            if mask is not None:
                changed.append((member.module, member.axis, mask.copy()))
                mask[member.index[units].ravel()] = False
        return changed

    def _restore(self, changed: list[tuple[str, Axis, Mask]]) -> None:
        """Undo a strike; a mask struck twice goes back to its first state."""
        for module, axis, old in reversed(changed):
            mask = self._mask(module, axis)
            assert mask is not None
            mask[:] = old

    def present(self, group: Group) -> Mask:
        """Tell which units are left: neither struck off nor, if selected, without arrival."""
        there = self.left[group.name].copy()
        for member in group.members:
            if member.axis == "select":
                there &= self.arriving[member.module][member.index].any(axis=1)
        return there

    def meets(self, limits: dict[str, int]) -> bool:
        """Tell whether every limit is kept."""
        return all(self.totals[currency] <= limit for currency, limit in limits.items())
