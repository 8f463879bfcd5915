"""The result of a criterion: a value and a place in the removal order for every unit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from scipy.special import stdtrit
from torch import Tensor

from prunus.core import ConfigError, PrunusError, Registry, curve_svg, html_table, unknown_name
from prunus.graph import Group, Groups
from prunus.statistics import Statistics

__all__ = [
    "CRITERIA",
    "CostsOrder",
    "Criterion",
    "GroupScore",
    "NotScoredError",
    "Scores",
    "ScoresJointly",
    "jackknife_half_width",
    "needs_of",
    "positive",
]


@dataclass(frozen=True, eq=False, repr=False)
class GroupScore:
    """The value of each unit of one group.

    Attributes:
        values: shape (units,), float64, ≥ 0: the cost of removing the unit, in `Scores.unit`, made
            non-decreasing (running maximum) along `order`, or along the order of all groups scored
            with this one, so that it ranks units.
        order: shape (units,): units from the first to remove to the last. A criterion that
            re-scores after each removal (greedy elimination) gives the marginal cost of each step,
            so the order is more informative than the values.
        costs: shape (units,): the cost of each unit at its own step, as computed. Its sum over
            the units removed, first to last, is the predicted loss.
        replicates: shape (K, units): `costs` without each of the K blocks of the statistics,
            along the same order; None if no intervals were requested.
        steps: shape (units,): when each unit is removed, counted over all groups that were scored
            with this one (`criteria.families`); None for a group that was scored alone.
    """

    values: Tensor
    order: Tensor
    costs: Tensor
    replicates: Tensor | None = None
    steps: Tensor | None = None

    @classmethod
    def of(cls, costs: Tensor, order: Tensor | None = None) -> GroupScore:
        """Sort by `costs`, or treat them as the marginal costs along a given removal `order`."""
        costs = costs.double().cpu()
        if order is None:
            return cls(costs, torch.argsort(costs, stable=True), costs)
        rising = costs[order].cummax(0).values
        return cls(torch.empty_like(costs).scatter_(0, order, rising), order, costs)

    def __repr__(self) -> str:
        kind = "" if self.replicates is None else f", {len(self.replicates)} blocks"
        return f"GroupScore({len(self.costs):,} units, {_range(self.values)}{kind})"

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Return the jackknife interval of each unit's cost: (low, high), shape (units,) each.

        Without replicates both are NaN.
        """
        if self.replicates is None:
            unknown = torch.full_like(self.costs, math.nan)
            return unknown, unknown
        half = jackknife_half_width(self.replicates, level)
        return (self.costs - half).clamp(min=0), self.costs + half


def _range(values: Tensor) -> str:
    """Return the least and the greatest of some values, in words."""
    if not len(values):
        return "no value"
    return f"{float(values.min()):.3g} to {float(values.max()):.3g}"


def jackknife_half_width(replicates: Tensor, level: float = 0.95) -> Tensor:
    """Return t_{K−1}·√((K−1)/K·Σ_k(θ_(k) − θ̄)²) over the first axis of leave-one-out values.

    Source: [Efron-Tibshirani, eq. 11.5], theory.md (45).
    """
    K = len(replicates)
    spread = (replicates - replicates.mean(0)).square().sum(0) * (K - 1) / K
    return float(stdtrit(K - 1, 0.5 + level / 2)) * spread.sqrt()


