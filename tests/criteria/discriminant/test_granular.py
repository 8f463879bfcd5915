"""Teachers from coarse to fine with depth."""

import pytest
import torch

from prunus.core.errors import ConfigError
from prunus.criteria import score
from prunus.criteria.discriminant.granular import depth_weights, granular_D
from prunus.graph import find_groups
from prunus.statistics import collect
from tests.criteria.oracles import RIDGE, discriminant_information, standardised, without
from tests.graph.nets import batches, build, images
from tests.statistics.oracles import drawn, scatter_of, teacher

PARENTS = [[0, 1, 1, 0]]


def test_weights_rise_from_the_first_layer_to_the_last() -> None:
    model = build("plain")
    groups = find_groups(model, images(1))
    weights = depth_weights(collect(model, batches(2, 8), groups))
    assert list(weights) == ["conv1", "conv2", "head"]
    assert list(weights.values()) == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_costs_are_losses_of_the_mixed_information(weight: float) -> None:
    model, loader = build("plain").double(), [(x.double(), y) for x, y in batches(6, 16)]
    groups = find_groups(model, images(1).double())
    statistics = collect(model, loader, groups, sampling="patch", parents=PARENTS)
    weights = {"conv1": 0.0, "conv2": weight, "head": 1.0}
    found = score(groups, statistics, "granular", weights=weights, ridge=RIDGE)["conv1"]
    x, labels = drawn(model, loader, "conv2", "patch")
    X, rho = standardised(x), RIDGE * len(x)
    coarse_labels = torch.tensor(PARENTS[0])[labels]

    def mixed(X: torch.Tensor) -> float:
        coarse = discriminant_information(X, teacher(coarse_labels, 2), rho)
        fine = discriminant_information(X, teacher(labels, 4), rho)
        return coarse + weight * (fine - coarse)

    gone: list[int] = []
    for unit in found.order.tolist():
        block = statistics.features("conv2", groups["conv1"].consumers[0].index)[unit].tolist()
        lost = mixed(without(X, gone)) - mixed(without(X, gone + block))
        assert float(found.costs[unit]) == pytest.approx(lost / mixed(X), rel=1e-6, abs=1e-9)
        gone += block


def test_three_granularities_are_run_through_with_depth() -> None:
    labels = torch.arange(120) % 6
    x = torch.randn(120, 4, generator=torch.Generator().manual_seed(0)).double() + labels[:, None]
    scatter = scatter_of(x, labels, 6)
    middle, coarse = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 0, 0, 0, 1, 1])
    levels = {0.0: coarse, 0.5: middle, 1.0: torch.arange(6)}
    between = {w: scatter.coarsen(p).S_B for w, p in levels.items()}
    for weight, low, high, share in (
        (0, 0.0, 0.5, 0),
        (0.125, 0.0, 0.5, 0.25),
        (0.5, 0.5, 1.0, 0),
        (0.75, 0.5, 1.0, 0.5),
        (1, 0.5, 1.0, 1),
    ):
        D = granular_D(scatter, (middle, coarse), weight) * scatter.scale[:, None]
        expected = (1 - share) * between[low] + share * between[high]
        torch.testing.assert_close(D @ D.T, expected, rtol=1e-9, atol=1e-9)


def test_without_coarser_classes_or_a_weight_it_says_so() -> None:
    model = build("mlp")
    groups = find_groups(model, images(1))
    plain = collect(model, batches(2, 8), groups)
    with pytest.raises(ConfigError, match=r"coarser classes: collect with parents="):
        score(groups, plain, "granular")
    taught = collect(model, batches(2, 8), groups, parents=PARENTS)
    with pytest.raises(ConfigError, match=r"no weight for module 'fc2'"):
        score(groups, taught, "granular", weights={"fc1": 1.0})
    with pytest.raises(ConfigError, match=r"'fc2' is 1.5, expected 0 to 1"):
        score(groups, taught, "granular", weights={"fc2": 1.5})
