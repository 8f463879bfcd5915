"""What must be cut together, who reads it, and what it costs: plain data, no engine.

A *unit* is what is removed at once. A *group* is a set of module axes whose units are coupled.
A *consumer* is a module that reads a group and mixes its channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prunus.core.errors import NothingToPruneError
from prunus.graph.costs import Layer
from prunus.graph.layers import input_columns
from prunus.graph.select import SelectLinear

__all__ = ["Axis", "Consumer", "Group", "Groups", "Member", "Unprunable"]

#: `out`: channels a module makes (or a norm passes on). `in`: channels it is given, removed where
#: they are made. `select`: features it is given and stops reading, though they still arrive.
Axis = Literal["out", "in", "select"]

Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Member:
    """One axis of one module, indexed by a group's units.

    `index` has shape (units, k): unit u owns the channels `index[u]` of this axis
    (k > 1 after a flatten, or in a grouped convolution).
    """

    module: str
    axis: Axis
    index: Index


@dataclass(frozen=True, eq=False)
class Group:
    """Units that are coupled through `members`; named after the first module that makes them.

    At least `least` units must stay: two where a grouped convolution would otherwise become a
    depthwise one, whose channels are coupled in another way.
    """

    name: str
    kind: Literal["channels", "neurons", "features", "inputs"]
    units: int
    members: tuple[Member, ...]
    least: int = 1

    @property
    def producers(self) -> tuple[Member, ...]:
        """The members that make (or pass on) the units."""
        return tuple(m for m in self.members if m.axis == "out")

    @property
    def consumers(self) -> tuple[Member, ...]:
        """The members that read the units."""
        return tuple(m for m in self.members if m.axis != "out")

    def flattens(self, member: Member) -> bool:
        """Tell whether each channel reaches `member` as several positions of a flattened map."""
        return bool(member.index.shape[1] > self.producers[0].index.shape[1])


@dataclass(frozen=True, eq=False)
class Consumer:
    """A module that mixes channels, and the features that its statistics are kept for.

    `positions` has shape (features, k): feature f stands for the incoming channels
    `positions[f]`. k is 1 but for a flattened input too wide for a full Gram, where the
    k positions of a channel are k samples of one feature.
    """

    module: str
    incoming: int
    positions: Index

    @cached_property
    def feature_of(self) -> Index:
        """Feature of each incoming channel, −1 where it is not read. Shape (incoming,)."""
        lookup = np.full(self.incoming, -1, dtype=np.int64)
        lookup[self.positions] = np.arange(len(self.positions))[:, None]
        return lookup

    def weight(self, model: nn.Module) -> Tensor:
        """Return the weight that reads the features, float64: (features, outputs × taps × k)."""
        module = model.get_submodule(self.module)
        return input_columns(module)[self.columns(module)].flatten(1).double()

    def columns(self, module: nn.Module) -> Tensor:
        """Return the columns of `module`'s weight that read each feature: (features, k)."""
        positions = self.positions
        if isinstance(module, SelectLinear):
            lookup = np.full(module.incoming, -1, dtype=np.int64)
            lookup[module.index.cpu().numpy()] = np.arange(len(module.index))
            positions = lookup[positions]
        return torch.from_numpy(positions).to(module.get_parameter("weight").device)

    def blocks(self, index: Index) -> Index:
        """Return the features each unit owns: (units, k′), padded with −1 at the end."""
        features = -np.sort(-self.feature_of[index], axis=1)
        repeated = np.zeros_like(features, dtype=bool)
        repeated[:, 1:] = features[:, 1:] == features[:, :-1]
        features = -np.sort(-np.where(repeated, -1, features), axis=1)
        width = max(1, int((features >= 0).sum(axis=1).max(initial=1)))
        return np.ascontiguousarray(features[:, :width])


@dataclass(frozen=True)
class Unprunable:
    """Something that stays whole, and why."""

    module: str
    reason: str


@dataclass(frozen=True, eq=False)
class Groups(Sequence[Group]):
    """All groups of one network, with the network itself for reading weights.

    `layers` holds the cost of each module, `total_macs` and `total_params` those of the whole
    network; `normalizer` names the BatchNorm that directly follows a module.
    """

    model: nn.Module
    entries: tuple[Group, ...]
    consumers: dict[str, Consumer]
    layers: dict[str, Layer]
    total_params: int
    total_macs: int
    unprunable: tuple[Unprunable, ...]
    normalizer: dict[str, str]

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, key: int | str) -> Group:  # type: ignore[override]
        """Return a group by position or by name."""
        if isinstance(key, str):
            return next(g for g in self.entries if g.name == key)
        return self.entries[key]

    def __iter__(self) -> Iterator[Group]:
        return iter(self.entries)

    def require_any(self) -> None:
        """Raise `NothingToPruneError` where there is no group, saying why for each module."""
        if self.entries:
            return
        reasons = "; ".join(f"{u.module}: {u.reason}" for u in self.unprunable[:5])
        more = len(self.unprunable) - 5
        raise NothingToPruneError(
            f"nothing can be pruned in {type(self.model).__name__}: "
            f"{reasons or 'it has no convolution or linear layer'}"
            + (f"; and {more} more" if more > 0 else "")
            + ". Give a network with at least one hidden convolution or linear layer"
        )

    def weight(self, consumer: str) -> Tensor:
        """Return a consumer's weight by feature, float64: (features, outputs × taps × k)."""
        return self.consumers[consumer].weight(self.model)

    def without(self, reasons: dict[str, str]) -> Groups:
        """Return the groups but those named in `reasons`, which become unprunable."""
        return replace(
            self,
            entries=tuple(g for g in self.entries if g.name not in reasons),
            unprunable=(*self.unprunable, *(Unprunable(n, r) for n, r in reasons.items())),
        )
