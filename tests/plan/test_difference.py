"""Comparison of two plans; oracles count with sets, and chance by enumerating every choice."""

import json
from fractions import Fraction
from itertools import combinations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunus.core.errors import PlanError
from prunus.graph import find_groups
from prunus.plan import Edit, Plan, compare_plans, plan_units
from prunus.plan.difference import chance_agreement
from prunus.surgery import replay_
from tests.graph.nets import build, images

A = Plan({"x": Edit(6, (0, 1, 2)), "y": Edit(4, (3,)), "only": Edit(5, (0, 4))})
B = Plan({"x": Edit(6, (2, 5)), "y": Edit(4, (3,)), "other": Edit(3, (1,))})


@st.composite
def two_plans(draw: st.DrawFn) -> tuple[Plan, Plan]:
    """Plans of one network, in which each may leave groups out."""
    units = draw(st.dictionaries(st.sampled_from("abcde"), st.integers(1, 9), max_size=5))
    plans: tuple[dict[str, Edit], dict[str, Edit]] = ({}, {})
    for name, of in units.items():
        for edits in plans:
            if draw(st.booleans()):
                removed = draw(st.sets(st.integers(0, of - 1)))
                edits[name] = Edit(of, tuple(sorted(removed)))
    return Plan(plans[0]), Plan(plans[1])


def test_by_hand() -> None:
    found = compare_plans(A, B)
    rows = {row.group: row for row in found.groups}
    assert [row.group for row in found.groups] == ["x", "only", "other", "y"]  # 3, 2, 1, 0 differ
    assert (rows["x"].both, rows["x"].a_alone, rows["x"].b_alone) == ((2,), (0, 1), (5,))
    assert [rows[name].kept for name in ("x", "y", "only", "other")] == [2, 3, 3, 2]
    assert (found.only_a, found.only_b) == (("only",), ("other",))
    assert found.removed == (6, 4)
    assert found.units == 18
    assert found.jaccard == 2 / 8
    assert not found.same


@given(two_plans())
def test_every_count_is_that_of_sets(plans: tuple[Plan, Plan]) -> None:
    a, b = (
        {(name, unit) for name, edit in plan.groups.items() for unit in edit.removed}
        for plan in plans
    )
    units = {n: e.of for plan in plans for n, e in plan.groups.items()}
    found = compare_plans(*plans)
    assert {row.group: row.units for row in found.groups} == units
    for row in found.groups:
        one, other = ({unit for name, unit in side if name == row.group} for side in (a, b))
        assert row.both == tuple(sorted(one & other))
        assert row.a_alone == tuple(sorted(one - other))
        assert row.b_alone == tuple(sorted(other - one))
        assert row.kept == len(set(range(row.units)) - one - other)
        assert row.differing == len(one ^ other)
        assert (row.group in found.only_a) == (bool(one) and not other)
        assert (row.group in found.only_b) == (bool(other) and not one)
    assert found.removed == (len(a), len(b))
    assert found.jaccard == (len(a & b) / len(a | b) if a | b else 1.0)
    assert found.same == (a == b)
    differing = [row.differing for row in found.groups]
    assert differing == sorted(differing, reverse=True)


@given(two_plans())
def test_the_order_of_the_plans_changes_the_names_alone(plans: tuple[Plan, Plan]) -> None:
    there, back = compare_plans(*plans), compare_plans(*reversed(plans))
    assert [(r.group, r.units, r.kept, r.both, r.a_alone, r.b_alone) for r in there.groups] == [
        (r.group, r.units, r.kept, r.both, r.b_alone, r.a_alone) for r in back.groups
    ]
    assert (there.only_a, there.only_b, there.removed) == (
        back.only_b,
        back.only_a,
        back.removed[::-1],
    )
    assert there.jaccard == back.jaccard
    assert there.expected == pytest.approx(back.expected, rel=1e-9, abs=1e-12)
    assert 0 <= there.expected <= 1 + 1e-12


