"""Whole branches in plans: exact costs, every allocation, the reachable minimum."""

import copy
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunus.core.errors import BudgetError, ConfigError
from prunus.criteria import GroupScore, Scores
from prunus.graph import Groups, find_groups
from prunus.plan import Plan, least_costs, make_plan, plan_below, plan_units, predict_loss
from prunus.plan.cost_tracker import CostTracker
from prunus.surgery import replay_
from tests.graph.branching import NETS, build
from tests.graph.nets import images
from tests.plan.test_threshold import made_up

TRACED = {
    net: find_groups(build(net), images(1), inputs=False, drop_branches=True)
    for net in NETS
    if net != "coupled"  # one of its branches is pooled
}
FIRST = ("one.0", "three.1.0", "wide.2.0")  # branches that a concatenation lays beside the image


def costs(groups: Groups, plan: Plan) -> dict[str, float]:
    """Cut the network, and compute the cost of what is left from scratch."""
    cut = replay_(copy.deepcopy(groups.model), plan)
    return CostTracker(find_groups(cut, images(1), inputs=False)).totals


def scored(groups: Groups, **worth: float) -> Scores:
    """Units have values from 1 to 2, times `worth` for the groups that it names."""
    generator = torch.Generator().manual_seed(0)
    values = {
        g.name: GroupScore.of(
            (1 + torch.rand(g.units, generator=generator).double())
            * worth.get(g.name.replace(".", "_"), 1.0)
        )
        for g in groups.values()
    }
    return Scores(values, "made up", "η", True, {})


def gone(plan: Plan) -> set[str]:
    return {name for name, edit in plan.groups.items() if edit.all_gone}


@settings(max_examples=12)
@given(st.sampled_from(sorted(TRACED)), st.lists(st.integers(0, 10**6), min_size=1, max_size=8))
def test_the_ledger_counts_what_the_cut_network_costs(net: str, draws: list[int]) -> None:
    groups = TRACED[net]
    tracker = CostTracker(groups)
    for draw in draws:
        group = groups.entries[draw % len(groups)]
        before = dict(tracker.totals)
        fallen = tracker.falling(group)
        trial = tracker.drop(fallen, trial=True)
        assert tracker.totals == before
        saved = tracker.drop(fallen)
        assert saved == trial
        if saved is None:
            assert tracker.totals == before
        else:
            assert {c: before[c] - saved[c] for c in before} == tracker.totals
        there = tracker.left[group.name].nonzero()[0]
        tracker.remove(group, there[1:][: draw % 3].tolist())
    plan = plan_units(
        groups, {n: (~left).nonzero()[0].tolist() for n, left in tracker.left.items()}
    )
    assert costs(groups, plan) == tracker.totals


def test_the_last_branch_of_a_concatenation_stays() -> None:
    groups = find_groups(build("reduction"), images(1), drop_branches=True)
    tracker = CostTracker(groups)
    assert tracker.drop(tracker.falling(groups["loose"])) is not None
    assert tracker.falling(groups["loose"]) == []
    assert tracker.drop(tracker.falling(groups["tight"])) is None
    assert tracker.left["tight"].all()
    for name in FIRST:
        assert tracker.drop(tracker.falling(groups[name])) is not None


def test_a_branch_below_the_threshold_goes_as_a_whole_with_what_it_read() -> None:
    groups = TRACED["reduction"]
    scores = scored(groups, three_1_0=0.1, wide_0_0=0.1, tight=0.1, loose=0.2)
    plan = plan_below(groups, scores, 0.5)
    assert gone(plan) == {"three.0.0", "three.1.0", "tight"}  # and the best of `loose` is left
    assert plan.groups["loose"].kept() == [int(scores["loose"].values.argmax())]
    assert plan.groups["wide.0.0"].kept() == [int(scores["wide.0.0"].values.argmax())]
    assert "one.0" not in plan.groups
    kept = plan_below(groups, scores, 0.5, protected={"three.0.0": [1]})
    assert gone(kept) == {"tight"}  # what a branch reads is protected: it cannot fall
    assert gone(plan_below(groups, scores, 0.5, least=0.1)) == set()
    plain = find_groups(build("reduction"), images(1), inputs=False)
    assert gone(plan_below(plain, scores, 0.5)) == set()


