"""The core of docs/theory.md against its definitions, X and Y written out."""

import numpy as np
import pytest
import torch

from prunus.criteria.discriminant.cherry import select
from prunus.criteria.discriminant.elimination import discriminant_inverse, eliminate
from prunus.criteria.discriminant.granular import granular_D
from prunus.criteria.discriminant.information import (
    discriminant_information,
    discriminant_matrix,
    regression_matrix,
    ridge_lse,
)
from prunus.criteria.discriminant.pivots import Pivots
from prunus.criteria.discriminant.subspace import kung_tian
from tests.criteria import oracles
from tests.criteria.oracles import CASES, RIDGE, case, matrices, standardised, without
from tests.statistics.oracles import regression_scatter, scatter_of, teacher

di = oracles.discriminant_information


def identity(size: int) -> torch.Tensor:
    return torch.eye(size, dtype=torch.float64)


@pytest.mark.parametrize("name", CASES)
def test_theorem_1_di_and_ridge_lse_add_up_to_the_classes_less_one(name: str) -> None:
    """[Kung-Hou, Theorem 1, eq. 9–12]: S_B = XYᵀYXᵀ, RidgeLSE = C − DI, C = L − 1."""
    _, labels, classes = case(name)
    scatter, X, Y, rho = matrices(name)
    between = torch.zeros(len(X), len(X), dtype=torch.float64)
    for label in range(classes):
        own = X[:, labels == label]
        between += own.shape[1] * torch.outer(own.mean(1), own.mean(1))
    torch.testing.assert_close(X @ Y.T @ Y @ X.T, between, atol=1e-9, rtol=0)
    assert scatter.trace_YY == pytest.approx(classes - 1)

    DM = torch.linalg.solve(X @ X.T + rho * identity(len(X)), between)
    torch.testing.assert_close(discriminant_matrix(scatter, RIDGE), DM, atol=1e-8, rtol=1e-6)
    torch.testing.assert_close(regression_matrix(scatter, RIDGE), DM, atol=1e-8, rtol=1e-6)
    information = discriminant_information(scatter, RIDGE)
    assert information == pytest.approx(float(DM.trace()), rel=1e-9)

    # The least of ‖WᵀX − Y‖² + ρ‖W‖², as one stacked least-squares problem.
    rows = torch.cat([X.T, rho**0.5 * identity(len(X))])
    target = torch.cat([Y.T, Y.new_zeros(len(X), classes)])
    W = torch.linalg.lstsq(rows, target, driver="gelsd").solution
    loss = float((rows @ W - target).square().sum())
    assert ridge_lse(scatter, RIDGE) == pytest.approx(loss, rel=1e-9)
    assert loss == pytest.approx(classes - 1 - information, rel=1e-9)
    assert 0 < information < classes - 1


def test_theorem_1_for_continuous_targets() -> None:
    """[Kung-Hou, eq. 14–15]: C is the sum of the squared teacher values."""
    x, _, _ = case("unbalanced")
    y = x @ torch.randn(6, 3, generator=torch.Generator().manual_seed(1)).double() + 4
    scatter = regression_scatter(x, y)
    X, Y, rho = standardised(x), (y - y.mean(0)).T, RIDGE * len(x)
    assert scatter.trace_YY == pytest.approx(float(Y.square().sum()))
    assert discriminant_information(scatter, RIDGE) == pytest.approx(di(X, Y, rho), rel=1e-9)
    RM = torch.linalg.solve(X @ X.T + rho * identity(6), X @ Y.T @ Y @ X.T)
    torch.testing.assert_close(regression_matrix(scatter, RIDGE), RM)


@pytest.mark.parametrize("name", CASES)
def test_1_diloss_is_the_derivative_in_a_channel_s_scale(name: str) -> None:
    scatter, X, Y, rho = matrices(name)
    _, G = discriminant_inverse(scatter, RIDGE)
    diloss = 2 * rho * G.square().sum(1)
    for i in range(len(X)):
        up, down = X.clone(), X.clone()
        up[i] *= 1 + 1e-5
        down[i] *= 1 - 1e-5
        slope = (di(up, Y, rho) - di(down, Y, rho)) / 2e-5
        assert float(diloss[i]) == pytest.approx(slope, rel=1e-4, abs=1e-8)


def test_1_diloss_goes_to_zero_with_the_ridge_and_exact_removal_does_not() -> None:
    scatter, X, Y, _ = matrices("balanced")
    largest = []
    for ridge in (1e-2, 1e-4, 1e-6):
        inverse, G = discriminant_inverse(scatter, ridge)
        largest.append(float((2 * ridge * scatter.samples * G.square().sum(1)).max()))
        exact = Pivots(inverse, G, np.arange(6)[:, None]).costs(np.arange(6))
    assert largest[1] < 0.05 * largest[0]
    assert largest[2] < 0.05 * largest[1]
    lost = [di(X, Y, 1e-12) - di(without(X, [i]), Y, 1e-12) for i in range(6)]
    np.testing.assert_allclose(exact, lost, rtol=1e-3)


