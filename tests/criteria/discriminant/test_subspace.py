"""Subspaces and components of a layer."""

import pytest
import torch
from scipy.linalg import eigh

from prunus.core.errors import ConfigError
from prunus.criteria import DCA, kung_tian, subspace_information
from prunus.criteria.discriminant.fisher import fisher_ratio
from tests.criteria.oracles import CASES, RIDGE, discriminant_information, matrices, without
from tests.statistics.oracles import regression_scatter, scatter_of

ALL = list(CASES)


@pytest.mark.parametrize("kept", [[0], [1, 3], [0, 1, 2, 3]])
@pytest.mark.parametrize("name", ALL)
def test_keep_and_drop_are_the_slides_projections(name: str, kept: list[int]) -> None:
    """DI(W) = tr((WᵀSW + ρI)⁻¹WᵀS_BW), W the columns of the identity [Kung-slides]."""
    scatter, X, Y, rho = matrices(name)
    S, S_B = X @ X.T, X @ Y.T @ Y @ X.T

    def projected(columns: list[int]) -> float:
        W = torch.eye(len(X), dtype=torch.float64)[:, columns]
        M = W.T @ S @ W + rho * torch.eye(len(columns), dtype=torch.float64)
        return float(torch.trace(torch.linalg.inv(M) @ W.T @ S_B @ W)) if columns else 0.0

    found = subspace_information(scatter, RIDGE, kept)
    rest = [i for i in range(len(X)) if i not in kept]
    assert found.total == pytest.approx(discriminant_information(X, Y, rho), rel=1e-9)
    assert found.keep == pytest.approx(projected(kept), rel=1e-9)
    assert found.drop == pytest.approx(projected(rest), rel=1e-9)
    lost = discriminant_information(X, Y, rho) - discriminant_information(without(X, kept), Y, rho)
    assert found.loss == pytest.approx(lost, rel=1e-8, abs=1e-9)
    if len(kept) == 1:  # the slides' FDR = DI(W_keep)
        ratio = float(fisher_ratio(scatter)[kept[0]]) / (1 + RIDGE)
        assert found.keep == pytest.approx(ratio, rel=1e-9)


@pytest.mark.parametrize("kept", [[0, 0], [9], [-1]])
def test_features_that_do_not_exist_are_an_error(kept: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"different ones of 0 … 5"):
        subspace_information(matrices("balanced")[0], RIDGE, kept)


@pytest.mark.parametrize("name", ALL)
def test_components_are_generalised_eigenvectors(name: str) -> None:
    scatter, X, Y, rho = matrices(name)
    M = X @ X.T + rho * torch.eye(len(X), dtype=torch.float64)
    S_B = X @ Y.T @ Y @ X.T
    values = torch.from_numpy(eigh(S_B.numpy(), M.numpy(), eigvals_only=True).copy()).flip(0)
    found = DCA(scatter, RIDGE)
    rank = len(found.information)
    assert rank <= len(Y) - 1
    torch.testing.assert_close(found.information, values[:rank], rtol=1e-7, atol=1e-10)
    assert (values[rank:].abs() < 1e-9).all()
    V = found.vectors
    torch.testing.assert_close(S_B @ V, M @ V * found.information, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(V.T @ M @ V, torch.eye(rank).double(), atol=1e-8, rtol=0)
    assert float(found.information.sum()) == pytest.approx(found.total, rel=1e-8)
    # The sum of the parts: what the first components explain of the teacher is their sum.
    first = DCA(scatter, RIDGE, components=2)
    assert len(first.information) == min(2, rank)
    Z = first.vectors.T @ X
    assert float((Z @ Y.T).square().sum()) == pytest.approx(float(first.information.sum()))


def test_components_of_a_regression() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 5, generator=generator).double()
    y = torch.stack([3 * x[:, 0] + x[:, 1], x[:, 1]], 1)
    found = DCA(regression_scatter(x, y), 1e-9)
    assert found.total == pytest.approx(float((y - y.mean(0)).square().sum()), rel=1e-6)
    assert found.vectors.shape == (5, 2)
    assert found.vectors[2:].abs().max() < 1e-6 * found.vectors.abs().max()


def test_bad_requests_are_errors() -> None:
    scatter = matrices("balanced")[0]
    with pytest.raises(ConfigError, match="at least 1"):
        DCA(scatter, components=0)
    x = torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ConfigError, match="continuous"):
        kung_tian(regression_scatter(x, x))


def test_classes_without_width_are_infinitely_apart_for_tian_and_one_for_kung() -> None:
    labels = torch.arange(12) % 2
    x = torch.stack([labels.double(), torch.arange(12).double() % 5], 1)
    bridge = kung_tian(scatter_of(x, labels, 2))
    assert bridge.ratios.tolist() == [torch.inf]
    assert bridge.information == pytest.approx(1.0)
