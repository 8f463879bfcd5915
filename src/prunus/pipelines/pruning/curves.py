"""Measured loss of each group, used by a `dp` allocation to scale its predicted losses.

Late layers' discriminant information saturates, theory.md (13), and a share of a layer's output
energy says little about the network's loss, so costs of different groups are not on one scale. One
measurement per group puts them on one: with P the first half of group g's removal order, removed
with the repair that its statistics allow, and L the mean cross-entropy on a few calibration
batches,

    f_g = max(L(network without P) − L(network), ε) / Σ_{u∈P} cost_g(u),

where ε is a thousandth of the largest increase, so that no group is free. A group whose first half
is predicted to cost nothing gets the median factor of the others.

Source: measured per-layer curves are those of [SPDY]; theory.md (58). One point
per group instead of a curve, with the shape taken from the criterion, is our reconstruction.
"""

from __future__ import annotations

import statistics as numbers

import torch
from torch import nn
from torch.nn import functional as F

from prunus.batches import match, primary, read
from prunus.criteria import Scores
from prunus.graph import Group, Groups
from prunus.modules import private_copy
from prunus.plan import Plan, plan_units, predict_loss
from prunus.runs import Loader
from prunus.statistics import Statistics
from prunus.surgery import apply_

__all__ = ["IMAGES", "measure_curves"]

#: Calibration images to measure the loss on.
IMAGES = 512


def measure_curves(
    model: nn.Module,
    groups: Groups,
    scores: Scores,
    statistics: Statistics,
    batches: Loader,
    *,
    compensate: str,
    ridge: float,
) -> dict[str, float]:
    """Return f_g > 0 of every scored group with at least two removable units; see the module.

    `model` is not changed. `compensate` is the repair used for the cut; `patch` and `joint` are
    replaced by the patch repair from statistics, or by the pointwise one without patches.
    Cost: a copy of the network and a forward pass over `batches` per group.
    """
    if compensate in ("patch", "joint"):  # layer by layer would cost one refit per group
        compensate = "patch" if statistics.sampling == "patch" else "pointwise"
    whole = _loss(model, batches)
    increase, predicted = {}, {}
    for group in groups.values():
        plan = _half(groups, group, scores)
        if plan is None:
            continue
        halved = private_copy(model)
        apply_(halved, plan, statistics, compensate=compensate, ridge=ridge, undo=False)
        increase[group.name] = _loss(halved, batches) - whole
        predicted[group.name] = predict_loss(scores, plan, groups).total
    least = max(1e-3 * max(increase.values(), default=0.0), 1e-9)
    factors = {
        name: max(increase[name], least) / predicted[name]
        for name in increase
        if predicted[name] > 0
    }
    usual = numbers.median(factors.values()) if factors else 1.0
    return {name: factors.get(name, usual) for name in increase}


def _half(groups: Groups, group: Group, scores: Scores) -> Plan | None:
    """Return the plan that removes the first half of a group's order."""
    going = min(group.units // 2, group.units - group.least)
    if going < 1 or group.name not in scores.groups:
        return None
    return plan_units(groups, {group.name: scores[group.name].order[:going].tolist()})


@torch.no_grad()
def _loss(model: nn.Module, batches: Loader) -> float:
    """Return the mean cross-entropy of a network in eval mode."""
    training = model.training
    model.eval()
    total, count = 0.0, 0
    for batch in read(batches, model):
        found = match(primary(batch.inputs(model)).double(), batch.labels)
        total += float(F.cross_entropy(found.scores, found.targets, reduction="sum"))
        count += len(found.targets)
    model.train(training)
    return total / max(count, 1)
