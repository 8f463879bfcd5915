"""`dp` against every combination of widths, on networks small enough to try them all."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prunus.criteria import Scores
from prunus.criteria.scores import GroupScore
from prunus.graph import Groups, find_groups
from prunus.plan import Budget, make_plan, plan_units, predict_loss
from prunus.plan.cost_tracker import CostTracker
from prunus.plan.dynamic import knapsack
from prunus.plan.problem import Problem
from prunus.plan.rules import Rules
from prunus.plan.state import WidthState
from tests.graph.nets import build, images


def convex_scores(groups: Groups, seed: int, bumpy: bool) -> Scores:
    """Return scores whose marginal costs rise along the order (with bumps), one scale per group."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for group in groups.values():
        scale = 10 ** (2 * torch.rand((), generator=generator).double() - 1)
        steps = torch.rand(group.units, generator=generator).double().square() * scale
        if not bumpy:
            steps = steps.sort().values
        order = torch.randperm(group.units, generator=generator)
        costs = torch.empty_like(steps).scatter_(0, order, steps)
        made[group.name] = GroupScore.of(costs, order)
    return Scores(made, "made up", "loss", True, {})


def best_by_brute_force(groups: Groups, scores: Scores, limits: dict[str, float]) -> float:
    """Try every number of units of every group: the least summed cost that meets the limits."""
    best = math.inf
    for kept in itertools.product(*(range(g.least, g.units + 1) for g in groups.values())):
        tracker, loss = CostTracker(groups), 0.0
        for group, keep in zip(groups.values(), kept, strict=True):
            gone = scores[group.name].order[: group.units - keep]
            tracker.remove(group, gone.tolist())
            loss += float(scores[group.name].costs[gone].sum())
        if tracker.meets(limits):
            best = min(best, loss)
    return best


LIMITS = ({"macs": 0.5}, {"params": 0.4}, {"bytes": 0.7}, {"macs": 0.6, "params": 0.5})


@pytest.mark.parametrize("bumpy", [False, True], ids=["convex", "bumpy"])
@pytest.mark.parametrize("net", ["plain", "residual", "grouped", "token", "concat"])
def test_near_the_best_of_all_combinations(net: str, bumpy: bool) -> None:
    groups = find_groups(build(net), images(1), inputs=False)
    dense = CostTracker(groups).totals
    over = []
    for seed in range(2 if net in ("concat", "token") else 5):
        scores = convex_scores(groups, seed, bumpy)
        limits = {c: int(share * dense[c]) for c, share in LIMITS[seed % len(LIMITS)].items()}
        best = best_by_brute_force(groups, scores, limits)
        plans = {
            a: predict_loss(scores, make_plan(groups, scores, limits, allocation=a), groups).total
            for a in ("uniform", "global", "dp")
        }
        assert best - 1e-12 <= plans["dp"] <= min(plans["uniform"], plans["global"]) + 1e-12
        over.append(plans["dp"] / best)
    assert max(over) <= 1.05


@pytest.mark.parametrize("currency", ["macs", "params", "bytes"])
@pytest.mark.parametrize("net", ["flatten", "mlp"])
def test_never_worse_than_the_others_with_selected_inputs(net: str, currency: str) -> None:
    groups = find_groups(build(net), images(1))
    for seed in range(3):
        scores = convex_scores(groups, seed, bumpy=True)
        losses = {
            a: predict_loss(
                scores, make_plan(groups, scores, f"{currency}=50%", allocation=a), groups
            ).total
            for a in ("uniform", "global", "dp")
        }
        assert losses["dp"] <= min(losses.values()) + 1e-12


def test_a_state_costs_and_loses_what_its_plan_does() -> None:
    groups = find_groups(build("flatten"), images(1))
    scores = convex_scores(groups, 0, bumpy=True)
    problem = Problem.of(groups, scores, Budget.of({"macs": 10**9}), Rules.of(groups), None, None)
    state, generator = WidthState(problem), np.random.default_rng(0)
    for _ in range(30):
        group = groups.entries[int(generator.integers(len(groups)))]
        state.move({group.name: int(generator.integers(1, group.units + 1))})
        removed = {n: (~left).nonzero()[0].tolist() for n, left in state.tracker.left.items()}
        plan = plan_units(groups, removed)
        assert state.loss == pytest.approx(predict_loss(scores, plan, groups).total)
        fresh = CostTracker(groups)
        for name, units in removed.items():
            fresh.remove(groups[name], units)
        assert fresh.totals == state.tracker.totals
        for made in ("conv1", "fc1"):
            assert state.tracker.left[made].sum() == state.left[made]


def test_curves_rescale_groups() -> None:
    """A group measured to lose 1000 times what is predicted keeps all it can."""
    groups = find_groups(build("token"), images(1))
    scores = convex_scores(groups, 0, bumpy=False)
    for allocation in ("dp", "global"):
        plan = make_plan(
            groups, scores, "macs=60%", allocation=allocation, curves={groups.entries[1].name: 1e9}
        )
        assert groups.entries[1].name not in plan.groups


def test_scores_without_a_common_scale_are_divided_by_their_mean() -> None:
    groups = find_groups(build("token"), images(1))
    scores = convex_scores(groups, 0, bumpy=True)
    plain = Scores(scores.groups, "", "", comparable=False, skipped={})
    scaled = Scores(
        {
            n: GroupScore.of(s.costs * 10**i, s.order)
            for i, (n, s) in enumerate(scores.groups.items())
        },
        "",
        "",
        comparable=False,
        skipped={},
    )
    plans = [make_plan(groups, s, "macs=50%", allocation="dp") for s in (plain, scaled)]
    assert plans[0] == plans[1]


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 40), st.integers(0, 30)), min_size=1, max_size=5),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 120),
)
def test_knapsack_is_the_best_of_all_choices(
    options: list[list[tuple[int, int]]], limit: int
) -> None:
    costs = [np.array([cost for cost, _ in group], dtype=float) for group in options]
    losses = [np.array([loss for _, loss in group], dtype=float) for group in options]
    chosen = knapsack(costs, losses, limit + 0.5)  # no choice is at the edge of rounding
    fitting = [
        sum(loss for _, loss in choice)
        for choice in itertools.product(*options)
        if sum(cost for cost, _ in choice) <= limit
    ]
    spent = sum(cost[i] for cost, i in zip(costs, chosen, strict=True))
    if fitting:
        assert spent <= limit
        assert sum(loss[i] for loss, i in zip(losses, chosen, strict=True)) == min(fitting)
    else:
        assert spent == sum(cost.min() for cost in costs)
