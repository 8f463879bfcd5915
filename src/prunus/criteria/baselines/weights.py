"""Scores from weights alone, and random scores: the baselines of every comparison."""

from __future__ import annotations

import torch
from torch import Tensor

from prunus.core import derive_seed
from prunus.criteria.scores import CRITERIA, GroupScore, NotScoredError
from prunus.graph import Group, Groups, Member
from prunus.modules import (
    BATCHNORMS,
    TRANSPOSED,
    RawAxis,
    SelectLinear,
    input_columns,
    is_depthwise,
    is_mixing,
    module_at,
)
from prunus.statistics import Statistics

__all__ = ["L1", "BNScale", "GroupL2", "Random", "makers", "member_weight"]


def makers(groups: Groups, group: Group) -> tuple[Member, ...]:
    """Return the members whose filters make the units.

    Units without a producer (input pixels, flattened positions) are represented by the members that
    read them.
    """
    mixing = [m for m in group.producers if is_mixing(module_at(groups.model, m.module))]
    return tuple(mixing) or group.consumers


def member_weight(groups: Groups, member: Member) -> Tensor | None:
    """Return the weights that a member holds for each unit: (units, numbers), or None."""
    module = module_at(groups.model, member.module)
    index = torch.from_numpy(member.index)
    if member.axis == "out":
        weight = None if isinstance(module, RawAxis) else module._parameters.get("weight")
        if weight is None:
            return None
        rows = weight.detach().cpu().double()
        if isinstance(module, TRANSPOSED):  # (I, O/g, taps) → (O, I/g, taps)
            split = rows.view(module.groups, -1, *rows.shape[1:])
            rows = split.transpose(1, 2).flatten(0, 1)
        return rows[index].flatten(1)
    if is_depthwise(module):
        return None  # the same numbers as its `out` member's
    columns = input_columns(module).cpu().double()
    if isinstance(module, SelectLinear):
        wide = torch.zeros(module.incoming, columns.shape[1], dtype=torch.float64)
        wide[module.index.cpu().long()] = columns
        columns = wide
    return columns[index].flatten(1)


@CRITERIA.register("random")
class Random:
    """Uniform random numbers: the baseline that every criterion must beat."""

    unit = "random number"
    comparable = True
    needs_statistics = False

    def __init__(self, seed: int = 0) -> None:
        """Equal seeds and group names give equal scores."""
        self.seed = seed

    def __call__(self, groups: Groups, group: Group, statistics: Statistics) -> GroupScore:
        """Score one group."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "random", group.name))
        return GroupScore.of(torch.rand(group.units, generator=generator, dtype=torch.float64))


@CRITERIA.register("l1")
class L1:
    """Σ|w| of the filters that make a unit [Li, section 3.1].

    Units without a producer (input pixels, flattened positions) are scored by the weights that read
    them. Coupled producers add up.
    """

    unit = "L1 norm of the filter"
    comparable = False
    needs_statistics = False

    def __call__(self, groups: Groups, group: Group, statistics: Statistics) -> GroupScore:
        """Score one group."""
        values = torch.zeros(group.units, dtype=torch.float64)
        for member in makers(groups, group):
            weight = member_weight(groups, member)
            if weight is not None:
                values += weight.abs().sum(1)
        return GroupScore.of(values)


@CRITERIA.register("l2")
class GroupL2:
    """Mean over the group's members of Σw² per unit (the group norm of [DepGraph]).

    Torch-Pruning's default: every layer that makes, normalises or reads the unit counts.
    """

    unit = "group L2 norm, squared"
    comparable = False
    needs_statistics = False

    def __call__(self, groups: Groups, group: Group, statistics: Statistics) -> GroupScore:
        """Score one group."""
        norms = [
            weight.square().sum(1)
            for member in group.members
            if (weight := member_weight(groups, member)) is not None
        ]
        return GroupScore.of(torch.stack(norms).mean(0))


@CRITERIA.register("bn_scale")
class BNScale:
    """Mean |γ| of the BatchNorms that normalise a unit [Slimming, section 3].

    Meant for networks trained with an L1 penalty on γ. If several BatchNorms are coupled (a
    residual stream), their mean is taken. A group without a BatchNorm is not scored.
    """

    unit = "scale of the BatchNorm, absolute"
    comparable = True
    needs_statistics = False

    def __call__(self, groups: Groups, group: Group, statistics: Statistics) -> GroupScore:
        """Score one group.

        Raises:
            NotScoredError: no BatchNorm with a scale normalises its units.
        """
        scales = [
            weight.abs().mean(1)
            for member in group.producers
            if isinstance(module_at(groups.model, member.module), BATCHNORMS)
            and (weight := member_weight(groups, member)) is not None
        ]
        if not scales:
            raise NotScoredError("no BatchNorm with a scale normalises its units")
        return GroupScore.of(torch.stack(scales).mean(0))
