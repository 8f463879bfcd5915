"""The state of a pruning: what is constant throughout, and the current network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import nn

from prunus.batches import Example
from prunus.graph import Groups
from prunus.modules import private_copy
from prunus.plan import Budget, Plan
from prunus.runs import PruneConfig, Session

__all__ = ["Pruning", "PruningState"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pruning:
    """What is constant throughout all iterations of a pruning.

    `costs` are those of the dense network by currency, `protected` its units that are never
    removed, and `floor` the validation accuracy that must be kept.
    """

    dense: nn.Module
    budget: Budget
    config: PruneConfig
    session: Session
    example: Example
    teacher: nn.Module | None
    costs: Mapping[str, float]
    protected: Mapping[str, list[int]]
    floor: float | None


@dataclass(frozen=True, kw_only=True, eq=False)
class PruningState:
    """An intermediate network: the iteration that made it, its groups, its plan, its accuracy.

    `groups` are those of `model`, traced once, after the cut; `plan` is relative to the dense
    network; `accuracy` is measured on validation.
    """

    iteration: int
    groups: Groups
    plan: Plan
    costs: Mapping[str, float]
    accuracy: float

    @property
    def model(self) -> nn.Module:
        """The network itself, in which the groups were found."""
        return self.groups.model

    def copied(self) -> PruningState:
        """Return the state with a copy of the network, to be cut or trained."""
        return replace(self, groups=replace(self.groups, model=private_copy(self.model)))
