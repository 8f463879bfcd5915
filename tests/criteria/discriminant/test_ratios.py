"""Determinant and trace Fisher ratios, RidgeLSE, and cherry picking as criteria."""

import numpy as np
import pytest
import torch

from prunus.criteria import dfdr, score
from prunus.criteria.discriminant.cherry import select
from prunus.criteria.discriminant.elimination import discriminant_inverse
from prunus.criteria.discriminant.pivots import Pivots
from prunus.graph import find_groups
from prunus.statistics import collect
from tests.criteria.oracles import (
    CASES,
    RIDGE,
    discriminant_information,
    matrices,
    standardised,
    without,
)
from tests.graph.nets import CLASSES, batches, build, images
from tests.statistics.oracles import drawn, teacher


def log_determinant(X: torch.Tensor, Y: torch.Tensor, rho: float, rank: int) -> float:
    """ln of the product of the greatest min(F, L−1) eigenvalues of M⁻¹S_B."""
    X = X[[i for i in range(len(X)) if X[i].any()]]
    M = X @ X.T + rho * torch.eye(len(X), dtype=torch.float64)
    values = torch.linalg.eigvals(torch.linalg.solve(M, X @ Y.T @ Y @ X.T)).real
    return float(values.sort(descending=True)[0][: min(len(X), rank)].clamp(min=1e-12).log().sum())


@pytest.mark.parametrize("name", CASES)
def test_dfdr_of_a_layer(name: str) -> None:
    scatter, X, Y, rho = matrices(name)
    rank = len(Y) - 1
    assert dfdr(scatter, RIDGE) == pytest.approx(log_determinant(X, Y, rho, rank), rel=1e-7)
    if len(X) <= rank:  # then it is the determinant itself
        DM = torch.linalg.solve(X @ X.T + rho * torch.eye(len(X)).double(), X @ Y.T @ Y @ X.T)
        assert dfdr(scatter, RIDGE) == pytest.approx(float(DM.det().log()), rel=1e-7)


@pytest.mark.parametrize(
    ("net", "group", "consumer"), [("mlp", "fc2", "fc3"), ("plain", "conv1", "conv2")]
)
def test_dfdr_of_a_unit_is_what_the_rest_lacks(net: str, group: str, consumer: str) -> None:
    model, loader = build(net).double(), [(x.double(), y) for x, y in batches(6, 16)]
    groups = find_groups(model, images(1).double())
    statistics = collect(model, loader, groups, sampling="patch")
    x, labels = drawn(model, loader, consumer, "patch")
    X, Y, rho = standardised(x), teacher(labels, CLASSES), RIDGE * len(x)
    (member,) = groups[group].consumers
    owned = statistics.features(consumer, member.index)
    costs = score(groups, statistics, "dfdr", ridge=RIDGE)[group].costs
    whole = log_determinant(X, Y, rho, CLASSES - 1)
    for unit, block in enumerate(owned.tolist()):
        left = log_determinant(without(X, block), Y, rho, CLASSES - 1)
        assert float(costs[unit]) == pytest.approx(whole - left, rel=1e-6, abs=1e-7)


def test_removal_may_raise_dfdr_and_then_goes_first() -> None:
    """[Kung-Hou, section 3.1.3]: with fewer channels than classes a factor below 1 is dropped."""
    model = build("mlp")
    with torch.no_grad():
        model.fc2.weight[2:].zero_()  # fc3 reads two live units, three eigenvalues are possible
    groups = find_groups(model, images(1))
    statistics = collect(model, batches(6, 16), groups)
    found = score(groups, statistics, "dfdr")["fc2"]
    assert float(found.costs.max()) == 0
    assert set(found.order[:2].tolist()) == {0, 1}  # worth less than nothing, dead units nothing


def test_trace_fdr_ranks_by_the_loss_of_one_unit_alone() -> None:
    model, loader = build("residual").double(), [(x.double(), y) for x, y in batches(6, 16)]
    groups = find_groups(model, images(1).double())
    statistics = collect(model, loader, groups, sampling="patch")
    costs = score(groups, statistics, "tfdr", ridge=RIDGE)["stem"].costs
    expected = torch.zeros(8, dtype=torch.float64)
    for member in groups["stem"].consumers:
        x, labels = drawn(model, loader, member.module, "patch")
        X, Y, rho = standardised(x), teacher(labels, CLASSES), RIDGE * len(x)
        total = discriminant_information(X, Y, rho)
        for unit, block in enumerate(statistics.features(member.module, member.index).tolist()):
            left = discriminant_information(without(X, block), Y, rho)
            expected[unit] += (total - left) / total
    torch.testing.assert_close(costs, expected, rtol=1e-7, atol=1e-10)


def test_ridge_lse_is_di_on_the_scale_of_the_teacher() -> None:
    model = build("mlp")
    groups = find_groups(model, images(1))
    statistics = collect(model, batches(6, 16), groups)
    scatter = statistics["fc3"]
    _, G = discriminant_inverse(scatter, 1e-3)
    share = float((scatter.standard_D * G).sum()) / (CLASSES - 1)
    lse, di = (score(groups, statistics, name)["fc2"] for name in ("ridge_lse", "di"))
    assert torch.equal(lse.order, di.order)
    torch.testing.assert_close(lse.costs, share * di.costs)


def test_cherry_picking_beats_elimination_where_two_weak_units_shadow_a_strong_one() -> None:
    """x2 is best alone, x0 and x1 replace it: elimination drops x2, a single pick takes it."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(400) % 2
    signal = (2.0 * y - 1).double()
    noise = 3 * torch.randn(400, generator=generator).double()
    jitter = 0.5 * torch.randn(400, 3, generator=generator).double()
    x = torch.stack([signal + noise, signal - noise, 1.2 * signal], 1) + jitter
    x[:, 2] += 0.5 * torch.randn(400, generator=generator).double()
    X, Y, rho = standardised(x), teacher(y, 2), 1e-3 * 400
    M = X @ X.T + rho * torch.eye(3).double()
    found = select([Pivots(M, X @ Y.T, np.arange(3)[:, None])], 3, rounds=3)
    alone = [discriminant_information(X[[i]], Y, rho) for i in range(3)]
    assert int(found.order[-1]) == int(np.argmax(alone)) == 2
    assert float(found.costs[2]) == pytest.approx(max(alone))


def test_picking_in_few_rounds_still_adds_up() -> None:
    _, X, Y, rho = matrices("more classes than channels")
    M = X @ X.T + rho * torch.eye(len(X)).double()
    for rounds in (1, 2, 9):
        found = select([Pivots(M, X @ Y.T, np.array([[0, 1], [2, -1], [3, -1]]))], 3, rounds)
        total = discriminant_information(X, Y, rho)
        assert float(found.costs.sum()) == pytest.approx(total)
        assert sorted(found.order.tolist()) == [0, 1, 2]
    none = Pivots(M, X @ Y.T, np.array([[0], [-1]]))
    assert none.costs(np.array([1])) == 0
    assert none.take(np.array([1])) == 0
