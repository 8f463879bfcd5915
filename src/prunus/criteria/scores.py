"""What a criterion returns: a value and a place in the removal order for every unit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from prunus.core import Registry
from prunus.core.errors import ConfigError
from prunus.graph import Group, Groups
from prunus.statistics import Statistics

__all__ = ["CRITERIA", "Criterion", "GroupScore", "Scores", "positive"]


@dataclass(frozen=True, eq=False)
class GroupScore:
    """The worth of each unit of one group.

    Attributes:
        values: shape (units,), float64, ≥ 0: what removing the unit costs, in `Scores.unit`.
        order: shape (units,): units from the first to remove to the last. Along it, `values`
            never falls; a criterion that re-scores after each removal (greedy elimination)
            gives the marginal cost of each step, so the order says more than the values.
    """

    values: Tensor
    order: Tensor

    @classmethod
    def of(cls, values: Tensor, order: Tensor | None = None) -> GroupScore:
        """Sort `values`, or make them rise along a given removal `order` (running maximum)."""
        values = values.double().cpu()
        if order is None:
            return cls(values, torch.argsort(values, stable=True))
        rising = values[order].cummax(0).values
        return cls(torch.empty_like(values).scatter_(0, order, rising), order)


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of all groups under one criterion.

    Attributes:
        groups: a `GroupScore` by group name.
        criterion: the criterion's name.
        unit: what a value means, in words.
        comparable: whether values of different groups share a scale. Where they do not, a
            global plan first divides each group's values by their mean.
        skipped: groups that could not be scored, and why; they stay whole.
    """

    groups: dict[str, GroupScore]
    criterion: str
    unit: str
    comparable: bool
    skipped: dict[str, str]

    def __getitem__(self, group: str) -> GroupScore:
        return self.groups[group]


class Criterion(Protocol):
    """Statistics and read-only weights → a score a unit.

    `unit` says in words what a value means, `comparable` whether values of different groups
    share a scale, `needs_statistics` whether the data are looked at.
    """

    unit: str
    comparable: bool
    needs_statistics: bool

    def __call__(self, groups: Groups, group: Group, statistics: Statistics) -> GroupScore:
        """Score the units of one group."""
        ...


def positive(option: str, value: float) -> float:
    """Return `value`, which must be a number above 0; `option` is its name in the error."""
    if not (isinstance(value, int | float) and 0 < value < math.inf):
        raise ConfigError(f"{option} is {value!r}, expected a number above 0")
    return value


#: Every criterion by name; an entry is a factory of keyword options.
CRITERIA: Registry[type] = Registry("criterion")
