"""The scatter's matrices against X and Y written out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prunus.core.errors import PlanError
from prunus.statistics import Scatter
from tests.statistics.oracles import (
    assert_close,
    assert_equal,
    regression_scatter,
    scatter_of,
    teacher,
    weighted,
)

CASES = {
    "balanced": ([10, 10, 10], 6),
    "unbalanced": ([3, 20, 7], 6),
    "two classes": ([9, 4], 5),
    "more classes than features": ([4] * 9, 3),
    "an absent class": ([5, 0, 8], 6),
    "one sample a class": ([1, 1, 1, 1], 6),
}


def labelled(counts: list[int], features: int) -> tuple[Tensor, Tensor]:
    """Return samples (N, F) and labels; the last feature is constant, the one before a copy."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    x = torch.randn(len(labels), features, dtype=torch.float64, generator=generator)
    x += 0.3 * labels[:, None]
    x[:, -1] = 2.5
    x[:, -2] = x[:, 0]
    return x, labels


def trace(matrix: Tensor) -> float:
    return float(matrix.diagonal().sum())


@pytest.mark.parametrize("case", CASES)
def test_matrices_are_those_of_X_and_Y(case: str) -> None:
    counts, features = CASES[case]
    x, labels = labelled(counts, features)
    scatter = scatter_of(x, labels, len(counts))
    occurring = [label for label, count in enumerate(counts) if count]

    X = (x - x.mean(0)).T  # (F, N)
    Y = teacher(labels, len(counts))
    assert trace(Y @ Y.T) == pytest.approx(len(occurring) - 1)
    assert scatter.trace_YY == pytest.approx(len(occurring) - 1)
    torch.testing.assert_close(scatter.mean, x.mean(0))
    torch.testing.assert_close(scatter.S, X @ X.T, atol=1e-10, rtol=0)
    torch.testing.assert_close(scatter.D, X @ Y.T, atol=1e-10, rtol=0)
    torch.testing.assert_close(scatter.S_B, X @ Y.T @ Y @ X.T, atol=1e-10, rtol=0)
    between = torch.zeros(features, features, dtype=torch.float64)
    for label in occurring:
        shift = x[labels == label].mean(0) - x.mean(0)
        between += counts[label] * torch.outer(shift, shift)
    torch.testing.assert_close(scatter.S_B, between, atol=1e-10, rtol=0)
    assert scatter.teacher_total.tolist() == counts
    assert scatter.samples == len(labels)
    assert scatter.discrete


@pytest.mark.parametrize("case", CASES)
def test_standardised_features(case: str) -> None:
    counts, features = CASES[case]
    x, labels = labelled(counts, features)
    scatter = scatter_of(x, labels, len(counts))
    assert scatter.constant.tolist() == [False] * (features - 1) + [True]
    assert scatter.scale[-1] == 1
    torch.testing.assert_close(scatter.scale[:-1], x[:, :-1].std(0, correction=0))

    Z = ((x - x.mean(0)) / x.std(0, correction=0)).T[:-1]
    expected = torch.zeros(features, features, dtype=torch.float64)
    expected[:-1, :-1] = Z @ Z.T / len(x)
    torch.testing.assert_close(scatter.correlation, expected, atol=1e-10, rtol=0)
    assert scatter.correlation[0, -2] == pytest.approx(1)
    D = torch.zeros(features, len(counts), dtype=torch.float64)
    D[:-1] = Z @ teacher(labels, len(counts)).T
    torch.testing.assert_close(scatter.standard_D, D, atol=1e-10, rtol=0)


def test_a_class_without_samples_gives_zero() -> None:
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).double()
    scatter = scatter_of(x, torch.tensor([0, 0, 0, 2, 2, 2]), 3)
    assert scatter.D[:, 1].abs().max() == 0


def test_no_samples_at_all() -> None:
    for discrete in (True, False):
        scatter = Scatter.zeros(3, 2, discrete=discrete)
        assert scatter.samples == scatter.trace_YY == 0
        for matrix in (scatter.S, scatter.D, scatter.S_B, scatter.correlation, scatter.standard_D):
            assert not matrix.any()
        assert scatter.constant.all()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("balance", ["N/(L N_l)", "1/N_l", "any"])
