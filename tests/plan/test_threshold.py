"""One threshold for all groups."""

import math

import pytest
import torch

from prunus.core.errors import ConfigError
from prunus.criteria import GroupScore, Scores
from prunus.graph import Groups, find_groups
from prunus.plan import make_plan, plan_below
from prunus.plan.cost_tracker import CostTracker
from tests.graph.nets import build, images


def made_up(groups: Groups, seed: int = 0, comparable: bool = True) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    values = {
        g.name: GroupScore.of(torch.rand(g.units, generator=generator).double())
        for g in groups.values()
    }
    return Scores(values, "made up", "η", comparable, {})


@pytest.mark.parametrize("net", ["plain", "residual", "concat", "flatten", "mlp"])
def test_units_below_eta_go_and_the_best_of_a_group_stays(net: str) -> None:
    groups = find_groups(build(net), images(1), inputs=False)
    scores = made_up(groups)
    for eta in (0.0, 0.3, 0.7, 10.0):
        plan = plan_below(groups, scores, eta)
        for group in groups.values():
            values = scores[group.name].values
            gone = set((values < eta).nonzero()[:, 0].tolist())
            if len(gone) > group.units - group.least:
                stay = values.argsort(descending=True)[: group.least].tolist()
                gone -= set(stay)
            edit = plan.groups.get(group.name)
            assert set(edit.removed if edit else ()) == gone


@pytest.mark.parametrize("limit", ["macs=60%", "params=40%", "macs=50%,params=70%"])
def test_the_allocation_finds_the_least_threshold(limit: str) -> None:
    groups = find_groups(build("concat"), images(1), inputs=False)
    scores = made_up(groups, 1)
    plan = make_plan(groups, scores, limit, allocation="threshold")
    values = torch.cat([scores[g.name].values for g in groups.values()]).tolist()
    gone = [scores[n].values[list(e.removed)] for n, e in plan.groups.items()]
    eta = float(torch.cat(gone).max())
    assert plan.modules == plan_below(groups, scores, math.nextafter(eta, 2)).modules
    budget = {c.split("=")[0]: float(c.split("=")[1][:-1]) / 100 for c in limit.split(",")}

    def met(eta: float) -> bool:
        tracker = CostTracker(groups)
        dense = dict(tracker.totals)
        for name, edit in plan_below(groups, scores, eta).groups.items():
            tracker.remove(groups[name], edit.removed)
        return all(tracker.totals[c] <= share * dense[c] for c, share in budget.items())

    assert met(math.nextafter(eta, 2))
    smaller = [v for v in values if v <= eta]
    assert not met(max(smaller))  # one unit fewer is one unit too few


def test_scores_of_unlike_scale_are_in_units_of_their_mean() -> None:
    groups = find_groups(build("plain"), images(1), inputs=False)
    scores = made_up(groups, 2)
    scaled = {
        g.name: GroupScore.of(scores[g.name].values * 10.0**i)
        for i, g in enumerate(groups.values())
    }
    plans = [
        make_plan(groups, Scores(s, "", "", False, {}), "macs=50%", allocation="threshold")
        for s in (scores.groups, scaled)
    ]
    assert plans[0].modules == plans[1].modules


def test_round_to_and_protected_units_are_kept() -> None:
    groups = find_groups(build("plain"), images(1), inputs=False)
    scores = made_up(groups, 3)
    worst = int(scores["conv1"].order[0])
    plan = plan_below(groups, scores, 0.9, round_to=4, protected={"conv1": [worst]})
    assert worst not in plan.groups["conv1"].removed
    assert len(plan.groups["conv1"].kept()) % 4 == 0
    with pytest.raises(ConfigError, match="eta is -1"):
        plan_below(groups, scores, -1)