@pytest.mark.parametrize(
    "counts",
    [
        [(5, 2, 3)],
        [(4, 4, 4)],
        [(4, 3, 3)],
        [(5, 2, 0)],
        [(4, 1, 2), (3, 2, 1)],
        [(4, 2, 2), (3, 0, 1), (2, 1, 1)],
    ],
)
def test_chance_is_the_mean_over_all_choices(counts: list[tuple[int, int, int]]) -> None:
    def choices(which: int) -> list[set[tuple[int, int]]]:
        each = [combinations([(g, u) for u in range(n[0])], n[which]) for g, n in enumerate(counts)]
        return [{unit for part in parts for unit in part} for parts in product(*each)]

    tried = [Fraction(len(a & b), len(a | b)) for a, b in product(choices(1), choices(2))]
    assert chance_agreement(counts) == pytest.approx(float(sum(tried) / len(tried)), rel=1e-12)


def test_chance_in_a_wide_network() -> None:
    # Half of very many: a quarter goes twice, three quarters at least once.
    assert chance_agreement([(4096, 2048, 2048)] * 4) == pytest.approx(1 / 3, rel=1e-3)
    assert chance_agreement([]) == 1.0
    assert chance_agreement([(4096, 0, 0)]) == 1.0


def test_the_same_plans() -> None:
    found = compare_plans(A, A)
    assert found.same
    assert found.jaccard == 1.0
    assert found.only_a == found.only_b == found.modules == ()
    nothing = compare_plans(Plan(), Plan({"x": Edit(6, ())}))
    assert nothing.same
    assert (nothing.jaccard, nothing.expected) == (1.0, 1.0)


def test_modules_that_differ_are_named() -> None:
    a = Plan(A.groups, {"conv": {"out": Edit(6, (0, 1, 2))}, "fc": {"in": Edit(6, (0,))}})
    b = Plan(A.groups, {"conv": {"out": Edit(6, (0, 1, 2))}, "fc": {"select": Edit(6, (0,))}})
    found = compare_plans(a, b)
    assert found.modules == ("fc",)
    assert not found.same
    assert found.jaccard == 1.0


def test_one_step_or_two_are_the_same_plan() -> None:
    groups = find_groups(build("flatten"), images(1))
    first = {"fc1.features": [0, 1, 40]}
    early = plan_units(groups, first)
    left = find_groups(replay_(build("flatten"), early), images(1))
    two_steps = early.then(plan_units(left, {"conv1": [0]}))
    one_step = plan_units(groups, {**first, "conv1": [0]})
    assert two_steps != one_step  # they say in two ways which features are left out
    assert compare_plans(two_steps, one_step).same


def test_different_networks() -> None:
    with pytest.raises(PlanError, match="x has 6 units in A and 7 in B; give two runs"):
        compare_plans(A, Plan({"x": Edit(7, (1,))}))
    wide = Plan(modules={"fc": {"in": Edit(8, (1,))}})
    narrow = Plan(modules={"fc": {"in": Edit(9, (1,))}})
    with pytest.raises(PlanError, match=r"fc \(in\) has 8 channels in A and 9 in B"):
        compare_plans(wide, narrow)


@pytest.mark.parametrize("unit", [-1, 6])
def test_a_unit_that_is_not_there(unit: int) -> None:
    with pytest.raises(PlanError, match=f"plan B removes {unit} of the 6 units of x"):
        compare_plans(A, Plan({"x": Edit(6, (unit,))}))


def test_to_dict_is_plain() -> None:
    content = compare_plans(A, B).to_dict()
    assert json.loads(json.dumps(content)) == content
    assert content["removed"] == {"a": 6, "b": 4}
    assert content["groups"][0] == {
        "group": "x",
        "units": 6,
        "both": [2],
        "a_alone": [0, 1],
        "b_alone": [5],
        "kept": 2,
    }
