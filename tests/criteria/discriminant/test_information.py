"""The information of layers, in execution order."""

import math

import pytest
import torch
from torch import Tensor, nn

from prunus.core.errors import ConfigError
from prunus.criteria import discriminant_matrix, rank_layers, sort_layers
from prunus.criteria.scores import jackknife_half_width
from prunus.graph import find_groups
from prunus.statistics import collect
from tests.criteria.oracles import RIDGE, discriminant_information, standardised
from tests.graph.nets import CLASSES, batches, build, images
from tests.statistics.oracles import drawn, regression_scatter, teacher


class Backwards(nn.Module):
    """Layers are registered in a different order than they run."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, CLASSES)
        self.second = nn.Linear(8, 6)
        self.first = nn.Linear(300, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x.flatten(1)).relu()).relu())


def share(x: Tensor, labels: Tensor) -> float:
    X, Y = standardised(x), teacher(labels, CLASSES)
    return discriminant_information(X, Y, RIDGE * len(x)) / (CLASSES - 1)


def test_layers_come_as_they_run_with_share_gain_and_interval() -> None:
    torch.manual_seed(0)
    model, loader = Backwards().eval().double(), [(x.double(), y) for x, y in batches(8, 40)]
    groups = find_groups(model, images(1).double(), inputs=False)
    statistics = collect(model, loader, groups, blocks=8)
    layers = rank_layers(groups, statistics, ridge=RIDGE)
    assert [layer.module for layer in layers] == ["first", "second", "head"]
    assert [layer.features for layer in layers] == [300, 8, 6]
    before = 0.0
    for layer in layers:
        whole = share(*drawn(model, loader, layer.module, "pixel"))
        assert layer.share == pytest.approx(whole, rel=1e-7)
        assert layer.information == pytest.approx(whole * (CLASSES - 1), rel=1e-7)
        assert layer.gain == pytest.approx(whole - before, rel=1e-6, abs=1e-9)
        before = whole
        parts = [
            share(*drawn(model, loader[:k] + loader[k + 1 :], layer.module, "pixel"))
            for k in range(8)
        ]
        half = float(jackknife_half_width(torch.tensor(parts).double()[:, None]))
        assert layer.low == pytest.approx(max(whole - half, 0), abs=1e-7)
        assert layer.high == pytest.approx(min(whole + half, 1), abs=1e-7)


def test_one_block_has_no_interval_and_layers_can_be_sorted() -> None:
    model = build("plain")
    groups = find_groups(model, images(1))
    layers = rank_layers(groups, collect(model, batches(4, 16), groups, blocks=1))
    assert all(math.isnan(layer.low) and math.isnan(layer.high) for layer in layers)
    for key in ("share", "gain", "information"):
        values = [getattr(layer, key) for layer in sort_layers(layers, key)]
        assert values == sorted(values, reverse=True)
    with pytest.raises(ConfigError, match="share, gain or information"):
        sort_layers(layers, "module")


def test_kernel_statistics_rank_layers_too() -> None:
    model = build("plain")
    groups = find_groups(model, images(1))
    statistics = collect(model, batches(4, 16), groups, sampling="dual", blocks=2)
    layers = rank_layers(groups, statistics)
    assert [layer.module for layer in layers] == ["conv1", "conv2", "head"]
    for layer in layers:
        dual = statistics.duals[layer.module]
        assert layer.information == pytest.approx(dual.information / 4)
        assert 0 < layer.share < 1
        assert layer.low <= layer.share <= layer.high
        assert layer.features == len(dual.removal)


def test_the_discriminant_matrix_needs_classes() -> None:
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ConfigError, match="regression_matrix"):
        discriminant_matrix(regression_scatter(x, x[:, :2]))
