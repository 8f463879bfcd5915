"""Which branches may be removed as a whole, what is removed with them, and what is left."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunus.graph import Groups, collapsed_modules, find_groups, let_branches_go
from prunus.graph.branches import Branches
from prunus.plan import plan_units
from prunus.surgery import replay_
from tests.graph.branching import build
from tests.graph.nets import build as build_plain
from tests.graph.nets import images

FREE = {
    "reduction": {"one.0", "three.1.0", "wide.2.0", "loose", "tight"},
    "dense": {"grow.0", "grow.1", "grow.2"},
    "thin": {"a", "b.0", "c.1.0", "d", "last", "side"},
    "coupled": {"pooled", "plain"},
}
INCEPTION = find_groups(build("inception"), images(1), drop_branches=True)


def free(groups: Groups) -> set[str]:
    return {group.name for group in groups.values() if group.least == 0}


@pytest.mark.parametrize("net", FREE)
def test_what_is_read_beside_others_may_go(net: str) -> None:
    groups = find_groups(build(net), images(1))
    assert free(groups) == set()
    assert not any(group.falls for group in groups.values())
    if net != "thin":  # whose channels alone are followed where they are asked for
        assert free(let_branches_go(groups)) == FREE[net]
    assert free(find_groups(build(net), images(1), drop_branches=True)) == FREE[net]


def test_every_branch_of_an_inception_module_may_go_and_nothing_before_it() -> None:
    ends = ("one.conv", "three.1.conv", "five.2.conv", "pool.1.conv")
    modules = [f"stage{s}.{i}" for s, n in ((3, 2), (4, 5), (5, 2)) for i in range(n)]
    assert free(INCEPTION) == {f"{module}.{end}" for module in modules for end in ends}
    assert all(group.falls for group in INCEPTION.values())


@pytest.mark.parametrize(
    ("net", "expected"),
    [("residual", set()), ("grouped", set()), ("flatten", set()), ("concat", {"a", "b", "mix"})],
)
def test_other_networks(net: str, expected: set[str]) -> None:
    assert free(find_groups(build_plain(net), images(1), drop_branches=True)) == expected


def test_a_channel_alone_is_followed_to_what_reads_it() -> None:
    groups = find_groups(build("thin"), images(1), drop_branches=True)
    found = {
        g.name: {(m.module, m.axis, tuple(m.index.ravel())) for m in g.members}
        for g in groups.values()
    }
    assert found["b.0"] == {
        ("b.0", "out", (0,)), ("b.1", "out", (0,)), ("last", "in", (1,)), ("side", "in", (1,)),
    }  # fmt: skip
    assert found["c.0.0"] == {("c.0.0", "out", (0,)), ("c.0.1", "out", (0,)), ("c.1.0", "in", (0,))}
    assert found["side"] == {("side", "out", (0,)), ("head", "in", (1,))}
    assert Branches(groups).fallen(["c.1.0"]) == {"c.0.0", "c.1.0"}
    assert {"e", "f"} & {u.module for u in groups.unprunable}


def fallen_slowly(groups: Groups, first: set[str]) -> set[str]:
    """Sweep over all groups until nothing changes: what only dead modules read is dead."""
    found = set(first)
    while True:
        dead = {m.module for g in groups.values() if g.name in found for m in g.producers}
        more = {g.name for g in groups.values() if {m.module for m in g.consumers} <= dead} - found
        if not more:
            return found
        found |= more


@given(st.sets(st.sampled_from(sorted(free(INCEPTION)))))
def test_what_falls_is_what_dead_modules_alone_read(first: set[str]) -> None:
    expected = fallen_slowly(INCEPTION, first)
    branches = Branches(INCEPTION)
    assert branches.fallen(first) == expected
    gone: set[str] = set()
    for name in sorted(first - gone):  # one after the other comes to the same
        gone |= branches.fallen([name], gone) if name not in gone else set()
    assert gone == expected


def test_a_cascade_runs_down_a_branch_and_not_into_another() -> None:
    branches = Branches(INCEPTION)
    assert branches.fallen(["stage4.2.five.2.conv"]) == {
        f"stage4.2.five.{i}.conv" for i in range(3)
    }
    assert branches.fallen(["stage4.2.one.conv"]) == {"stage4.2.one.conv"}


def test_modules_left_with_1x1_filters_are_collapsed() -> None:
    model = build("inception")
    assert collapsed_modules(model) == []
    groups = find_groups(model, images(1), drop_branches=True)
    gone = [
        "stage4.2.three.1.conv", "stage4.2.five.2.conv",  # 1×1 and pooled 1×1 are left
        "stage4.3.three.1.conv",  # two 3×3 are left in five
        "stage5.0.pool.1.conv",  # only a 1×1 went
        "stage5.1.three.1.conv", "stage5.1.five.2.conv", "stage5.1.pool.1.conv",
    ]  # fmt: skip
    replay_(model, plan_units(groups, {name: range(groups[name].units) for name in gone}))
    assert collapsed_modules(model) == ["stage4.2", "stage5.1"]