@given(st.sampled_from(sorted(TRACED)), st.floats(0, 1.1), st.integers(0, 100))
def test_every_branch_goes_that_is_below_unless_something_reads_nothing_then(
    net: str, eta: float, seed: int
) -> None:
    groups = TRACED[net]
    scores = made_up(groups, seed)
    plan = plan_below(groups, scores, eta)
    replay_(build(net), plan)(images(2))
    for group in groups.values():
        values = scores[group.name].values
        below = bool((values < eta).all())
        if group.name in gone(plan):
            read = [m.module for m in group.consumers]
            assert (below and group.least == 0) or all(map(plan.empties, read))
        elif below and group.least == 0:
            removed = {n: edit.removed for n, edit in plan.groups.items()}
            with pytest.raises(Exception, match="would be left without inputs"):
                plan_units(groups, {**removed, group.name: range(group.units)})


@pytest.mark.parametrize("allocation", ["global", "uniform", "threshold"])
@pytest.mark.parametrize("round_to", [1, 4])
@pytest.mark.parametrize("net", ["reduction", "dense"])
def test_every_allocation_meets_a_budget_that_needs_whole_branches(
    net: str, round_to: int, allocation: str
) -> None:
    groups = TRACED[net]
    scores = made_up(groups, 1)
    rules = {"round_to": round_to}
    plain = find_groups(groups.model, images(1), inputs=False)
    least, more = (least_costs(g, **rules)["macs"] for g in (groups, plain))
    assert least < more
    limit = {"macs": 0.5 * (least + more)}
    plan = make_plan(groups, scores, limit, allocation=allocation, **rules)
    assert gone(plan)
    assert costs(groups, plan)["macs"] <= limit["macs"]
    for group in groups.values():
        edit = plan.groups.get(group.name)
        if edit is not None and group.units >= round_to:
            assert len(edit.kept()) % round_to == 0


def test_dynamic_programming_says_that_it_cannot() -> None:
    groups = TRACED["reduction"]
    with pytest.raises(ConfigError, match="drop_branches"):
        make_plan(groups, scored(groups), "macs=50%", allocation="dp")
    assert make_plan(groups, scored(groups), "macs=70%", allocation="dp", least=0.1).groups


def test_the_least_there_is() -> None:
    """Against all sets of branches, everything else at one unit."""
    groups = TRACED["reduction"]
    found = least_costs(groups)
    free = [g.name for g in groups.values() if g.least == 0]
    lowest: dict[str, float] = {}
    for count in range(len(free) + 1):
        for chosen in combinations(free, count):
            if {"loose", "tight"} <= set(chosen):
                continue
            removed = {
                g.name: range(g.units if g.name in chosen else g.units - 1) for g in groups.values()
            }
            for currency, cost in costs(groups, plan_units(groups, removed)).items():
                lowest[currency] = min(cost, lowest.get(currency, cost))
    assert found == lowest
    with pytest.raises(
        BudgetError, match="one unit of every group left that cannot be removed as a whole"
    ):
        make_plan(groups, scored(groups), {"params": lowest["params"] - 1})


def test_what_falls_with_a_branch_is_not_predicted_twice() -> None:
    groups = TRACED["reduction"]
    scores = scored(groups)
    plan = plan_units(groups, {"wide.2.0": range(4), "tight": [0]})
    expected = float(scores["wide.2.0"].costs.sum() + scores["tight"].costs[0])
    assert predict_loss(scores, plan, groups).total == pytest.approx(expected)
    assert set(plan.groups) == {"wide.0.0", "wide.1.0", "wide.2.0", "tight"}
