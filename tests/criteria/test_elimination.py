"""Exact elimination against matrices inverted anew after every removal."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prunus.criteria.elimination import Reader, discriminant_inverse, eliminate
from prunus.statistics import Scatter
from tests.statistics.test_scatter import scatter_of, teacher

F, L, RIDGE = 9, 4, 1e-2


def correlated(seed: int, samples: int = 80, features: int = F) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % L
    mix = torch.randn(features, features, generator=generator)
    means = torch.randn(L, features, generator=generator)
    x = torch.randn(samples, features, generator=generator) @ mix + means[labels]
    return (x * torch.rand(features, generator=generator) * 5).double(), labels


def standardised(x: Tensor) -> Tensor:
    return ((x - x.mean(0)) / x.std(0, correction=0)).T  # (F, N)


def discriminant_information(X: Tensor, Y: Tensor, rho: float) -> float:
    """DI = tr(M⁻¹ S_B), from the definition."""
    M = X @ X.T + rho * torch.eye(len(X), dtype=torch.float64)
    D = X @ Y.T
    return float(torch.trace(torch.linalg.inv(M) @ D @ D.T))


def without(X: Tensor, gone: list[int]) -> Tensor:
    return X[[i for i in range(len(X)) if i not in gone]]


@pytest.mark.parametrize("seed", range(3))
def test_di_and_its_dual(seed: int) -> None:
    x, labels = correlated(seed)
    scatter = scatter_of(x, labels, L)
    X, Y, rho = standardised(x), teacher(labels, L), RIDGE * len(x)
    inverse, G = discriminant_inverse(scatter, RIDGE)
    D = scatter.D / scatter.scale[:, None]
    di = discriminant_information(X, Y, rho)
    assert float((D * G).sum()) == pytest.approx(di, rel=1e-10)
    S_B = scatter.S_B / torch.outer(scatter.scale, scatter.scale)
    assert float(torch.trace(inverse @ S_B)) == pytest.approx(di, rel=1e-10)
    # Ridge regression of the teacher: loss = tr(YYᵀ) − DI.
    loss = float((Y - G.T @ X).square().sum() + rho * G.square().sum())
    assert loss == pytest.approx(float((Y * Y).sum()) - di, rel=1e-10)
    assert di < L - 1


@pytest.mark.parametrize("block", [[0], [4], [1, 5], [0, 3, 7]])
def test_exact_removal(block: list[int]) -> None:
    x, labels = correlated(3)
    X, Y, rho = standardised(x), teacher(labels, L), RIDGE * len(x)
    inverse, G = discriminant_inverse(scatter_of(x, labels, L), RIDGE)
    reader = Reader(inverse, G @ G.T, np.array([block]))
    lost = discriminant_information(X, Y, rho) - discriminant_information(without(X, block), Y, rho)
    assert reader.costs(np.array([0]))[0] == pytest.approx(lost, rel=1e-9)
    if len(block) == 1:
        i = block[0]
        assert float(G[i].square().sum() / inverse[i, i]) == pytest.approx(lost, rel=1e-9)


def test_padding_of_unequal_blocks_costs_nothing() -> None:
    x, labels = correlated(3)
    inverse, G = discriminant_inverse(scatter_of(x, labels, L), RIDGE)
    one = Reader(inverse, G @ G.T, np.array([[0], [1]])).costs(np.arange(2))
    padded = Reader(inverse, G @ G.T, np.array([[0, -1], [1, -1]])).costs(np.arange(2))
    np.testing.assert_allclose(padded, one, rtol=1e-12)
    none = Reader(inverse, G @ G.T, np.array([[0], [-1]]))
    assert none.costs(np.arange(2))[1] == 0
    none.remove(np.array([1]))
    np.testing.assert_array_equal(none.inverse, inverse.numpy())


def test_downdate_is_the_inverse_of_what_is_left() -> None:
    x, labels = correlated(5)
    inverse, G = discriminant_inverse(scatter_of(x, labels, L), RIDGE)
    M = torch.linalg.inv(inverse)
    reader = Reader(inverse, G @ G.T, np.arange(F)[:, None])
    reader.remove(np.array([2, 6]))
    reader.remove(np.array([0]))
    left = [i for i in range(F) if i not in (0, 2, 6)]
    D = M @ G
    expected = torch.linalg.inv(M[left][:, left])
    np.testing.assert_allclose(reader.inverse[np.ix_(left, left)], expected, rtol=1e-8, atol=1e-12)
    G_left = (expected @ D[left]).numpy()
    np.testing.assert_allclose(
        reader.K[np.ix_(left, left)], G_left @ G_left.T, rtol=1e-8, atol=1e-12
    )


@pytest.mark.parametrize("width", [1, 3])
def test_greedy_marginals_add_up(width: int) -> None:
    x, labels = correlated(8)
    X, Y, rho = standardised(x), teacher(labels, L), RIDGE * len(x)
    inverse, G = discriminant_inverse(scatter_of(x, labels, L), RIDGE)
    blocks = np.arange(F).reshape(-1, width)
    reader, total, gone = Reader(inverse, G @ G.T, blocks), 0.0, list[int]()
    left = list(range(len(blocks)))
    while len(left) > 1:
        costs = reader.costs(np.array(left))
        # The greedy choice is the cheapest when every candidate is tried in full.
        tried = [
            discriminant_information(without(X, gone), Y, rho)
            - discriminant_information(without(X, gone + blocks[u].tolist()), Y, rho)
            for u in left
        ]
        np.testing.assert_allclose(costs, tried, rtol=1e-7, atol=1e-12)
        u = left[int(costs.argmin())]
        total += float(costs.min())
        reader.remove(np.array([u]))
        gone += blocks[u].tolist()
        left.remove(u)
    lost = discriminant_information(X, Y, rho) - discriminant_information(without(X, gone), Y, rho)
    assert total == pytest.approx(lost, rel=1e-8)


@pytest.mark.parametrize("block", [[2], [1, 4, 6]])
def test_consumer_s_cost_is_the_residual_of_least_squares(block: list[int]) -> None:
    x, labels = correlated(11)
    scatter = scatter_of(x, labels, L)
    X, rho = standardised(x), RIDGE * len(x)
    inverse, _ = discriminant_inverse(scatter, RIDGE)
    W = torch.randn(F, 5, generator=torch.Generator().manual_seed(0)).double()
    cost = Reader(inverse, W @ W.T, np.array([block])).costs(np.array([0]))[0]
    # min over V of ‖Wᵀ_P X_P − Vᵀ X_K‖² + ρ‖V‖² + ρ‖W_P‖², solved as stacked least squares
    keep = [i for i in range(F) if i not in block]
    target = (W[block].T @ X[block]).T  # (N, outputs)
    rows = torch.cat([X[keep].T, rho**0.5 * torch.eye(len(keep), dtype=torch.float64)])
    padded = torch.cat([target, torch.zeros(len(keep), 5, dtype=torch.float64)])
    V = torch.linalg.lstsq(rows, padded).solution
    residual = (rows @ V - padded).square().sum() + rho * W[block].square().sum()
    assert cost == pytest.approx(float(residual), rel=1e-9)


@given(
    units=st.integers(1, 12), rounds=st.integers(1, 14), many=st.booleans(), seed=st.integers(0, 50)
)
def test_eliminate_removes_everything(units: int, rounds: int, many: bool, seed: int) -> None:
    readers = []
    for k in range(2 if many else 1):
        x, labels = correlated(seed + k, features=units)
        inverse, G = discriminant_inverse(scatter_of(x, labels, L), RIDGE)
        readers.append(Reader(inverse, G @ G.T, np.arange(units)[:, None]))
    score = eliminate(readers, units, rounds)
    assert sorted(score.order.tolist()) == list(range(units))
    assert score.values.min() >= 0
    assert (score.values[score.order].diff() >= 0).all()


def test_with_rounds_enough_the_order_is_the_greedy_one() -> None:
    x, labels = correlated(8)
    X, Y, rho = standardised(x), teacher(labels, L), RIDGE * len(x)
    inverse, G = discriminant_inverse(scatter_of(x, labels, L), RIDGE)
    score = eliminate([Reader(inverse, G @ G.T, np.arange(F)[:, None])], F, rounds=F)
    gone: list[int] = []
    while len(gone) < F:
        left = [i for i in range(F) if i not in gone]
        kept = [discriminant_information(without(X, [*gone, u]), Y, rho) for u in left]
        gone.append(left[int(np.argmax(kept))])
    assert score.order.tolist() == gone


def test_no_samples_are_no_error() -> None:
    inverse, G = discriminant_inverse(Scatter.zeros(3, 2), RIDGE)
    assert torch.isfinite(inverse).all()
    assert G.abs().max() == 0