@dataclass(frozen=True, eq=False, repr=False)
class Scores(Mapping[str, GroupScore]):
    """The scores of all groups under one criterion, by group name.

    Attributes:
        groups: a `GroupScore` by group name.
        criterion: the criterion's name.
        unit: the meaning of a value, in words.
        comparable: whether values of different groups share a scale. If they do not, a global plan
            first divides each group's values by their mean.
        skipped: groups that could not be scored, and why; they are not pruned.
        approximate: groups scored from a sketch that does not hold all of the scatter, and how
            much it leaves out.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import prunus
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> groups = prunus.find_groups(net, torch.zeros(1, 4))
        >>> loader = [(torch.randn(32, 4), torch.arange(32) % 2)]
        >>> statistics = prunus.collect(net, loader, groups)
        >>> scores = prunus.score(groups, statistics)
        >>> list(scores), scores["0"].values.shape
        (['0.inputs', '0'], torch.Size([8]))
    """

    groups: dict[str, GroupScore]
    criterion: str
    unit: str
    comparable: bool
    skipped: dict[str, str]
    approximate: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, group: str) -> GroupScore:
        if group not in self.groups:
            raise unknown_name("scored group", group, self.groups)
        return self.groups[group]

    def __iter__(self) -> Iterator[str]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def __repr__(self) -> str:
        units = sum(len(one.values) for one in self.groups.values())
        every = torch.cat([one.values for one in self.groups.values()]) if self.groups else None
        skipped = f"; {len(self.skipped)} groups not scored" if self.skipped else ""
        if self.approximate:
            skipped += f"; {len(self.approximate)} groups approximate"
        values = "" if every is None else f", {self.unit} {_range(every)}"
        return f"Scores({self.criterion!r}: {len(self)} groups, {units:,} units{values}{skipped})"

    def _repr_html_(self) -> str:
        rows = [
            (
                name,
                len(one.values),
                float(one.values.min()),
                float(one.values.max()),
                curve_svg(one.values.sort().values.tolist(), f"{name}: units from least to most"),
            )
            for name, one in self.groups.items()
        ]
        return html_table(
            f"{self.criterion}: {self.unit}",
            ("group", "units", "least", "most", "units, from least to most"),
            rows,
            note="; ".join(
                f"{name} is {what}: {why}"
                for what, found in (
                    ("not scored", self.skipped),
                    ("approximate", self.approximate),
                )
                for name, why in found.items()
            ),
        )

    __eq__ = object.__eq__  # tensors do not compare to a single bool
    __hash__ = object.__hash__


class NotScoredError(PrunusError):
    """A group has nothing that a criterion scores; `score` records why in `Scores.skipped`."""


class Criterion(Protocol):
    """Compute a score per unit from statistics and read-only weights.

    `unit` gives the meaning of a value in words, `comparable` whether values of different groups
    share a scale, `needs_statistics` whether the data are used. A criterion may have the methods
    of `CostsOrder` and `ScoresJointly` too. A criterion that needs more than plain statistics
    lists it in `needs`, see `needs_of`.
    """

    unit: str
    comparable: bool
    needs_statistics: bool

    def __call__(self, groups: Groups, group: Group, statistics: Statistics) -> GroupScore:
        """Score the units of one group.

        Raises:
            NotScoredError: the group has nothing that the criterion scores.
        """
        ...


@runtime_checkable
class CostsOrder(Protocol):
    """A criterion whose costs depend on what has been removed already; intervals need it."""

    def along(self, groups: Groups, group: Group, statistics: Statistics, order: Tensor) -> Tensor:
        """Return the costs (units,) of removing the units of one group in `order`."""
        ...


@runtime_checkable
class ScoresJointly(Protocol):
    """A criterion whose costs depend on what has been removed from other groups too.

    See `Elimination`.
    """

    def jointly(
        self,
        groups: Groups,
        family: Sequence[Group],
        statistics: Statistics,
        order: Tensor | None = None,
    ) -> dict[str, GroupScore]:
        """Score groups with common consumers together, along `order` if one is given."""
        ...


def needs_of(rule: Criterion | type) -> frozenset[str]:
    """Return what statistics must hold in addition: "gradients", "parents", "traces", or nothing.

    The first two are options of `collect`; traces come from `trace_utility` and `with_traces`.
    """
    return frozenset(getattr(rule, "needs", ()))


def positive(option: str, value: float) -> float:
    """Return `value`, which must be a number above 0; `option` is its name in the error."""
    if not (isinstance(value, int | float) and 0 < value < math.inf):
        raise ConfigError(f"{option} is {value!r}, expected a number above 0")
    return value


#: Every criterion by name; an entry is a factory of keyword options.
CRITERIA: Registry[type] = Registry("criterion")
