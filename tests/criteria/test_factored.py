"""The dual form of few samples: the same scores as from the whole matrix, at F·r² instead of F³."""

import numpy as np
import pytest
import torch
from torch import nn

import prunus
from prunus.criteria.discriminant.elimination import discriminant_inverse, factored_inverse
from prunus.criteria.discriminant.factored import FactoredInverse, FactoredPivots
from prunus.criteria.discriminant.pivots import Pivots, run_greedily
from prunus.criteria.roots import root_of
from prunus.statistics import Scatter
from prunus.statistics import scatter as room
from prunus.statistics.factor import pivoted_cholesky


def few(samples: int, features: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, features, generator=generator, dtype=torch.float64)


def test_a_scatter_of_few_samples_is_a_product_of_as_many_rows() -> None:
    x = few(9, 40)
    x[:, 7] = 0
    S = (x - x.mean(0)).T @ (x - x.mean(0))
    factor = pivoted_cholesky(S, 20)
    assert factor is not None
    assert len(factor.rows) == 8  # the mean is taken off
    torch.testing.assert_close(factor @ torch.eye(40, dtype=torch.float64), S)
    assert float(factor.rest.max()) < 1e-12
    assert pivoted_cholesky(S, 7) is None


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("q", [5, 80])
def test_pivots_cost_what_they_cost_with_the_whole_matrix(q: int, width: int) -> None:
    F = 60
    Z = few(6, F)
    e = 0.1 + torch.rand(F, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    M = Z.T @ Z + torch.diag(e) + 0.5 * torch.eye(F, dtype=torch.float64)
    B = few(F, q, seed=2)
    blocks = np.arange(F).reshape(-1, width)
    blocks = np.where(np.random.default_rng(0).random(blocks.shape) < 0.1, -1, blocks)
    factored = FactoredInverse.of(room.Factor(Z, e), 0.5)
    torch.testing.assert_close(factored @ torch.eye(F, dtype=torch.float64), torch.linalg.inv(M))
    units = len(blocks)
    for rounds in (units, 7):
        whole, costs_order = Pivots(torch.linalg.inv(M), B, blocks), []
        for state in (whole, FactoredPivots(factored, B, blocks)):
            costs_order.append(run_greedily([state], units, rounds, largest=False))
        (costs, order), (again, same) = costs_order
        assert order == same
        np.testing.assert_allclose(again, costs, rtol=1e-9)
    order = np.random.default_rng(1).permutation(units)
    expected = Pivots(torch.linalg.inv(M), B, blocks).along(order)
    state = FactoredPivots(factored, B, blocks)
    np.testing.assert_allclose(state.along(order), expected, rtol=1e-9)
    np.testing.assert_allclose(state.along(order), expected, rtol=1e-9)  # it changes nothing


def test_a_wide_layer_of_few_images_scores_as_from_its_whole_matrix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 48), nn.ReLU(), nn.Linear(48, 50), nn.ReLU(), nn.Linear(50, 3))
    loader = [(torch.randn(8, 6), torch.arange(8) % 3), (torch.randn(8, 6), torch.arange(8) % 3)]
    groups = prunus.find_groups(net, torch.zeros(1, 6))
    statistics = prunus.collect(net, loader, groups, blocks=4)
    found = {}
    for name in ("stacked", "di"):
        found[name] = prunus.score(groups, statistics, name)
    monkeypatch.setattr(room, "WIDE", 16)
    monkeypatch.setattr(room, "FEW", 2)
    statistics = prunus.collect(net, loader, groups, blocks=4)
    assert statistics["2"].factor is not None
    scatter: Scatter = statistics["2"]
    A, G = discriminant_inverse(scatter, 1e-3)
    factored, same = factored_inverse(scatter, 1e-3)
    torch.testing.assert_close(same, G)
    torch.testing.assert_close(factored @ torch.eye(len(A), dtype=torch.float64), A)
    for name, before in found.items():
        after = prunus.score(groups, statistics, name)
        for group in ("0", "2"):
            assert torch.equal(after[group].order, before[group].order)
            torch.testing.assert_close(after[group].costs, before[group].costs)
            torch.testing.assert_close(after[group].replicates, before[group].replicates)


def test_the_weights_of_all_positions_have_one_root() -> None:
    W = few(5, 7 * 4).view(5, 7, 4)
    root = root_of("any", (W[:, j] for j in range(7)))
    torch.testing.assert_close(root @ root.T, W.flatten(1) @ W.flatten(1).T)
