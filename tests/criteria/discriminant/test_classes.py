"""What units contribute to single classes."""

import pytest
import torch

from prunus.core.errors import ConfigError
from prunus.criteria import best_units, class_scores
from prunus.criteria.discriminant.classes import class_ratio
from prunus.graph import find_groups
from prunus.statistics import collect
from tests.criteria.oracles import CASES, case, matrices
from tests.graph.nets import CLASSES, batches, build, images
from tests.statistics.oracles import regression_scatter


@pytest.mark.parametrize("name", CASES)
def test_one_against_the_rest_is_a_two_class_fdr(name: str) -> None:
    x, labels, classes = case(name)
    scatter = matrices(name)[0]
    for label in range(classes):
        own, rest, mean = x[labels == label], x[labels != label], x.mean(0)
        between = len(own) * (own.mean(0) - mean).square()
        shortcut = between * len(x) / len(rest)
        between = between + len(rest) * (rest.mean(0) - mean).square()
        torch.testing.assert_close(between, shortcut)
        spread = (x - mean).square().sum(0)
        expected = torch.where(spread > 1e-9, between / spread.clamp(min=1e-300), 0.0)
        torch.testing.assert_close(class_ratio(scatter, label), expected, rtol=1e-9, atol=1e-12)
        assert expected.max() <= 1 + 1e-12


@pytest.mark.parametrize("sampling", ["pixel", "patch"])
def test_a_unit_is_as_good_as_its_best_feature_in_any_consumer(sampling: str) -> None:
    model = build("residual")
    groups = find_groups(model, images(1))
    statistics = collect(model, batches(6, 16), groups, sampling=sampling)
    scores = class_scores(groups, statistics, 2)
    assert set(scores) == {g.name for g in groups.values()}
    conv1, head = (class_ratio(statistics[name], 2) for name in ("conv1", "head"))
    expected = torch.maximum(conv1.view(8, -1).amax(1), head)
    torch.testing.assert_close(scores["stem"], expected)


def test_the_best_units_of_protected_classes() -> None:
    model = build("mlp")
    groups = find_groups(model, images(1))
    statistics = collect(model, batches(6, 16), groups)
    best = best_units(groups, statistics, [0, 3], share=0.25)
    for name, units in best.items():
        expected = set()
        for label in (0, 3):
            values = class_scores(groups, statistics, label)[name]
            expected |= set(values.topk(-(-len(values) // 4)).indices.tolist())
        assert units.dtype == torch.int64
        assert set(units.tolist()) == expected
        assert units.tolist() == sorted(expected)
    assert all(len(units) == 1 for units in best_units(groups, statistics, [1], 1e-9).values())
    assert best_units(groups, statistics, []) == {}


def test_bad_requests_are_errors() -> None:
    model = build("mlp")
    groups = find_groups(model, images(1))
    statistics = collect(model, batches(2, 8), groups)
    with pytest.raises(ConfigError, match=r"class 4 .* classes 0 … 3"):
        class_scores(groups, statistics, CLASSES)
    with pytest.raises(ConfigError, match=r"share is 0, expected"):
        best_units(groups, statistics, [0], share=0)
    x = torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ConfigError, match="continuous"):
        class_ratio(regression_scatter(x, x), 0)
