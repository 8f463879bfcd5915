"""The scatter's matrices against X and Y written out."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prunus.core.errors import PlanError
from prunus.statistics import Scatter


def scatter_of(x: Tensor, labels: Tensor, classes: int) -> Scatter:
    """Sum samples x (N, F) one by one."""
    scatter = Scatter.zeros(x.shape[1], classes)
    for row, label in zip(x.double(), labels.tolist(), strict=True):
        scatter.gram += torch.outer(row, row)
        scatter.class_total[label] += row
        scatter.class_count[label] += 1
    return scatter


def teacher(labels: Tensor, classes: int) -> Tensor:
    """Y (L, N): 1/√N_l where a sample is of class l, then centred."""
    Y = torch.zeros(classes, len(labels), dtype=torch.float64)
    for n, label in enumerate(labels.tolist()):
        Y[label, n] = 1 / math.sqrt(int((labels == label).sum()))
    return Y - Y.mean(1, keepdim=True)


CASES = {
    "balanced": ([10, 10, 10], 6),
    "unbalanced": ([3, 20, 7], 6),
    "two classes": ([9, 4], 5),
    "more classes than features": ([4] * 9, 3),
}


@pytest.mark.parametrize("case", CASES)
def test_matrices_are_those_of_X_and_Y(case: str) -> None:
    counts, features = CASES[case]
    torch.manual_seed(0)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    x = torch.randn(len(labels), features, dtype=torch.float64) + labels[:, None] * 0.3
    x[:, -1] = 2.5  # constant
    x[:, -2] = x[:, 0]  # duplicated
    scatter = scatter_of(x, labels, len(counts))

    X = (x - x.mean(0)).T  # (F, N)
    Y = teacher(labels, len(counts))
    assert torch.trace(Y @ Y.T).item() == pytest.approx(len(counts) - 1)
    torch.testing.assert_close(scatter.mean, x.mean(0))
    torch.testing.assert_close(scatter.S, X @ X.T, atol=1e-10, rtol=0)
    torch.testing.assert_close(scatter.D, X @ Y.T, atol=1e-10, rtol=0)
    torch.testing.assert_close(scatter.S_B, X @ Y.T @ Y @ X.T, atol=1e-10, rtol=0)
    between = torch.zeros(features, features, dtype=torch.float64)
    for label, count in enumerate(counts):
        shift = x[labels == label].mean(0) - x.mean(0)
        between += count * torch.outer(shift, shift)
    torch.testing.assert_close(scatter.S_B, between, atol=1e-10, rtol=0)
    assert scatter.class_count.tolist() == counts
    assert scatter.samples == len(labels)
    assert scatter.constant.tolist() == [False] * (features - 1) + [True]
    assert scatter.scale[-1] == 1
    torch.testing.assert_close(scatter.scale[:-1], x[:, :-1].std(0, correction=0))


def test_a_class_without_samples_gives_zero() -> None:
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).double()
    scatter = scatter_of(x, torch.tensor([0, 0, 0, 2, 2, 2]), 3)
    assert scatter.D[:, 1].abs().max() == 0


@given(
    first=st.integers(1, 20),
    second=st.integers(1, 20),
    features=st.integers(1, 7),
    classes=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_halves_add_up(first: int, second: int, features: int, classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(first + second, features, generator=generator).double() * 10 + 3
    labels = torch.randint(0, classes, (first + second,), generator=generator)
    whole = scatter_of(x, labels, classes)
    merged = scatter_of(x[:first], labels[:first], classes).merge(
        scatter_of(x[first:], labels[first:], classes)
    )
    for name in ("gram", "class_total", "class_count"):
        torch.testing.assert_close(getattr(merged, name), getattr(whole, name), rtol=1e-12, atol=0)
    assert torch.linalg.eigvalsh(whole.S).min() > -1e-9 * float(whole.gram.trace())


def test_merging_unlike_scatters_says_both_shapes() -> None:
    with pytest.raises(PlanError, match=r"\(3, 5\) and \(3, 4\)"):
        Scatter.zeros(5, 3).merge(Scatter.zeros(4, 3))
