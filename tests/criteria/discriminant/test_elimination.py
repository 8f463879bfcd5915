"""Exact elimination against matrices inverted again after every removal."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prunus.core.errors import ConfigError
from prunus.criteria import score
from prunus.criteria.discriminant.elimination import discriminant_inverse, eliminate
from prunus.criteria.discriminant.pivots import Pivots
from prunus.graph import find_groups
from prunus.statistics import Scatter, collect
from tests.criteria.oracles import (
    RIDGE,
    correlated,
    discriminant_information,
    standardised,
    without,
)
from tests.graph.nets import CLASSES, batches, build, images
from tests.statistics.oracles import drawn, scatter_of, teacher

F, L = 9, 4


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
    consumer = Pivots(inverse, G, np.array([block]))
    lost = discriminant_information(X, Y, rho) - discriminant_information(without(X, block), Y, rho)
    assert consumer.costs(np.array([0]))[0] == pytest.approx(lost, rel=1e-9)
    if len(block) == 1:
        i = block[0]
        assert float(G[i].square().sum() / inverse[i, i]) == pytest.approx(lost, rel=1e-9)


def test_padding_of_unequal_blocks_costs_nothing() -> None:
    x, labels = correlated(3)
    inverse, G = discriminant_inverse(scatter_of(x, labels, L), RIDGE)
    one = Pivots(inverse, G, np.array([[0], [1]])).costs(np.arange(2))
    padded = Pivots(inverse, G, np.array([[0, -1], [1, -1]])).costs(np.arange(2))
    np.testing.assert_allclose(padded, one, rtol=1e-12)
    none = Pivots(inverse, G, np.array([[0], [-1]]))
    before = none.costs(np.arange(2))
    assert before[1] == 0
    assert none.take(np.array([1])) == 0
    np.testing.assert_array_equal(none.costs(np.arange(2)), before)


def test_downdate_is_the_inverse_of_what_is_left() -> None:
    x, labels = correlated(5)
    inverse, G = discriminant_inverse(scatter_of(x, labels, L), RIDGE)
    M = torch.linalg.inv(inverse)
    consumer = Pivots(inverse, G, np.arange(F)[:, None])
    D = M @ G
    gone: list[int] = []
    for units in ([2, 6], [0], [4, 8], [1]):  # after the third, fewer than half are left
        consumer.take(np.array(units))
        gone += units
        left = [i for i in range(F) if i not in gone]
        expected = torch.linalg.inv(M[left][:, left])
        where = np.flatnonzero(np.isin(consumer.own, left))
        A = consumer._columns(where)[where]
        np.testing.assert_allclose(A, expected, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(consumer.B[where], expected @ D[left], rtol=1e-7, atol=1e-12)
        inner = consumer.inner[left][:, 0, 0]
        np.testing.assert_allclose(inner, expected.diagonal(), rtol=1e-8)


def test_features_of_other_groups_stay_out_of_it() -> None:
    x, labels = correlated(3)
    inverse, G = discriminant_inverse(scatter_of(x, labels, L), RIDGE)
    some = Pivots(inverse, G, np.array([[7], [2], [4]]))
    every = Pivots(inverse, G, np.arange(F)[:, None])
    assert some.own.tolist() == [2, 4, 7]
    for mine, theirs in (([0], [7]), ([2], [4])):
        np.testing.assert_allclose(some.take(np.array(mine)), every.take(np.array(theirs)))
    np.testing.assert_allclose(some.costs(np.array([1])), every.costs(np.array([2])))


@pytest.mark.parametrize("width", [1, 3])
def test_greedy_marginals_add_up(width: int) -> None:
    x, labels = correlated(8)
    X, Y, rho = standardised(x), teacher(labels, L), RIDGE * len(x)
    inverse, G = discriminant_inverse(scatter_of(x, labels, L), RIDGE)
    blocks = np.arange(F).reshape(-1, width)
    consumer, total, gone = Pivots(inverse, G, blocks), 0.0, list[int]()
    left = list(range(len(blocks)))
    while len(left) > 1:
        costs = consumer.costs(np.array(left))
        # The greedy choice is the cheapest when every candidate is tried in full.
        tried = [
            discriminant_information(without(X, gone), Y, rho)
            - discriminant_information(without(X, gone + blocks[u].tolist()), Y, rho)
            for u in left
        ]
        np.testing.assert_allclose(costs, tried, rtol=1e-7, atol=1e-12)
        u = left[int(costs.argmin())]
        total += float(costs.min())
        consumer.take(np.array([u]))
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
    cost = Pivots(inverse, W, np.array([block])).costs(np.array([0]))[0]
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
    consumers = []
    for k in range(2 if many else 1):
        x, labels = correlated(seed + k, features=units)
        inverse, G = discriminant_inverse(scatter_of(x, labels, L), RIDGE)
        consumers.append(Pivots(inverse, G, np.arange(units)[:, None]))
    score = eliminate(consumers, units, rounds)
    assert sorted(score.order.tolist()) == list(range(units))
    assert score.values.min() >= 0
    assert (score.values[score.order].diff() >= 0).all()


def test_with_rounds_enough_the_order_is_the_greedy_one() -> None:
    x, labels = correlated(8)
    X, Y, rho = standardised(x), teacher(labels, L), RIDGE * len(x)
    inverse, G = discriminant_inverse(scatter_of(x, labels, L), RIDGE)
    score = eliminate([Pivots(inverse, G, np.arange(F)[:, None])], F, rounds=F)
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


@pytest.mark.parametrize("rounds", [1, 3, 99])
def test_costs_along_the_order_are_marginal_whatever_the_rounds(rounds: int) -> None:
    x, labels = correlated(4)
    X, Y, rho = standardised(x), teacher(labels, L), RIDGE * len(x)
    inverse, G = discriminant_inverse(scatter_of(x, labels, L), RIDGE)
    blocks = np.array([[0, 1], [2, -1], [3, 4], [5, 6], [7, 8]])
    found = eliminate([Pivots(inverse, G, blocks)], 5, rounds)
    gone: list[int] = []
    for unit in found.order.tolist():
        more = [*gone, *(f for f in blocks[unit].tolist() if f >= 0)]
        lost = discriminant_information(without(X, gone), Y, rho)
        lost -= discriminant_information(without(X, more), Y, rho)
        assert float(found.costs[unit]) == pytest.approx(lost, rel=1e-8, abs=1e-10)
        gone = more
    again = eliminate([Pivots(inverse, G, blocks)], 5, rounds, found.order)
    torch.testing.assert_close(again.costs, found.costs, rtol=1e-9, atol=1e-12)
    assert torch.equal(again.order, found.order)


@pytest.mark.parametrize(
    ("net", "group", "sampling"),
    [
        ("mlp", "fc1", "pixel"),
        ("plain", "conv1", "pixel"),
        ("plain", "conv1", "patch"),
        ("prelu", "conv1", "patch"),
        ("residual", "stem", "pixel"),
        ("residual", "stem", "patch"),
        ("flatten", "conv1", "flatten"),
    ],
)
@pytest.mark.parametrize("name", ["di", "cherry", "ridge_lse", "structural"])
def test_predicted_di_is_that_of_what_is_left(
    name: str, net: str, group: str, sampling: str
) -> None:
    """Plain, patch and coupled groups: total − Σ costs, against DI recomputed, to 1e-8."""
    model = build(net).double()
    loader = [(x.double(), y) for x, y in batches(4, 16)]
    groups = find_groups(model, images(1).double())
    statistics = collect(model, loader, groups, sampling=sampling)
    options = {"lam": 0.5} if name == "structural" else {}
    found = score(groups, statistics, name, ridge=RIDGE, **options)[group]
    sides = []
    for member in groups[group].consumers:
        consumer = groups.consumers[member.module]
        x, labels = drawn(model, loader, member.module, sampling, consumer)
        owned = statistics.features(member.module, member.index)
        X, Y, rho = standardised(x), teacher(labels, CLASSES), RIDGE * len(x)
        total = discriminant_information(X, Y, rho)
        scale = {"ridge_lse": CLASSES - 1, "structural": 0.5}.get(name, total)
        sides.append((X, Y, rho, owned, total, scale))
    order = found.order.tolist()
    for removed in (1, len(order) // 2, len(order) - 1):
        lost = 0.0
        for X, Y, rho, owned, total, scale in sides:
            gone = [f for f in owned[order[:removed]].ravel().tolist() if f >= 0]
            lost += (total - discriminant_information(without(X, gone), Y, rho)) / scale
        predicted = float(found.costs[found.order[:removed]].sum())
        assert predicted == pytest.approx(lost, abs=1e-8)


def test_kernel_statistics_give_what_they_hold_and_refuse_the_rest() -> None:
    model, loader = build("plain"), batches(4, 16)
    groups = find_groups(model, images(1))
    statistics = collect(model, loader, groups, sampling="dual", blocks=2)
    dual = statistics.duals["conv2"]
    di = score(groups, statistics, "di", intervals=True)
    torch.testing.assert_close(di["conv1"].costs, dual.removal / dual.information)
    left = statistics.leave_out(1).duals["conv2"]
    torch.testing.assert_close(di["conv1"].replicates[1], left.removal / left.information)
    diloss = score(groups, statistics, "diloss")
    torch.testing.assert_close(diloss["conv1"].costs, dual.slope / dual.batches)
    for name in ("stacked", "fdr", "cherry", "dfdr", "structural"):
        with pytest.raises(ConfigError, match=r"sampling='dual'.*'di' or 'diloss'"):
            score(groups, statistics, name)


def test_too_small_a_ridge_is_an_error_that_says_so() -> None:
    consumer = Pivots(-torch.eye(2).double(), torch.eye(2).double(), np.array([[0, 1]]))
    with pytest.raises(ConfigError, match=r"2 features.*ridge is too small"):
        consumer.take(np.array([0]))