def test_weighted_samples(case: str, balance: str) -> None:
    counts, features = CASES[case]
    x, labels = labelled(counts, features)
    each = torch.tensor(counts).double()[labels]
    present = sum(count > 0 for count in counts)
    w = {
        "N/(L N_l)": len(x) / present / each,
        "1/N_l": 1 / each / 10,  # all weights together are below 1
        "any": torch.linspace(0.1, 2, len(x), dtype=torch.float64),
    }[balance]
    scatter = scatter_of(x, labels, len(counts), w)
    X, Y = weighted(x, labels, len(counts), w)
    assert scatter.samples == pytest.approx(float(w.sum()))
    torch.testing.assert_close(scatter.S, X @ X.T, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(scatter.D, X @ Y.T, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(scatter.S_B, X @ Y.T @ Y @ X.T, atol=1e-10, rtol=1e-10)
    assert scatter.trace_YY == pytest.approx(trace(Y @ Y.T)) == pytest.approx(present - 1)
    spread = (X.square().sum(1) / w.sum()).sqrt()
    torch.testing.assert_close(scatter.scale[:-1], spread[:-1])
    torch.testing.assert_close(
        scatter.correlation.diagonal()[:-1], torch.ones(features - 1, dtype=torch.float64)
    )
    if balance == "N/(L N_l)":  # every class counts alike
        occurring = scatter.teacher_total[each.new_tensor(counts) > 0]
        torch.testing.assert_close(occurring, torch.full_like(occurring, len(x) / present))
        means = torch.stack([x[labels == k].mean(0) for k, n in enumerate(counts) if n])
        torch.testing.assert_close(scatter.mean, means.mean(0))


def test_integer_weights_are_repeated_samples() -> None:
    x, labels = labelled([3, 5], 4)
    times = torch.tensor([1, 2, 3, 1, 1, 4, 2, 1])
    repeated = scatter_of(x.repeat_interleave(times, 0), labels.repeat_interleave(times), 2)
    assert_close(scatter_of(x, labels, 2, times.double()), repeated, rtol=1e-12)


@given(
    samples=st.integers(1, 30),
    features=st.integers(1, 6),
    columns=st.integers(1, 7),
    seed=st.integers(0, 1000),
    weighs=st.booleans(),
)
def test_continuous_teachers(
    samples: int, features: int, columns: int, seed: int, weighs: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, features, generator=generator).double() + 1
    y = torch.randn(samples, columns, generator=generator).double() * 3 - 2
    w = torch.rand(samples, generator=generator).double() + 0.1 if weighs else torch.ones(samples)
    w = w.double()
    scatter = regression_scatter(x, y, w)
    X = (x - (w @ x) / w.sum()).T * w.sqrt()
    Y = (y - (w @ y) / w.sum()).T * w.sqrt()
    assert not scatter.discrete
    torch.testing.assert_close(scatter.S, X @ X.T, atol=1e-9, rtol=0)
    torch.testing.assert_close(scatter.D, X @ Y.T, atol=1e-9, rtol=0)
    torch.testing.assert_close(scatter.S_B, X @ Y.T @ Y @ X.T, atol=1e-8, rtol=0)
    assert scatter.trace_YY == pytest.approx(trace(Y @ Y.T), abs=1e-8)


# Granularity -------------------------------------------------------------------------------


@pytest.mark.parametrize("weighs", [False, True])
def test_scatter_of_fine_labels_is_coarse_plus_fine_within_coarse(weighs: bool) -> None:
    x, labels = labelled([4, 7, 2, 9, 5], 6)
    parents = torch.tensor([0, 1, 0, 2, 1])
    w = torch.linspace(0.2, 2, len(x), dtype=torch.float64) if weighs else None
    fine = scatter_of(x, labels, 5, w)
    coarse = fine.coarsen(parents)
    assert_close(coarse, scatter_of(x, parents[labels], 3, w), rtol=1e-12)

    w = torch.ones(len(x), dtype=torch.float64) if w is None else w
    within = torch.zeros(6, 6, dtype=torch.float64)
    for label, parent in enumerate(parents.tolist()):
        own, group = labels == label, parents[labels] == parent
        centre = [(w[m, None] * x[m]).sum(0) / w[m].sum() for m in (own, group)]
        within += w[own].sum() * torch.outer(centre[0] - centre[1], centre[0] - centre[1])
    torch.testing.assert_close(fine.S_B, coarse.S_B + within, atol=1e-10, rtol=0)
    assert fine.trace_YY == pytest.approx(coarse.trace_YY + (5 - 3))  # Σ_parents (children − 1)
    torch.testing.assert_close(coarse.S, fine.S, atol=0, rtol=0)
    assert fine.cross.shape == (5, 6)  # untouched


def test_coarser_labels_that_do_not_fit() -> None:
    with pytest.raises(PlanError, match="one parent for each of 3 classes, found 2 parents"):
        Scatter.zeros(5, 3).coarsen(torch.tensor([0, 1]))
    with pytest.raises(PlanError, match="and a continuous teacher"):
        Scatter.zeros(5, 3, discrete=False).coarsen(torch.tensor([0, 1, 1]))


# Parts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("discrete", [True, False])
def test_selected_features(discrete: bool) -> None:
    x, labels = labelled([4, 6], 6)
    kept = torch.tensor([4, 0, 3])
    if discrete:
        found, expected = scatter_of(x, labels, 2, cells=3), scatter_of(x[:, kept], labels, 2)
    else:
        y = x[:, :2] ** 2
        found, expected = regression_scatter(x, y, cells=3), regression_scatter(x[:, kept], y)
    assert_equal(found.select(kept), expected)


@given(
    channels=st.integers(1, 4),
    cells=st.integers(1, 9),
    samples=st.integers(1, 12),
    seed=st.integers(0, 1000),
)
def test_pointwise_takes_each_tap_as_a_sample(
    channels: int, cells: int, samples: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, channels, cells, generator=generator).double()
    labels = torch.randint(0, 3, (samples,), generator=generator)
    every = x.transpose(1, 2).flatten(0, 1)  # (N·cells, C), each of weight 1/cells
    w = torch.full((len(every),), 1 / cells, dtype=torch.float64)
    found = scatter_of(x.flatten(1), labels, 3, cells=cells).pointwise()
    assert_close(found, scatter_of(every, labels.repeat_interleave(cells), 3, w), rtol=1e-12)


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    features=st.integers(1, 7),
    classes=st.integers(1, 5),
    seed=st.integers(0, 1000),
    discrete=st.booleans(),
)
def test_parts_add_up(
    sizes: list[int], features: int, classes: int, seed: int, discrete: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(sum(sizes), features, generator=generator).double() * 10 + 3
    labels = torch.randint(0, classes, (len(x),), generator=generator)
    y = torch.randn(len(x), classes, generator=generator) * 4

    def scatter(*part: Tensor) -> Scatter:
        rows, label, target = part
        return scatter_of(rows, label, classes) if discrete else regression_scatter(rows, target)

    whole = scatter(x, labels, y)
    first, *rest = (
        scatter(*part)
        for part in zip(x.split(sizes), labels.split(sizes), y.split(sizes), strict=True)
    )
    before = first.gram.clone()
    assert_close(first.merge(*rest), whole, rtol=1e-12)
    assert torch.equal(first.gram, before)  # merging leaves the parts alone
    assert torch.linalg.eigvalsh(whole.S).min() > -1e-9 * float(whole.gram.trace())


def test_merging_unlike_scatters_says_both_forms() -> None:
    with pytest.raises(PlanError, match=r"\(3, 5, 1, True\) and \(3, 4, 1, True\)"):
        Scatter.zeros(5, 3).merge(Scatter.zeros(4, 3))
    with pytest.raises(PlanError, match="same network with the same teacher"):
        Scatter.zeros(5, 3).merge(Scatter.zeros(5, 3), Scatter.zeros(5, 3, discrete=False))
    with pytest.raises(PlanError, match="same network"):
        Scatter.zeros(4, 3).merge(Scatter.zeros(4, 3, cells=2))


def test_moving_to_a_device_keeps_the_sums() -> None:
    x, labels = labelled([4, 6], 6)
    scatter = scatter_of(x, labels, 2, cells=2)
    assert_equal(scatter.to("cpu"), scatter)
    assert scatter.to("meta").gram.device.type == "meta"
    assert scatter.to("meta").cells == 2
