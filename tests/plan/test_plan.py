"""Plans are values: JSON round trips, and two consecutive plans are one."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunus.core.errors import PlanError
from prunus.graph import find_groups
from prunus.models import build_model
from prunus.plan import Edit, Plan, plan_units
from prunus.surgery import replay_
from tests.conftest import random_plan
from tests.graph.nets import SHAPE, build, images


def test_json_there_and_back() -> None:
    plan = random_plan(find_groups(build("flatten"), images(1)), seed=1)
    text = plan.to_json()
    assert Plan.from_json(text) == plan
    assert Plan.from_json(text).to_json() == text
    shuffled = Plan(
        dict(reversed(plan.groups.items())),
        {n: dict(reversed(a.items())) for n, a in reversed(plan.modules.items())},
    )
    assert shuffled.to_json() == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "{}",
        '{"format": 1}',
        '{"format": 1, "groups": [], "modules": {}}',
        '{"format": 1, "groups": {}, "modules": {"a": {"out": {"of": "x", "removed": []}}}}',
        '{"format": 1, "groups": {}, "modules": {"a": {"out": {"of": 3, "removed": ["y"]}}}}',
        '{"format": 1, "groups": {}, "modules": {"a": {"out": 3}}}',
        '{"format": 1, "groups": {}, "modules": {"a": {"out": {"of": 3, "removed": [1.5]}}}}',
        '{"format": 1, "groups": {}, "modules": {"a": {"out": {"of": true, "removed": []}}}}',
    ],
)
def test_what_is_no_plan(text: str) -> None:
    with pytest.raises(PlanError, match=r"not a plan of Prunus.*plan\.json"):
        Plan.from_json(text)


@pytest.mark.parametrize("version", [0, 2])
def test_a_plan_of_another_format(version: int) -> None:
    with pytest.raises(PlanError, match=f"format {version}, this Prunus reads format 1: load it"):
        Plan.from_json(f'{{"format": {version}, "groups": {{}}, "modules": {{}}, "new": 1}}')


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ('{"format": 1, "groups": {}, "modules": {}, "grown": {}}', "'grown', expected format"),
        (
            '{"format": 1, "groups": {"a": {"of": 3, "removed": [], "kept": [0]}}, "modules": {}}',
            "'kept', expected of, removed",
        ),
    ],
)
def test_unknown_fields_are_refused(text: str, unknown: str) -> None:
    with pytest.raises(PlanError, match=f"unknown field {unknown}"):
        Plan.from_json(text)


def test_units_that_cannot_go() -> None:
    groups = find_groups(build("flatten"), images(1))
    for removed, message in (
        ({"conv1": [5]}, "conv1 has 5 units, asked to remove 5"),
        ({"conv1": [-1, 2]}, "conv1 has 5 units, asked to remove -1"),
        ({"conv1": range(5)}, "5 of the 5 units of conv1 would be removed: keep at least 1"),
        ({"conv9": [0]}, "no group 'conv9': the groups are fc1.features, conv1, fc1"),
        ({"conv1": [0], "fc1.features": range(16, 80)}, "fc1 would be left without inputs"),
    ):
        with pytest.raises(PlanError, match=message):
            plan_units(groups, removed)


def test_what_no_longer_arrives_is_not_deselected_too() -> None:
    groups = find_groups(build("flatten"), images(1))
    plan = plan_units(groups, {"conv1": [0], "fc1.features": [3, 40]})
    assert plan.modules["fc1"]["in"] == Edit(80, tuple(range(16)))
    assert plan.modules["fc1"]["select"] == Edit(80, (40,))
    assert plan.groups["fc1.features"] == Edit(80, (*range(16), 40))


def test_edits_in_a_row() -> None:
    first = Edit(6, (1, 4))
    assert first.kept() == [0, 2, 3, 5]
    assert first.then(Edit(4, (0, 3))) == Edit(6, (0, 1, 4, 5))
    with pytest.raises(PlanError, match="for 5 channels cannot follow one that left 4"):
        first.then(Edit(5, (0,)))


CHAINS = {
    "lenet5": (1, 28, 28),
    "lenet300": (1, 28, 28),
    "concat": SHAPE,
    "flatten": SHAPE,
    "grouped": SHAPE,
    "depthwise": SHAPE,
}


@settings(max_examples=20)
@given(
    net=st.sampled_from([*CHAINS, "lenet5", "flatten"]),
    seeds=st.lists(st.integers(0, 1000), min_size=2, max_size=3),
    most=st.sampled_from([0.3, 0.7]),
)
def test_cuts_in_a_row_are_one_cut(net: str, seeds: list[int], most: float) -> None:
    shape = CHAINS[net]
    torch.manual_seed(0)
    dense = (
        build_model(net, num_classes=10, input_shape=shape).eval() if shape != SHAPE else build(net)
    )
    stepwise, composed = copy.deepcopy(dense), Plan()
    for seed in seeds:
        groups = find_groups(stepwise, torch.randn(1, *shape))
        try:
            plan = random_plan(groups, seed, most)
        except PlanError as error:  # a random plan may leave a flattened input unread
            assert "would be left without inputs" in str(error)
            continue
        replay_(stepwise, plan)
        composed = composed.then(plan)
    once = replay_(copy.deepcopy(dense), Plan.from_json(composed.to_json()))
    expected, got = stepwise.state_dict(), once.state_dict()
    assert list(expected) == list(got)
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    x = torch.randn(2, *shape)
    assert torch.equal(stepwise(x), once(x))
    left = {n: len(e.kept()) for n, e in composed.groups.items()}
    after = {g.name: g.units for g in find_groups(stepwise, x).values()}
    assert {n: left[n] for n in left if n in after} == {n: after[n] for n in left if n in after}
