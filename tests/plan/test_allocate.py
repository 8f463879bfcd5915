"""Budgets are met, layers are never emptied, the lazy greedy is the greedy."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunus.core.errors import BudgetError, ConfigError, NothingToPruneError
from prunus.criteria import Scores, score
from prunus.criteria.scores import GroupScore
from prunus.graph import Groups, find_groups
from prunus.plan import ALLOCATIONS, Plan, make_plan
from prunus.plan.cost_tracker import CostTracker
from prunus.statistics import Statistics
from prunus.surgery import replay_
from tests.graph.nets import NETS, build, images
from tests.graph.test_costs import real_cost


def scored(net: str, seed: int = 0, criterion: str = "random") -> tuple[Groups, Scores]:
    groups = find_groups(build(net), images(1))
    options = {"seed": seed} if criterion == "random" else {}
    return groups, score(groups, Statistics({}, groups, 0), criterion, **options)


def sizes(model: torch.nn.Module) -> list[int]:
    return [p.numel() for p in model.parameters()]


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("net", NETS)
def test_limits_are_met(net: str, allocation: str) -> None:
    groups, scores = scored(net)
    dense = {"macs": groups.total_macs, "params": groups.total_params}
    for budget in ({"macs": 0.6}, {"params": 0.5}, {"macs": 0.8, "params": 0.6}):
        limits = {c: int(dense[c] * share) for c, share in budget.items()}
        text = ",".join(f"{c}={limit}" for c, limit in limits.items())
        plan = make_plan(groups, scores, text, allocation=allocation)
        cost = real_cost(replay_(copy.deepcopy(groups.model), plan), images(2))
        assert all(cost[c] <= limit for c, limit in limits.items())
        assert all(cost[c] > 0.5 * limit for c, limit in limits.items() if len(limits) == 1)
        for name, edit in plan.groups.items():
            assert len(edit.removed) < edit.of == groups[name].units


@settings(max_examples=20)
@given(
    net=st.sampled_from(["flatten", "mlp", "depthwise", "grouped"]),
    allocation=st.sampled_from(ALLOCATIONS),
    currency=st.sampled_from(["macs", "params"]),
    over=st.floats(1.0, 4.0),
    seed=st.integers(0, 50),
)
def test_near_the_least_nothing_is_emptied(
    net: str, allocation: str, currency: str, over: float, seed: int
) -> None:
    groups, scores = scored(net, seed)
    tracker = CostTracker(groups)
    for group in groups.values():
        tracker.remove(group, range(group.least, group.units))
    limits = {currency: int(tracker.totals[currency] * over)}
    cut = copy.deepcopy(groups.model)
    replay_(cut, make_plan(groups, scores, limits, allocation=allocation))
    assert min(sizes(cut)) > 0
    assert real_cost(cut, images(2))[currency] <= limits[currency]
    assert torch.isfinite(cut(images(2))).all()


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_least_share_stays(allocation: str) -> None:
    groups, scores = scored("concat")
    plan = make_plan(groups, scores, "macs=45%", allocation=allocation, least=0.5)
    for group in groups.values():
        left = group.units - len(
            plan.groups[group.name].removed if group.name in plan.groups else ()
        )
        assert left >= math.ceil(group.units / 2)


def test_a_budget_of_everything_removes_nothing() -> None:
    groups, scores = scored("plain")
    for allocation in ALLOCATIONS:
        assert make_plan(groups, scores, "macs=100%", allocation=allocation) == Plan()


def test_uniform_keeps_one_share_everywhere() -> None:
    groups, scores = scored("token")
    plan = make_plan(groups, scores, "macs=50%", allocation="uniform")
    shares = [1 - len(plan.groups[g.name].removed) / g.units for g in groups.values()]
    assert max(shares) - min(shares) <= 0.5 / 6 + 0.5 / 8
    for group in groups.values():
        order = scores[group.name].order.tolist()
        removed = plan.groups[group.name].removed
        assert sorted(order[: len(removed)]) == list(removed)


def test_out_of_reach_says_the_least() -> None:
    groups, scores = scored("plain")
    with pytest.raises(BudgetError, match=r"the least is macs=(\d+)") as error:
        make_plan(groups, scores, "macs=1")
    least = int(str(error.value).split("macs=")[1].split()[0])
    plan = make_plan(groups, scores, {"macs": least})
    assert real_cost(replay_(copy.deepcopy(groups.model), plan), images(1))["macs"] == least
    with pytest.raises(BudgetError, match="the least share of every group"):
        make_plan(groups, scores, "macs=5%", least=0.9)


def test_unknown_allocation_and_nothing_to_prune() -> None:
    groups, scores = scored("plain")
    with pytest.raises(ConfigError, match="expected one of global, uniform, dp"):
        make_plan(groups, scores, "macs=50%", allocation="greedy")
    empty = find_groups(torch.nn.ReLU(), images(1))
    with pytest.raises(NothingToPruneError):
        make_plan(empty, scores, "macs=50%")


def greedy(groups: Groups, scores: Scores, limits: dict[str, int]) -> dict[str, list[int]]:
    """Try the next unit of every group at each step: slow, from the definition."""
    tracker = CostTracker(groups)
    dense = dict(tracker.totals)
    taken: dict[str, list[int]] = {g.name: [] for g in groups.values()}
    while any(tracker.totals[c] > limit for c, limit in limits.items()):
        best, chosen = math.inf, None
        for group in groups.values():
            if group.units - len(taken[group.name]) <= 1:
                continue
            got = scores[group.name]
            unit = int(got.order[len(taken[group.name])])
            mean = 1.0 if scores.comparable else float(got.values.mean())
            saved = tracker.saving(group, [unit])
            share = sum(
                saved[c] / dense[c] for c, limit in limits.items() if tracker.totals[c] > limit
            )
            ratio = float(got.values[unit]) / mean / share if share > 0 else math.inf
            if ratio < best:
                best, chosen = ratio, (group, unit)
        assert chosen is not None
        tracker.remove(chosen[0], [chosen[1]])
        taken[chosen[0].name].append(chosen[1])
    return {name: sorted(units) for name, units in taken.items() if units}


@pytest.mark.parametrize("criterion", ["random", "l1"])
@pytest.mark.parametrize("net", ["plain", "residual", "concat", "depthwise", "mlp", "token"])
def test_global_is_the_greedy(net: str, criterion: str) -> None:
    groups, scores = scored(net, criterion=criterion)
    for limits in (
        {"macs": groups.total_macs // 2},
        {"params": groups.total_params // 3},
        {"macs": int(groups.total_macs * 0.8), "params": int(groups.total_params * 0.6)},
    ):
        plan = make_plan(groups, scores, limits)
        expected = greedy(groups, scores, limits)
        assert {n: list(e.removed) for n, e in plan.groups.items()} == expected


def test_channels_whose_every_position_is_deselected_go_too() -> None:
    groups, scores = scored("flatten")
    only_features = Scores({"fc1.features": scores["fc1.features"]}, "random", "", True, skipped={})
    order = list(range(80))  # channels 0, 1, 2, … lose all positions, one after the other
    values = torch.arange(80, dtype=torch.float64)
    only_features.groups["fc1.features"] = GroupScore.of(values, torch.tensor(order))
    both = Scores(
        only_features.groups
        | {"conv1": GroupScore.of(torch.full((5,), 1e9).double(), torch.arange(5))},
        "random",
        "",
        True,
        skipped={},
    )
    channel = groups.layers["conv1"].params(1, groups.layers["conv1"].in_)
    limit = groups.total_params - 12 * 33 - 2 * channel  # channels 0 and 1, one position of 2
    plan = make_plan(groups, both, {"params": limit})
    assert plan.groups["conv1"].removed == (0, 1)
    assert plan.modules["fc1"]["in"].removed == tuple(range(32))
    assert plan.modules["fc1"]["select"].removed == (32,)


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_the_same_inputs_give_the_same_bytes(allocation: str) -> None:
    plans = {
        make_plan(*scored("concat", seed=4), "macs=50%", allocation=allocation).to_json()
        for _ in range(2)
    }
    assert len(plans) == 1
