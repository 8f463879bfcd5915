"""Multiples, protected units, and budgets that they make unreachable."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from prunus.core.errors import BudgetError, ConfigError
from prunus.criteria import score
from prunus.criteria.scores import GroupScore
from prunus.evaluation import LatencyTable
from prunus.evaluation.latency.table import Grid
from prunus.graph import Groups, find_groups
from prunus.plan import ALLOCATIONS, Budget, Plan, check_reachable, least_costs, make_plan
from prunus.plan.cost_tracker import CostTracker
from prunus.statistics import Statistics
from prunus.surgery import replay_
from tests.graph.nets import images
from tests.graph.test_costs import real_cost
from tests.plan.test_allocate import scored

CURRENCIES = ("macs", "params", "bytes", "ms")


def linear_table(groups: Groups) -> LatencyTable:
    """A machine that takes 1 µs per channel made and 1 µs per thousand products."""
    grids, layers = {}, {}
    for name, layer in groups.layers.items():
        if layer.positions:
            ends = (0, layer.out), (0, layer.in_)
            each = layer.positions * layer.taps / layer.groups / 1e6
            times = [[(o / 1e3 + o * i * each) for i in ends[1]] for o in ends[0]]
            grids[name] = Grid.monotone(*ends, times)
            layers[name] = (name,)
    return LatencyTable(grids, layers, 0.01, 1, 1, "made up")


def left(groups: Groups, plan: Plan) -> dict[str, int]:
    return {
        g.name: g.units - (len(plan.groups[g.name].removed) if g.name in plan.groups else 0)
        for g in groups.values()
    }


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("net", ["plain", "residual", "concat", "depthwise", "token", "grouped"])
def test_widths_are_multiples(net: str, allocation: str) -> None:
    groups, scores = scored(net)
    for budget in ({"macs": 0.7}, {"params": 0.7, "bytes": 0.8}):
        text = ",".join(f"{c}={100 * share}%" for c, share in budget.items())
        plan = make_plan(groups, scores, text, allocation=allocation, round_to=2)
        for group in groups.values():
            got = left(groups, plan)[group.name]
            assert got % 2 == 0 or got == group.units
        dense = CostTracker(groups).totals
        cost = real_cost(replay_(copy.deepcopy(groups.model), plan), images(2))
        assert all(cost[c] <= share * dense[c] for c, share in budget.items())


@settings(max_examples=30)
@given(
    net=st.sampled_from(["flatten", "mlp"]),
    allocation=st.sampled_from(ALLOCATIONS),
    currency=st.sampled_from(["macs", "params", "bytes"]),
    seed=st.integers(0, 50),
)
def test_selections_are_multiples_of_what_is_read(
    net: str, allocation: str, currency: str, seed: int
) -> None:
    groups, scores = scored(net, seed)
    limit = 1.1 * least_costs(groups, round_to=4)[currency]
    plan = make_plan(groups, scores, {currency: limit}, allocation=allocation, round_to=4)
    cut = replay_(copy.deepcopy(groups.model), plan)
    assert real_cost(cut, images(2))[currency] <= limit
    for group in groups.values():
        got = left(groups, plan)[group.name]
        assert got % 4 == 0 or got == group.units


def test_a_group_narrower_than_the_multiple_is_free() -> None:
    groups, scores = scored("plain")  # 8 and 6 channels
    plan = make_plan(groups, scores, "macs=60%", round_to=7, allocation="uniform")
    assert left(groups, plan)["conv1"] == 7
    assert 0 < left(groups, plan)["conv2"] < 6


@settings(max_examples=30)
@given(
    net=st.sampled_from(["plain", "flatten", "mlp", "residual"]),
    allocation=st.sampled_from(ALLOCATIONS),
    seed=st.integers(0, 50),
)
def test_protected_units_stay(net: str, allocation: str, seed: int) -> None:
    groups, scores = scored(net, seed)
    generator = torch.Generator().manual_seed(seed)
    protected = {
        g.name: torch.randperm(g.units, generator=generator)[: max(1, g.units // 20)].tolist()
        for g in groups.values()
    }
    least = least_costs(groups, protected=protected)["params"]
    limits = {"params": max(least, groups.total_params // 4)}
    plan = make_plan(groups, scores, limits, allocation=allocation, protected=protected)
    for name, units in protected.items():
        if name in plan.groups:
            assert not set(units) & set(plan.groups[name].removed)
    cut = replay_(copy.deepcopy(groups.model), plan)
    assert real_cost(cut, images(2))["params"] <= limits["params"]


def test_a_protected_position_keeps_its_channel() -> None:
    groups, scores = scored("flatten")
    plan = make_plan(groups, scores, "macs=30%", protected={"fc1.features": [33]})  # channel 2
    assert 2 not in plan.groups["conv1"].removed
    assert 33 not in plan.groups["fc1.features"].removed


@pytest.mark.parametrize("currency", CURRENCIES)
@pytest.mark.parametrize("net", ["plain", "flatten", "mlp"])
@pytest.mark.parametrize(("round_to", "some"), [(1, False), (2, False), (1, True), (4, True)])
def test_the_least_is_reachable_and_less_is_not(
    net: str, currency: str, round_to: int, some: bool
) -> None:
    groups, scores = scored(net)
    table = linear_table(groups)
    rules = {
        "round_to": round_to,
        "protected": {g.name: [0, 1, g.units - 1] for g in groups.values()} if some else None,
        "table": table,
    }
    least = least_costs(groups, **rules)[currency]
    for allocation in ALLOCATIONS:
        plan = make_plan(groups, scores, {currency: least}, allocation=allocation, **rules)
        if currency != "ms":
            cut = replay_(copy.deepcopy(groups.model), plan)
            assert real_cost(cut, images(1))[currency] == least
    words = rf"cannot be reached: the least is {currency}=[\d.e-]+ \("
    extra = ["the protected units"] * some + [f"multiples of {round_to}"] * (round_to > 1)
    if extra:
        words += ".*left, " + " and ".join(extra)
    with pytest.raises(BudgetError, match=words):
        make_plan(groups, scores, {currency: least * 0.99}, **rules)
    with pytest.raises(BudgetError, match=words):
        check_reachable(groups, Budget.parse(f"{currency}={least * 0.99:.10f}"), **rules)


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("net", ["plain", "residual", "flatten"])
def test_milliseconds_by_the_table(net: str, allocation: str) -> None:
    groups, scores = scored(net)
    table = linear_table(groups)
    plan = make_plan(groups, scores, "ms=60%", allocation=allocation, table=table)
    spent = CostTracker(groups, table)
    dense = spent.totals["ms"]
    for name, edit in plan.groups.items():
        spent.remove(groups[name], edit.removed)
    assert 0.3 * dense < spent.totals["ms"] <= 0.6 * dense + 1e-12
    by_hand = table.rest
    cut = find_groups(replay_(copy.deepcopy(groups.model), plan), images(1))
    for name, layer in cut.layers.items():
        reads = cut.consumers[name].feature_of if name in cut.consumers else None
        in_ = int((reads >= 0).sum()) if reads is not None else layer.in_
        if layer.positions:
            by_hand += table.ms(name, layer.out, in_)
    assert spent.totals["ms"] == pytest.approx(by_hand)


def test_bytes_where_an_index_costs_more_than_it_saves() -> None:
    """One output per feature: 4 bytes saved for each feature dropped, 4 spent on each kept."""
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(300, 1), torch.nn.ReLU(), torch.nn.Linear(1, 4)
    )
    groups = find_groups(model, images(1))
    scores = score(groups, Statistics({}, groups, 0), "random", seed=0)
    least = least_costs(groups, least=0.9)["bytes"]
    assert least == groups.total_bytes
    for allocation in ALLOCATIONS:
        assert (
            make_plan(groups, scores, {"bytes": least}, allocation=allocation, least=0.9) == Plan()
        )


def test_an_index_does_not_keep_inputs_from_going() -> None:
    """The first input dropped brings the index of all the others; all later ones save bytes."""
    groups, scores = scored("mlp")
    cheap = {
        n: GroupScore.of(s.costs * (1e-6 if n == "fc1.inputs" else 1))
        for n, s in scores.groups.items()
    }
    for allocation in ("global", "dp"):
        plan = make_plan(groups, replace(scores, groups=cheap), "bytes=50%", allocation=allocation)
        assert list(plan.groups) == ["fc1.inputs"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"least": 1.5}, "least is 1.5, expected a share"),
        ({"round_to": 0}, "round_to is 0"),
        ({"protected": {"conv9": [0]}}, "protected names group 'conv9': the groups are conv1"),
        ({"protected": {"conv1": [8]}}, "unit 8 of 'conv1', which has units 0 to 7"),
        ({"curves": {"conv1": 0.0}}, "curves gives 'conv1' the factor 0.0"),
        ({"curves": {"conv9": 1.0}}, "one of the groups conv1, conv2"),
    ],
)
def test_settings_out_of_range(options: dict, message: str) -> None:
    groups, scores = scored("plain")
    with pytest.raises(ConfigError, match=message):
        make_plan(groups, scores, "macs=50%", **options)


def test_the_least_that_is_said_can_be_asked_for() -> None:
    groups, scores = scored("plain")
    table = linear_table(groups)
    for currency in CURRENCIES:
        with pytest.raises(BudgetError, match="the least is") as error:
            make_plan(groups, scores, f"{currency}=0.001%", table=table)
        least = str(error.value).split(f"is {currency}=")[1].split()[0]
        assert make_plan(groups, scores, f"{currency}={least}", table=table).groups


def test_what_a_plan_cannot_count() -> None:
    groups, scores = scored("plain")
    with pytest.raises(BudgetError, match="needs a latency table of this machine"):
        make_plan(groups, scores, "ms=50%")
    with pytest.raises(BudgetError, match="a plan cannot guarantee macs ≤ 50%, accuracy ≥ 97%"):
        make_plan(groups, scores, "macs=50%, accuracy>=97%")
    with pytest.raises(BudgetError, match="'watts' cannot be counted: expected one of macs"):
        make_plan(groups, scores, {"watts": 3})


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_picking_inputs_that_costs_more_than_it_saves_is_left(allocation: str) -> None:
    layers = (nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    model, image = nn.Sequential(nn.Flatten(), *layers), torch.zeros(1, 1, 8, 8)
    groups, whole = find_groups(model, image), find_groups(model, image, inputs=False)
    table = linear_table(groups)
    pick = Grid((1,), (1,), ((5.0,),))
    table = replace(table, grids={**table.grids, "pick": pick}, selections={"1": ("pick",)})
    least = least_costs(groups, table=table)["ms"]
    assert least == least_costs(whole, table=table)["ms"]
    limits = {"ms": 1.5 * least}
    plan = make_plan(
        groups, score(groups, None, "random", seed=0), limits, allocation=allocation, table=table
    )
    assert not any("select" in axes for axes in plan.modules.values())
    tracker = CostTracker(groups, table)
    for group in groups.values():
        tracker.remove(group, plan.groups[group.name].removed if group.name in plan.groups else ())
    assert tracker.meets(limits)
