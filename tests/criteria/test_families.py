"""Groups that one consumer concatenates are eliminated together: from the definition of DI."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.criteria import score, subspace_information
from prunus.criteria.families import find_families, joint_order
from prunus.criteria.score import make_criterion
from prunus.graph import find_groups
from prunus.models import build_model
from prunus.statistics import Statistics, collect
from tests.graph.nets import CLASSES, batches, build, images

RIDGE = 1e-3
JOINT = ["di", "ridge_lse", "stacked", "cherry", "dcp", "bootstrap", "structural"]


def statistics_of(model: nn.Module, **options: object) -> Statistics:
    groups = find_groups(model, images(1))
    return collect(model, batches(6, 32), groups, **options)  # type: ignore[arg-type]


def test_families_are_what_common_consumers_connect() -> None:
    statistics = statistics_of(build("concat"))
    found = [
        [g.name for g in family] for family in find_families(statistics.groups.values(), statistics)
    ]
    assert sorted(found) == [["a", "b", "mix"], ["last"]]
    statistics = statistics_of(build("residual"))
    assert all(len(family) == 1 for family in find_families(statistics.groups.values(), statistics))


def test_an_inception_stage_is_a_family() -> None:
    model = build_model("inception_v1_small", num_classes=4, input_shape=(1, 14, 14)).eval()
    groups = find_groups(model, torch.zeros(1, 1, 14, 14))
    loader = [(torch.randn(16, 1, 14, 14), torch.arange(16) % 4)]
    statistics = collect(model, loader, groups, blocks=1)
    sizes = sorted(len(family) for family in find_families(groups.values(), statistics))
    assert sizes[-9:] == [4] * 9
    assert set(sizes[:-9]) == {1}


def test_costs_along_the_joint_order_are_what_the_consumers_lose() -> None:
    statistics = statistics_of(build("concat"))
    groups = statistics.groups
    scores = score(groups, statistics, "di", ridge=RIDGE)
    family = [groups[name] for name in ("a", "b", "mix")]
    costs = torch.cat([scores[group.name].costs for group in family])
    order = joint_order([scores[group.name] for group in family])
    assert sorted(order.tolist()) == list(range(15))
    owned = {  # features by unit of the family: what each consumer has of it
        "mix": [statistics.features("mix", m.index) for g in family for m in g.consumers
                if m.module == "mix"],
        "last": [statistics.features("last", m.index) for g in family for m in g.consumers
                 if m.module == "last"],
    }  # fmt: skip
    assert [len(blocks) for blocks in owned["mix"]] == [6, 4]
    assert [len(blocks) for blocks in owned["last"]] == [6, 4, 5]

    def lost(units: list[int]) -> float:
        """Return the shares of DI that both consumers lose, refitted on what is left."""
        total = 0.0
        for module, blocks in owned.items():
            features = [row for part in blocks for row in part.tolist()]
            gone = {f for u in units if u < len(features) for f in features[u] if f >= 0}
            kept = [f for f in range(statistics[module].features) if f not in gone]
            information = subspace_information(statistics[module], RIDGE, kept)
            total += 1 - information.keep / information.total
        return total

    for count in range(1, 16):
        assert float(costs[order[:count]].sum()) == pytest.approx(
            lost(order[:count].tolist()), rel=1e-6, abs=1e-9
        )
    first = min(range(15), key=lambda unit: lost([unit]))
    assert int(order[0]) == first
    after = [lost([first, unit]) for unit in range(15)]
    after[first] = float("inf")
    assert int(order[1]) == min(range(15), key=after.__getitem__)


class Twins(nn.Module):
    """Two branches with the same content."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.right.load_state_dict(self.left.state_dict())
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([F.relu(self.left(x)), F.relu(self.right(x))], 1)
        return self.head(x.mean((2, 3)))


def test_of_two_branches_that_say_the_same_one_is_worth_everything() -> None:
    torch.manual_seed(0)
    statistics = statistics_of(Twins().eval())
    groups = statistics.groups
    rule = make_criterion("di", ridge=RIDGE)
    alone = [
        float(rule(groups, groups[name], statistics).costs.sum()) for name in ("left", "right")
    ]
    scores = score(groups, statistics, rule)
    together = float(scores["left"].costs.sum() + scores["right"].costs.sum())
    assert max(alone) < 0.02  # each is free while the other stays
    assert together == pytest.approx(1, rel=1e-3)  # both cannot go


@pytest.mark.parametrize("name", JOINT)
def test_every_group_keeps_an_order_of_its_own(name: str) -> None:
    statistics = statistics_of(build("concat"), blocks=3)
    groups = statistics.groups
    scores = score(groups, statistics, name, intervals=True)
    family = [groups[each] for each in ("a", "b", "mix")]
    ranked = joint_order([scores[group.name] for group in family])
    values, costs = (
        torch.cat([getattr(scores[group.name], what) for group in family])[ranked]
        for what in ("values", "costs")
    )
    assert torch.equal(values, costs.cummax(0).values) or name == "structural"
    order = ranked.tolist()
    assert sorted(order) == list(range(15))
    start = 0
    for group in family:
        mine = [unit - start for unit in order if start <= unit < start + group.units]
        found = scores[group.name]
        assert found.order.tolist() == mine
        assert (found.values[found.order].diff() >= 0).all()
        assert found.replicates is not None
        assert found.replicates.shape == (3, group.units)
        start += group.units


@pytest.mark.parametrize("name", ["di", "stacked", "cherry"])
def test_a_replicate_follows_the_joint_order(name: str) -> None:
    model, loader = build("concat"), batches(4, 16)
    groups = find_groups(model, images(1))
    statistics = collect(model, loader, groups, blocks=4)
    scores = score(groups, statistics, name, intervals=True)
    family = [groups[each] for each in ("a", "b", "mix")]
    order = joint_order([scores[group.name] for group in family])
    others = [batch for i, batch in enumerate(loader) if i != 2]
    left = collect(model, others, groups, blocks=1)
    expected = make_criterion(name).jointly(groups, family, left, order)  # type: ignore[attr-defined]
    for group in family:
        replicates = scores[group.name].replicates
        assert replicates is not None
        torch.testing.assert_close(replicates[2], expected[group.name].costs, rtol=1e-4, atol=1e-7)
