"""Fisher's ratio from class means; DiLOSS as a derivative."""

import pytest
import torch
from torch import Tensor, nn

from prunus.criteria import score
from prunus.graph import Groups, find_groups
from prunus.statistics import Scatter, Statistics, collect
from tests.criteria.oracles import discriminant_information, standardised
from tests.graph.nets import CLASSES, batches, build, images
from tests.statistics.oracles import gathered, teacher

RIDGE = 1e-2


def setup(net: str) -> tuple[nn.Module, Groups, Statistics]:
    model = build(net)
    groups = find_groups(model, images(1))
    return model, groups, collect(model, batches(6, 16), groups, sampling="pixel")


def test_fdr_from_class_means() -> None:
    model, groups, statistics = setup("mlp")
    x, y = gathered(model, batches(6, 16), "fc2")
    x = x.double()
    alive = x.std(0) > 0
    between = sum(
        (y == label).sum() * (x[y == label].mean(0) - x.mean(0)).square()
        for label in range(CLASSES)
    )
    within = (x - x.mean(0)).square().sum(0) * (1 + RIDGE)
    values = score(groups, statistics, "fdr", ridge=RIDGE)["fc1"].values
    torch.testing.assert_close(values[alive], (between / within)[alive], rtol=1e-5, atol=1e-12)


def test_diloss_is_the_derivative_of_di_in_a_feature_s_scale() -> None:
    model, groups, statistics = setup("mlp")
    x, y = gathered(model, batches(6, 16), "fc3")
    x = x.double()
    x = x[:, x.std(0) > 0]
    X, Y, rho = standardised(x), teacher(y, CLASSES), RIDGE * len(x)
    values = score(groups, statistics, "diloss", ridge=RIDGE)["fc2"].values
    alive = [i for i in range(8) if not statistics["fc3"].constant[i]]
    assert len(alive) == len(X)
    for i, unit in enumerate(alive):

        def di(scale: float, i: int = i) -> float:
            scaled: Tensor = X.clone()
            scaled[i] *= scale
            return discriminant_information(scaled, Y, rho)

        slope = (di(1 + 1e-5) - di(1 - 1e-5)) / 2e-5
        assert float(values[unit]) == pytest.approx(slope, rel=1e-4)


def test_a_unit_of_several_features_gets_their_sum() -> None:
    _, groups, statistics = setup("flatten")
    for name in ("fdr", "diloss"):
        scores = score(groups, statistics, name, ridge=RIDGE)
        positions, channels = scores["fc1.features"].values, scores["conv1"].values
        torch.testing.assert_close(channels, positions.view(5, 16).sum(1))


def test_two_consumers_add_up() -> None:
    _, groups, statistics = setup("residual")
    stem = score(groups, statistics, "fdr")["stem"].values
    one = {}
    for consumer, other in (("conv1", "head"), ("head", "conv1")):
        kept = dict(statistics)
        kept[other] = Scatter.zeros(8, CLASSES)
        one[consumer] = score(groups, Statistics([kept], groups, 96), "fdr")["stem"].values
    torch.testing.assert_close(one["conv1"] + one["head"], stem)
