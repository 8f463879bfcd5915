"""Predicted loss: the sum of the costs, with the jackknife's interval of that sum."""

import math

import pytest
import torch
from scipy.stats import t

from prunus.core.errors import PlanError
from prunus.criteria import Scores
from prunus.criteria.scores import GroupScore
from prunus.graph import find_groups
from prunus.plan import Plan, plan_units, predict_loss
from tests.graph.nets import build, images

K = 6


def made_up(units: dict[str, int], replicates: bool = True) -> Scores:
    generator = torch.Generator().manual_seed(0)
    groups = {}
    for name, count in units.items():
        costs = torch.rand(count, generator=generator).double()
        noise = 0.1 * torch.rand(K, count, generator=generator).double()
        order = torch.randperm(count, generator=generator)
        made = GroupScore.of(costs, order)
        groups[name] = GroupScore(
            made.values, made.order, made.costs, costs + noise if replicates else None
        )
    return Scores(groups, "made up", "loss", True, {})


def test_total_and_interval_from_the_definition() -> None:
    groups = find_groups(build("residual"), images(1))
    scores = made_up({g.name: g.units for g in groups.values()})
    removed = {g.name: scores[g.name].order[:3].tolist() for g in groups.values()}
    plan = plan_units(groups, removed)
    factors = {groups.entries[0].name: 2.0}
    got = predict_loss(scores, plan, groups, curves=factors, level=0.9)
    total, without = 0.0, [0.0] * K
    for name, units in removed.items():
        for unit in units:
            factor = factors.get(name, 1.0)
            total += factor * float(scores[name].costs[unit])
            for k in range(K):
                replicates = scores[name].replicates
                assert replicates is not None
                without[k] += factor * float(replicates[k, unit])
    mean = sum(without) / K
    error = math.sqrt((K - 1) / K * sum((value - mean) ** 2 for value in without))
    half = float(t.ppf(0.95, K - 1)) * error
    assert got.total == pytest.approx(total)
    assert (got.low, got.high) == (pytest.approx(max(0, total - half)), pytest.approx(total + half))
    assert sum(got.by_group.values()) == pytest.approx(total)
    assert set(got.by_group) == set(removed)
    assert (got.unit, got.comparable) == ("loss", True)


def test_without_replicates_the_interval_is_unknown() -> None:
    groups = find_groups(build("plain"), images(1))
    plan = plan_units(groups, {"conv1": [0], "conv2": [1]})
    sizes = {g.name: g.units for g in groups.values()}
    got = predict_loss(made_up(sizes, replicates=False), plan)
    assert math.isnan(got.low)
    assert math.isnan(got.high)
    both = {**made_up(sizes).groups, "conv2": made_up(sizes, replicates=False)["conv2"]}
    assert math.isnan(predict_loss(Scores(both, "", "", True, {}), plan).high)


def test_nothing_removed_loses_nothing() -> None:
    got = predict_loss(made_up({"conv1": 8}), Plan())
    assert (got.total, got.low, got.high, got.by_group) == (0, 0, 0, {})


def test_a_position_goes_with_its_channel_and_counts_once() -> None:
    groups = find_groups(build("flatten"), images(1))
    scores = made_up({g.name: g.units for g in groups.values()})
    plan = plan_units(groups, {"conv1": [0], "fc1.features": [3, 40]})
    got = predict_loss(scores, plan, groups)
    assert got.by_group["fc1.features"] == float(scores["fc1.features"].costs[40])
    assert got.by_group["conv1"] == float(scores["conv1"].costs[0])
    assert predict_loss(scores, plan).by_group["fc1.features"] > got.by_group["fc1.features"]


def test_scores_of_another_plan() -> None:
    groups = find_groups(build("plain"), images(1))
    plan = plan_units(groups, {"conv1": [0]})
    with pytest.raises(PlanError, match="units of 'conv1', which the scores of made up do not"):
        predict_loss(made_up({"conv2": 6}), plan)
    with pytest.raises(PlanError, match="expects 8 units of 'conv1', the scores hold 9"):
        predict_loss(made_up({"conv1": 9}), plan)