@pytest.mark.parametrize("block", [[0], [3], [1, 2], [0, 2, 3]])
@pytest.mark.parametrize("name", CASES)
def test_2_exact_removal_of_a_block(name: str, block: list[int]) -> None:
    scatter, X, Y, rho = matrices(name)
    inverse, G = discriminant_inverse(scatter, RIDGE)
    P = torch.tensor(block)
    by_formula = torch.trace(G[P].T @ torch.linalg.inv(inverse[P][:, P]) @ G[P])
    lost = di(X, Y, rho) - di(without(X, block), Y, rho)
    assert float(by_formula) == pytest.approx(lost, rel=1e-8, abs=1e-10)
    consumer = Pivots(inverse, G, np.array([block]))
    assert consumer.costs(np.array([0]))[0] == pytest.approx(lost, rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_3_elimination_and_selection_are_greedy_and_exact(name: str, width: int) -> None:
    scatter, X, Y, rho = matrices(name)
    units = len(X) // width
    blocks = np.arange(units * width).reshape(units, width)
    X = X[: units * width]
    scatter = scatter.select(torch.arange(units * width))
    inverse, G = discriminant_inverse(scatter, RIDGE)

    def worth(kept: list[int]) -> float:
        return di(X[blocks[kept].ravel()], Y, rho)

    backward = eliminate([Pivots(inverse, G, blocks)], units, rounds=units)
    left = list(range(units))
    for unit in backward.order.tolist():
        lost = {u: worth(left) - worth([v for v in left if v != u]) for u in left}
        assert lost[unit] == pytest.approx(min(lost.values()), rel=1e-8, abs=1e-9)
        assert float(backward.costs[unit]) == pytest.approx(lost[unit], rel=1e-8, abs=1e-9)
        left.remove(unit)

    M = X @ X.T + rho * identity(len(X))
    forward = select([Pivots(M, X @ Y.T, blocks)], units, rounds=units)
    kept: list[int] = []
    for unit in forward.order.flip(0).tolist():
        gain = {u: worth([*kept, u]) - worth(kept) for u in range(units) if u not in kept}
        assert gain[unit] == pytest.approx(max(gain.values()), rel=1e-8, abs=1e-9)
        assert float(forward.costs[unit]) == pytest.approx(gain[unit], rel=1e-8, abs=1e-9)
        kept.append(unit)
    assert float(forward.costs.sum()) == pytest.approx(worth(kept), rel=1e-8)


@pytest.mark.parametrize("block", [[2], [1, 3]])
@pytest.mark.parametrize("name", CASES)
def test_4_one_kernel_ranks_and_compensates(name: str, block: list[int]) -> None:
    """The cost is the residual of the repaired consumer, bias and ridge counted."""
    x, _, _ = case(name)
    scatter, X, _, rho = matrices(name)
    keep = [i for i in range(len(X)) if i not in block]
    W = torch.randn(5, len(X), generator=torch.Generator().manual_seed(0)).double()
    W = W / scatter.scale  # the consumer of raw features; V reads standardised ones
    V = W * scatter.scale
    V[:, scatter.constant] = 0
    inverse, _ = discriminant_inverse(scatter, RIDGE)
    cost = Pivots(inverse, V.T, np.array([block])).costs(np.array([0]))[0]

    S = X @ X.T
    repair = S[block][:, keep] @ torch.linalg.inv(S[keep][:, keep] + rho * identity(len(keep)))
    change = V[:, block] @ repair  # W_K += W_P S_PK (S_KK + ρI)⁻¹
    lost = V[:, block] @ X[block] - change @ X[keep]
    penalty = rho * (change.square().sum() + V[:, block].square().sum())
    assert cost == pytest.approx(float(lost.square().sum() + penalty), rel=1e-8, abs=1e-9)

    # In raw features: bias += W_P(μ_P − S_PK(S_KK+ρI)⁻¹μ_K) leaves no mean error.
    raw = repair * scatter.scale[block][:, None] / scatter.scale[keep]
    mean = x.mean(0)
    bias = W[:, block] @ (mean[block] - raw @ mean[keep])
    error = x[:, block] @ W[:, block].T - x[:, keep] @ (W[:, block] @ raw).T - bias
    alive = ~scatter.constant[block]
    if alive.all():
        torch.testing.assert_close(error.T, lost, atol=1e-8, rtol=1e-8)
    assert error.mean(0).abs().max() < 1e-8


@pytest.mark.parametrize("name", CASES)
def test_5_kung_and_tian_share_their_eigenvectors(name: str) -> None:
    _, labels, classes = case(name)
    scatter, X, Y, _ = matrices(name)
    alive = [i for i in range(len(X)) if X[i].any() and not (i == 5 and "duplicated" in name)]
    X = X[alive]
    within = sum(
        (X[:, labels == c] - X[:, labels == c].mean(1, keepdim=True))
        @ (X[:, labels == c] - X[:, labels == c].mean(1, keepdim=True)).T
        for c in range(classes)
    )
    between = X @ Y.T @ Y @ X.T
    ratios = torch.linalg.eigvals(torch.linalg.solve(within, between)).real.sort(descending=True)[
        0
    ][: min(len(X), classes - 1)]
    bridge = kung_tian(scatter)
    torch.testing.assert_close(bridge.ratios, ratios, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(bridge.shares, ratios / (1 + ratios), rtol=1e-6, atol=1e-8)
    assert bridge.information == pytest.approx(di(X, Y, 0.0), rel=1e-7)
    assert bridge.information <= classes - 1


@pytest.mark.parametrize("name", CASES)
def test_6_noise_costs_diloss(name: str) -> None:
    """ΔDI ≈ N·σ²·DiLOSS/(2ρ) of noise on one channel: M gains Nσ² on its diagonal."""
    scatter, X, Y, rho = matrices(name)
    _, G = discriminant_inverse(scatter, RIDGE)
    N, variance = X.shape[1], 1e-6
    M, D = X @ X.T + rho * identity(len(X)), X @ Y.T
    for i in range(len(X)):
        noisy = M.clone()
        noisy[i, i] += N * variance
        lost = torch.trace(D.T @ (torch.linalg.inv(M) - torch.linalg.inv(noisy)) @ D)
        expected = N * variance * float(2 * rho * G[i].square().sum()) / (2 * rho)
        assert float(lost) == pytest.approx(expected, rel=1e-3, abs=1e-10)


def test_6_noise_costs_diloss_by_monte_carlo() -> None:
    x, labels, classes = case("unbalanced")
    _, X, Y, rho = matrices("unbalanced")
    copies, variance, i = 4000, 0.005, 2
    _, G = discriminant_inverse(scatter_of(x, labels, classes), RIDGE)
    N = X.shape[1]
    many = X.repeat(1, copies)
    many[i] += variance**0.5 * torch.randn(
        many.shape[1], generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    lost = di(X, Y, rho) - di(many, Y.repeat(1, copies) / copies**0.5, rho * copies)
    assert lost == pytest.approx(N * variance * float(G[i].square().sum()), rel=0.1)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("counts", [[10] * 6, [3, 20, 7, 12, 5, 9]])
def test_7_granularity_is_additive(counts: list[int], weight: float) -> None:
    parents = torch.tensor([0, 0, 1, 1, 1, 2])
    generator = torch.Generator().manual_seed(5)
    labels = torch.repeat_interleave(torch.arange(6), torch.tensor(counts))
    x = torch.randn(len(labels), 7, generator=generator).double()
    x += torch.randn(6, 7, generator=generator).double()[labels]
    X, rho = standardised(x), RIDGE * len(x)
    M = X @ X.T + rho * identity(7)
    # S_B(fine|coarse) from its definition: class means about the mean of their coarse class.
    inner, coarse = torch.zeros(7, 7).double(), torch.zeros(7, 7).double()
    for label in range(6):
        own, family = X[:, labels == label], X[:, parents[labels] == parents[label]]
        inner += own.shape[1] * torch.outer(*[own.mean(1) - family.mean(1)] * 2)
        coarse += own.shape[1] * torch.outer(family.mean(1), family.mean(1))
    parts = [float(torch.linalg.solve(M, S_B).trace()) for S_B in (coarse, inner)]
    scatter = scatter_of(x, labels, 6)
    fine = discriminant_information(scatter, RIDGE)
    assert discriminant_information(scatter.coarsen(parents), RIDGE) == pytest.approx(parts[0])
    assert di(X, teacher(parents[labels], 3), rho) == pytest.approx(parts[0])
    assert fine == pytest.approx(sum(parts), rel=1e-10)
    D = granular_D(scatter, (parents,), weight)
    _, G = discriminant_inverse(scatter, RIDGE, D)
    assert float((D * G).sum()) == pytest.approx(parts[0] + weight * parts[1], rel=1e-10)


def test_8_di_saturates_as_classes_collapse() -> None:
    labels = torch.arange(200) % 5
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(5, 8, generator=generator).double()
    noise = torch.randn(200, 8, generator=generator).double()
    found, removal = [], []
    for width in (1.0, 0.3, 0.1, 0.03):
        scatter = scatter_of(means[labels] + width * noise, labels, 5)
        inverse, G = discriminant_inverse(scatter, 1e-6)
        found.append(float((scatter.standard_D * G).sum()))
        removal.append(float((G.square().sum(1) / inverse.diagonal()).max()))
    assert found == sorted(found)
    assert 3.99 < found[-1] < 4
    assert removal[-1] < 0.02 * removal[0]  # any channel can go: raw ΔDI says little here
