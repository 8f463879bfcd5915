"""What must be cut together, its consumers, and its cost: plain data.

A *unit* is the smallest thing that can be removed. A *group* is a set of module axes whose units
are coupled. A *consumer* is a module that reads a group and mixes its channels.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prunus.core import ConfigError, NothingToPruneError, PlanError, html_table, unknown_name
from prunus.graph.costs import Layer
from prunus.modules import (
    CONVOLUTIONS,
    TRANSPOSED,
    SelectLinear,
    channel_count,
    input_columns,
    module_at,
    set_input_columns_,
    weight_of,
)

__all__ = [
    "Axis",
    "Consumer",
    "Extent",
    "Group",
    "Groups",
    "Member",
    "Product",
    "Unprunable",
    "trimmed",
]

#: `out`: channels a module makes (or a norm passes on). `in`: channels of its input, removed where
#: they are made. `select`: features of its input that it stops reading, although they still arrive.
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

    At least `least` units must stay: two if a grouped convolution would otherwise become a
    depthwise one, whose channels are coupled differently; none if a branch of a concatenation may
    be removed as a whole. A group with `falls` is removed as a whole once nothing reads it any
    more.
    """

    name: str
    kind: Literal["channels", "neurons", "heads", "features", "inputs"]
    units: int
    members: tuple[Member, ...]
    least: int = 1
    falls: bool = False

    @property
    def producers(self) -> tuple[Member, ...]:
        """The members that make (or pass on) the units."""
        return tuple(m for m in self.members if m.axis == "out")

    @property
    def consumers(self) -> tuple[Member, ...]:
        """The members that read the units."""
        return tuple(m for m in self.members if m.axis != "out")

    @property
    def selects(self) -> bool:
        """Whether its units are removed where they are read (input pixels, flattened positions)."""
        return any(m.axis == "select" for m in self.members)

    def flattens(self, member: Member) -> bool:
        """Return whether each channel reaches `member` as several positions of a flattened map."""
        return self.positions(member) > 1

    def positions(self, member: Member) -> int:
        """Return at how many positions of a flattened map `member` reads each channel.

        A unit may also reach it as more channels than its maker has: halves of a `chunk`, and a sum
        of one of them, in one concatenation. Then a channel's positions are one run of columns.
        """
        made, read = self.producers[0].index.shape[1], member.index.shape[1]
        if read <= made:
            return 1
        run = _run(member.index)
        if read % made == 0 and (run == 1 or run % (read // made) == 0):
            return int(read // made)
        return run


def _run(index: Index) -> int:
    """Return the greatest number that divides every run of consecutive columns of a unit."""
    index = np.sort(index, axis=1)
    last = np.ones(index.shape, dtype=bool)
    last[:, :-1] = np.diff(index, axis=1) != 1
    ends = np.flatnonzero(last)
    return int(np.gcd.reduce(np.diff(ends, prepend=-1)))


@dataclass(frozen=True, eq=False)
class Consumer:
    """A module that mixes channels, and the features that its statistics are kept for.

    `positions` has shape (features, k): feature f stands for the incoming channels
    `positions[f]`. k is 1 except for a flattened input too wide for a full Gram matrix, where the k
    positions of a channel are k samples of one feature. `wide` says that there are more features
    than get a full Gram matrix, and no channels to fold them to: they are summed as a `Sketch`.
    """

    module: str
    incoming: int
    positions: Index
    wide: bool = False

    @cached_property
    def feature_of(self) -> Index:
        """Feature of each incoming channel, −1 where it is not read. Shape (incoming,)."""
        lookup = np.full(self.incoming, -1, dtype=np.int64)
        lookup[self.positions] = np.arange(len(self.positions))[:, None]
        return lookup

    def cells(self, model: nn.Module) -> int:
        """Return the cells of one feature that the weight reads separately: taps × k.

        1 for a transposed convolution: it spreads a pixel over its taps and does not read patches.
        """
        module = module_at(model, self.module)
        if isinstance(module, TRANSPOSED):
            return 1
        taps = prod(module.kernel_size) if isinstance(module, CONVOLUTIONS) else 1
        return int(taps * self.positions.shape[1])

    def weight(self, model: nn.Module, cells: int = 1) -> Tensor:
        """Return the weight that reads the features, float64: (features, k × outputs × taps).

        With `cells` = `self.cells(model)`, in the layout of a `Scatter` with that many cells:
        (features × cells, outputs), row f·cells + j·taps + t for tap t of position j.

        Raises:
            PlanError: the weight has a different number of cells.
        """
        module = module_at(model, self.module)
        rows = input_columns(module)[self.columns(module)].double()  # (F, k, O·t)
        if cells == 1:
            return rows.flatten(1)
        if cells != self.cells(model):
            raise PlanError(
                f"module {self.module!r} reads {self.cells(model)} cells per feature, asked for "
                f"{cells}: use statistics of sampling='patch', or their pointwise() form"
            )
        split = rows.view(*rows.shape[:2], channel_count(module, "out"), -1)  # (F, k, O, t)
        return split.transpose(2, 3).flatten(0, 2)

    def weights(self, model: nn.Module) -> Iterator[Tensor]:
        """Yield the weights of one position of every feature after the other, float64.

        Shape (features, outputs × taps); k of them, together `weight(model)`.
        """
        module = module_at(model, self.module)
        columns, index = input_columns(module), self.columns(module)
        for j in range(index.shape[1]):
            yield columns[index[:, j]].double()

    def set_weight_(self, model: nn.Module, W: Tensor, cells: int = 1) -> None:
        """Write a weight, in the layout of `weight(model, cells)`, into the module."""
        module = module_at(model, self.module)
        columns = input_columns(module).clone()  # without groups this is the weight itself
        index = self.columns(module)
        if cells > 1:
            W = W.reshape(*index.shape, -1, W.shape[1]).transpose(2, 3)  # (F, k, O, t)
        columns[index] = W.reshape(*index.shape, -1).to(columns)
        set_input_columns_(module, columns)

    def columns(self, module: nn.Module) -> Tensor:
        """Return the columns of `module`'s weight that read each feature: (features, k)."""
        positions = self.positions
        if isinstance(module, SelectLinear):
            lookup = np.full(module.incoming, -1, dtype=np.int64)
            lookup[module.index.cpu().numpy()] = np.arange(len(module.index))
            positions = lookup[positions]
        return torch.from_numpy(positions).to(weight_of(module).device)

    def blocks(self, index: Index) -> Index:
        """Return the features each unit owns: (units, k′), padded with −1 at the end."""
        features = -np.sort(-self.feature_of[index], axis=1)
        repeated = np.zeros_like(features, dtype=bool)
        repeated[:, 1:] = features[:, 1:] == features[:, :-1]
        return trimmed(np.where(repeated, -1, features))


def trimmed(blocks: Index) -> Index:
    """Return blocks of indices with the padding of −1 at the end, and no wider than needed.

    Each row falls; there is one column at least. Shape (units, k) → (units, k′), k′ ≤ k.
    """
    blocks = -np.sort(-blocks, axis=1)
    width = max(1, int((blocks >= 0).sum(axis=1).max(initial=1)))
    return np.ascontiguousarray(blocks[:, :width])


class _Name(str):
    """The name of a group, from iterating over `Groups`, which once yielded the groups.

    It still answers for the group, with a `DeprecationWarning`.
    """

    __slots__ = ("_group",)
    _group: Group

    @classmethod
    def of(cls, group: Group) -> _Name:
        made = cls(group.name)
        made._group = group
        return made

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(self._group, name):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        warnings.warn(
            "iterating over Groups yields names: use groups.values() for the groups",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(self._group, name)

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)


@dataclass(frozen=True, eq=False)
class Extent:
    """One axis of a product: its length, and how much of it each unit of each group holds."""

    length: int
    shares: dict[str, Index]


@dataclass(frozen=True, eq=False)
class Product:
    """MACs per example, in proportion to what is left along each of `axes`.

    With a `layer` they are those of its kernel, and shrink with its channels too.
    """

    layer: str
    macs: int
    axes: tuple[Extent, ...]


@dataclass(frozen=True)
class Unprunable:
    """Something that cannot be pruned, and why."""

    module: str
    reason: str


@dataclass(frozen=True, eq=False, repr=False)
class Groups(Mapping[str, Group]):
    """All groups of one network by name, with the network itself for reading weights.

    `layers` holds the cost of each module, `total_macs`, `total_params` and `total_bytes` those
    of the whole network; `normalizer` names the BatchNorm that directly follows every call of a
    module, `normalizers` the one after each of its calls, in execution order, or None;
    `uncalled` are layers whose weights the network reads without calling them (`modules.uncalled`),
    `worked_out` those that compute the weight they use, `composite` those whose output is more than
    their product, `tied` those that share parameters, each with another owner; `baked` are modules
    whose weight other tensors compute and a cut makes plain, with what computes it; `heads` those
    whose output is the network's in evaluation, with no mixing module between; `products` those
    whose MACs do not depend on the channels of one layer alone: of activations, of raw parameters.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import prunus
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> groups = prunus.find_groups(net, torch.zeros(1, 4))
        >>> [(name, group.units) for name, group in groups.items()]
        [('0.inputs', 4), ('0', 8)]
        >>> groups
        Groups(Sequential: 2 groups of 12 units; 58 params, 48 MACs; stays whole: 1)
    """

    model: nn.Module
    entries: tuple[Group, ...]
    consumers: dict[str, Consumer]
    layers: dict[str, Layer]
    total_params: int
    total_macs: int
    total_bytes: int
    unprunable: tuple[Unprunable, ...]
    normalizer: dict[str, str]
    uncalled: tuple[str, ...] = ()
    worked_out: tuple[str, ...] = ()
    composite: tuple[str, ...] = ()
    tied: dict[str, str] = field(default_factory=dict)
    baked: dict[str, str] = field(default_factory=dict)
    normalizers: dict[str, tuple[str | None, ...]] = field(default_factory=dict)
    heads: tuple[str, ...] = ()
    products: tuple[Product, ...] = ()

    @classmethod
    def of_consumers(
        cls,
        model: nn.Module,
        consumers: dict[str, Consumer],
        *,
        heads: tuple[str, ...],
        uncalled: tuple[str, ...] = (),
        worked_out: tuple[str, ...] = (),
        composite: tuple[str, ...] = (),
        tied: dict[str, str] | None = None,
    ) -> Groups:
        """Return what statistics of some consumers need, and no more.

        There are no groups, so nothing can be scored or cut; no module has a cost and the totals
        are 0, so no budget can be worked out; and no norm is known, so nothing can be whitened.
        """
        return cls(
            model=model,
            entries=(),
            consumers=consumers,
            layers={},
            total_params=0,
            total_macs=0,
            total_bytes=0,
            unprunable=(),
            normalizer={},
            uncalled=uncalled,
            worked_out=worked_out,
            composite=composite,
            tied=tied or {},
            heads=heads,
        )

    @cached_property
    def _by_name(self) -> dict[str, Group]:
        return {group.name: group for group in self.entries}

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, name: str) -> Group:
        if name not in self._by_name:
            raise unknown_name("group", name, self)
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return (_Name.of(group) for group in self.entries)

    __eq__ = object.__eq__  # a mapping of the same groups may be of another network
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        units = sum(group.units for group in self.entries)
        return (
            f"Groups({type(self.model).__name__}: {len(self)} groups of {units:,} units; "
            f"{self.total_params:,} params, {self.total_macs:,} MACs; "
            f"stays whole: {len(self.unprunable)})"
        )

    def _repr_html_(self) -> str:
        rows = [
            (g.name, g.kind, g.units, ", ".join(dict.fromkeys(m.module for m in g.consumers)))
            for g in self.entries
        ]
        note = "; ".join(f"{each.module}: {each.reason}" for each in self.unprunable[:10])
        return html_table(
            repr(self),
            ("group", "kind", "units", "read by"),
            rows,
            note=f"Stays whole: {note}" if note else "",
        )

    def require_any(self) -> None:
        """Raise `NothingToPruneError` if there is no group, with the reason for each module."""
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

    @property
    def head(self) -> str:
        """The one module that makes the network's output from its last hidden layer.

        Raises:
            ConfigError: there is none, or there are several.
        """
        if len(self.heads) != 1 or self.heads[0] not in self.consumers:
            found = ", ".join(self.heads) or "no convolution or linear layer"
            raise ConfigError(
                f"the last hidden layer of {type(self.model).__name__} is the input of the one "
                f"layer that makes the output, but the output is made by {found}: give a network "
                "with one head"
            )
        return self.heads[0]

    def weight(self, consumer: str, cells: int = 1) -> Tensor:
        """Return a consumer's weight by feature, as `Consumer.weight` does."""
        return self.consumers[consumer].weight(self.model, cells)

    def unfit(self, layer: str, *, outputs: bool = False) -> str:
        """Return why no repair may change a layer's weight; empty where one may.

        With `outputs`, also why its output cannot be fitted as W·x + b.
        """
        if layer in self.worked_out:
            return "it computes its weight, or what that multiplies, from others"
        if layer in self.tied:
            return f"it shares its parameters with {self.tied[layer]!r}"
        if outputs and layer in self.composite:
            return "its forward pass goes on after its product, so its output is not W·x + b"
        return ""

    def without(self, reasons: dict[str, str]) -> Groups:
        """Return the groups without those named in `reasons`, which become unprunable."""
        return replace(
            self,
            entries=tuple(g for g in self.entries if g.name not in reasons),
            unprunable=(*self.unprunable, *(Unprunable(n, r) for n, r in reasons.items())),
        )
