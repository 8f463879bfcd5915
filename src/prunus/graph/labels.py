"""Labels: the index of a parameter axis that an element of a tensor is removed with.

Every index of every axis of every parameter is a *label*. A tensor that a network computes carries
arrays of labels: element e of the tensor exists as long as `array[e]` does. Operations determine
which labels are the same (`Labels.join`) and which can never be removed (`Labels.fix`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

__all__ = ["FIXED", "Labels", "Nodes", "Track", "compress", "varying"]

Nodes = NDArray[np.int64]

#: The label of everything that always stays.
FIXED = 0


class Labels:
    """A partition of labels that only becomes coarser (union–find)."""

    def __init__(self) -> None:
        """Start with `FIXED` alone."""
        self._parent: Nodes = np.zeros(1, dtype=np.int64)
        self._size, self._done = 1, 0
        self._edges: list[tuple[Nodes, Nodes]] = []
        self._fixes: list[tuple[Nodes, str]] = []
        self._loose: list[Nodes] = []

    def new(self, count: int, *, loose: bool = False) -> Tensor:
        """Return `count` new labels, each in its own class; `loose` if no parameter has them."""
        first, self._size = self._size, self._size + count
        made = torch.arange(first, self._size)
        if loose:
            self._loose.append(made.numpy())
        return made

    def loose(self, labels: Tensor) -> bool:
        """Return whether no parameter has any of these labels, as far as is known."""
        part = self.settled()
        owned = np.ones(self._size, dtype=bool)
        owned[np.concatenate([np.zeros(0, dtype=np.int64), *self._loose])] = False
        return not np.isin(part[np.unique(labels.numpy())], part[owned]).any()

    def join(self, one: Tensor, other: Tensor) -> None:
        """Merge labels, elementwise after broadcasting."""
        a, b = torch.broadcast_tensors(one, other)  # type: ignore[no-untyped-call]
        pairs = torch.stack([a.reshape(-1), b.reshape(-1)])
        pairs = pairs[:, pairs[0] != pairs[1]]
        if pairs.shape[1]:
            fixed = (pairs == FIXED).any(0)
            if fixed.any():
                self.fix(pairs[:, fixed], "it is padded with values that stay")
            pairs = torch.unique(pairs[:, ~fixed], dim=1)
            if pairs.shape[1]:
                self._edges.append((pairs[0].numpy(), pairs[1].numpy()))

    def join_along(self, array: Tensor, axes: Iterable[int]) -> Tensor:
        """Merge the labels along `axes` of an array; return it with size 1 there."""
        first = array
        for axis in axes:
            first = first.narrow(axis, 0, 1)
        self.join(array, first)
        return first

    def fix(self, labels: Tensor, reason: str) -> None:
        """Fix labels permanently, and record why."""
        nodes = torch.unique(labels).numpy()
        nodes = nodes[nodes != FIXED]
        if nodes.size:
            self._fixes.append((nodes, reason))
            self._edges.append((nodes, np.full_like(nodes, FIXED)))

    def find(self, labels: Tensor) -> Tensor:
        """Return the first label of each label's class; `FIXED` for what stays."""
        self._settle()
        return torch.from_numpy(self._roots(labels.numpy()))

    def narrowed(self, array: Tensor) -> Tensor:
        """Return an array with size 1 along every axis where all of its labels are merged.

        It holds labels that it had, not the first ones of their classes, so that what is fixed
        keeps its own reason.
        """
        found = self.find(array)
        for axis in range(array.dim()):
            if array.shape[axis] > 1:
                first = found.narrow(axis, 0, 1)
                if bool((found == first).all()):
                    found, array = first, array.narrow(axis, 0, 1)
        return array.contiguous()

    def settled(self) -> Nodes:
        """Return the first label of the class of every existing label."""
        self._settle()
        self._parent = self._roots(self._parent)
        return self._parent

    def _settle(self) -> None:
        """Add new edges; only the classes that they touch are updated."""
        self._parent = np.concatenate([self._parent, np.arange(len(self._parent), self._size)])
        fresh, self._done = self._edges[self._done :], len(self._edges)
        if fresh:
            ends = [self._roots(np.concatenate([edge[i] for edge in fresh])) for i in (0, 1)]
            nodes, places = np.unique(np.concatenate(ends), return_inverse=True)
            a, b = places.reshape(2, -1)
            self._parent[nodes] = nodes[_merge(a, b, len(nodes))]

    def _roots(self, nodes: Nodes) -> Nodes:
        """Return the first label of each node's class, after adding edges."""
        found = self._parent[nodes]
        while True:
            further = self._parent[found]
            if np.array_equal(further, found):
                self._parent[nodes] = found
                return found
            found = further

    def joined(self) -> Nodes:
        """Return the first label of every label's class, as if nothing had been fixed."""
        joins = [edge for edge in self._edges if edge[1][0] != FIXED]
        none = np.zeros(0, dtype=np.int64)
        a, b = (np.concatenate([none, *(edge[i] for edge in joins)]) for i in (0, 1))
        return _merge(a, b, self._size)

    def reasons(self) -> dict[int, str]:
        """Return for every fixed label the first reason that fixes it or its class."""
        part = self.joined()
        first: dict[int, str] = {}
        for nodes, text in self._fixes:
            for label in np.unique(part[nodes]):
                first.setdefault(int(label), text)
        return {label: first[int(own)] for label, own in enumerate(part) if int(own) in first}


def _merge(a: Nodes, b: Nodes, size: int) -> Nodes:
    """Return the first node of each node's class, where edges join a[i] and b[i]."""
    graph = coo_array((np.ones(len(a), dtype=bool), (a, b)), shape=(size, size))
    _, part = connected_components(graph, directed=False)
    _, first = np.unique(part, return_index=True)
    merged: Nodes = first[part]
    return merged


@dataclass
class Track:
    """A tensor's shape and its labels.

    `arrays` have as many axes as the tensor, each of size 1 where the label does not vary.
    `single` is the label of the only channel (the second axis), if it is traced. `fresh` says that
    the tensor is filled with one number; `parts` are labels of such a tensor of which some were
    taken by their position, each with the axis where they still are, if any. `source` says where
    a tensor without labels comes from.
    """

    shape: tuple[int, ...]
    arrays: list[Tensor] = field(default_factory=list)
    single: Tensor | None = None
    fresh: bool = False
    parts: list[tuple[Tensor, int | None]] = field(default_factory=list)
    source: str = ""

    @property
    def labelled(self) -> bool:
        """Whether an operation on the tensor concerns any label."""
        return bool(self.arrays or self.parts) or self.single is not None

    @property
    def fixed(self) -> str:
        """What a tensor along whose axis no labels differ is, in a reason."""
        if self.arrays:
            return "an axis that stays whole"
        return f"a tensor of fixed size{self.source and f' ({self.source})'}"

    def along(self, axis: int) -> list[Tensor]:
        """Return the arrays that vary along an axis."""
        return [a for a in self.arrays if a.shape[axis] > 1]


def varying(array: Tensor) -> set[int]:
    """Return the axes along which an array varies."""
    return {axis for axis, size in enumerate(array.shape) if size > 1}


def compress(array: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    """Return an array with size 1 along every axis where it does not vary."""
    for axis in range(array.dim()) if axes is None else axes:
        if array.shape[axis] > 1:
            first = array.narrow(axis, 0, 1)
            if bool((array == first).all()):
                array = first
    return array.contiguous()
