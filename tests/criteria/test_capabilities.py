"""What a criterion can do besides scoring is recognised by its methods; none of them is needed."""

from typing import Any

import pytest
from torch import Tensor

from prunus.core.errors import ConfigError
from prunus.criteria import L1, CostsOrder, ExactDI, GroupScore, ScoresJointly, has_intervals, score
from prunus.graph import Group, Groups, find_groups
from prunus.statistics import Statistics, collect
from tests.graph.nets import batches, build, images


class ByMean:
    """A criterion of a user's own, with no more than it must have."""

    unit = "mean"
    comparable = True
    needs_statistics = True

    def __call__(self, groups: Groups, group: Group, statistics: Statistics) -> GroupScore:
        member = next(m for m in group.consumers if m.module in statistics)
        features = statistics.features(member.module, member.index)
        return GroupScore.of(statistics[member.module].mean[features[:, 0]].abs())


class AlongOrder(ByMean):
    def along(self, groups: Groups, group: Group, statistics: Statistics, order: Tensor) -> Tensor:
        return self(groups, group, statistics).costs


@pytest.fixture(scope="module")
def ready() -> tuple[Groups, Statistics]:
    model = build("plain")
    groups = find_groups(model, images(1))
    return groups, collect(model, batches(4, 16), groups, 4, blocks=4)


def test_they_are_recognised() -> None:
    assert isinstance(ExactDI(), CostsOrder)
    assert isinstance(ExactDI(), ScoresJointly)
    assert isinstance(AlongOrder(), CostsOrder)
    for rule in (ByMean(), L1()):
        assert not isinstance(rule, CostsOrder | ScoresJointly)


@pytest.mark.parametrize("kind", [ByMean, AlongOrder])
def test_a_criterion_of_ones_own(kind: Any, ready: tuple[Groups, Statistics]) -> None:
    groups, statistics = ready
    found = score(groups, statistics, kind(), intervals=True)
    assert set(found.groups) == set(groups)
    for one in found.groups.values():
        assert one.replicates is not None
        assert len(one.replicates) == statistics.blocks


def test_intervals_of_gradients_need_a_given_order(ready: tuple[Groups, Statistics]) -> None:
    class Reads(ByMean):
        needs = frozenset({"gradients"})

    class ReadsAlong(AlongOrder):
        needs = frozenset({"gradients"})

    assert not has_intervals(Reads())
    assert has_intervals(ReadsAlong())
    with pytest.raises(ConfigError, match="has no intervals"):
        score(*ready, Reads(), intervals=True)
