"""The predicted loss of a plan, before anything is cut: `predict_loss`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from prunus.core import PlanError
from prunus.criteria import Scores, jackknife_half_width
from prunus.graph import Group, Groups
from prunus.plan.plan import Plan

__all__ = ["Prediction", "predict_loss"]


@dataclass(frozen=True)
class Prediction:
    """The summed cost of the units that a plan removes.

    Attributes:
        total: the predicted loss, in `unit`.
        low: lower end of its jackknife interval; NaN where the scores have no replicates.
        high: upper end of it.
        unit: the meaning of a value, in words.
        comparable: whether the groups share a scale; where they do not, the total adds up different
            quantities and only `by_group` is meaningful.
        by_group: the loss of each group that loses units.
    """

    total: float
    low: float
    high: float
    unit: str
    comparable: bool
    by_group: Mapping[str, float]


def predict_loss(
    scores: Scores,
    plan: Plan,
    groups: Groups | None = None,
    *,
    curves: Mapping[str, float] | None = None,
    level: float = 0.95,
) -> Prediction:
    """Return Σ_g f_g · Σ_{u removed from g} cost_g(u), with its interval.

    cost_g(u) is the unit's cost at its own step along the group's order (`GroupScore.costs`), so
    for units removed in that order the inner sum is the group's loss as the criterion computed
    it; for another set it is an estimate. f_g is the group's factor in `curves`, else 1. The
    interval sums the replicates of all groups block by block first, because one block of images
    moves all groups together, and is then the jackknife's (`jackknife_half_width`) at `level`.

    Args:
        groups: with it, a flattened position whose channel is removed too counts only with the
            channel, not twice; likewise what is removed with a branch counts only with the branch.

    Raises:
        PlanError: a group that loses units was not scored, or has a different number of units.

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
        >>> plan = prunus.make_plan(groups, scores, "macs=50%")
        >>> predicted = prunus.predict_loss(scores, plan, groups)
        >>> sorted(predicted.by_group), predicted.total >= 0
        (['0'], True)
    """
    by_group: dict[str, float] = {}
    replicates: list[Tensor | None] = []
    for name, edit in plan.groups.items():
        removed = list(edit.removed)
        if groups is not None:
            removed = _chosen(groups[name], plan, removed)
        if not removed:
            continue
        if name not in scores.groups:
            raise PlanError(
                f"the plan removes units of {name!r}, which the scores of {scores.criterion} do "
                "not hold: predict with the scores that the plan was made from"
            )
        score = scores[name]
        if len(score.costs) != edit.of:
            raise PlanError(
                f"the plan expects {edit.of} units of {name!r}, the scores hold "
                f"{len(score.costs)}: predict with the scores that the plan was made from"
            )
        factor = (curves or {}).get(name, 1.0)
        by_group[name] = factor * float(score.costs[removed].sum())
        replicates.append(
            None if score.replicates is None else factor * score.replicates[:, removed].sum(1)
        )
    total, half = sum(by_group.values()), math.nan
    known = [r for r in replicates if r is not None]
    if len(known) == len(replicates):
        half = float(jackknife_half_width(torch.stack(known).sum(0), level)) if known else 0.0
    low = max(0.0, total - half) if not math.isnan(half) else math.nan
    return Prediction(total, low, total + half, scores.unit, scores.comparable, by_group)


def _chosen(group: Group, plan: Plan, removed: list[int]) -> list[int]:
    """Return the removed units that would not be lost anyway with a channel or a dead consumer."""
    if group.consumers and all(plan.empties(m.module) for m in group.consumers):
        return []
    for member in group.members:
        if member.axis == "select":
            lost = plan.modules.get(member.module, {}).get("in")
            gone = set(lost.removed) if lost else set()
            removed = [u for u in removed if not gone.issuperset(member.index[u].tolist())]
    return removed
