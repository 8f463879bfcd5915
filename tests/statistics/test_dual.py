"""The kernel form against its primal: M = XXᵀ + ρI, with X (F×B) written out batch by batch."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prunus.statistics import Dual, collect
from prunus.statistics.dual import RIDGE
from tests.graph.nets import CLASSES
from tests.statistics.oracles import batches64, inputs_of, ready, samples_of, teacher


def standardised(x: Tensor) -> Tensor:
    """X (F, B) of flattened features x (B, F): mean 0, variance 1, constant ones 0."""
    X = torch.zeros(x.shape[1], len(x), dtype=torch.float64)
    for f, column in enumerate(x.double().T):
        if float(column.max() - column.min()) > 1e-9 * float(column.abs().max()):
            X[f] = (column - column.mean()) / column.std(correction=0)
    return X


def primal(x: Tensor, Y: Tensor, channels: int) -> tuple[float, Tensor, Tensor]:
    """Return DI, ΔDI of each channel by leaving it out, and 2ρ‖G_P‖² of each."""
    X = standardised(x)
    rho = RIDGE * float(X.square().sum()) / len(x) or 1.0

    def information(X: Tensor) -> tuple[float, Tensor]:
        M = X @ X.T + rho * torch.eye(len(X), dtype=torch.float64)
        D = X @ Y.T
        G = torch.linalg.solve(M, D)
        return float((D * G).sum()), G

    DI, G = information(X)
    cells = len(X) // channels
    removal, slope = [], []
    for channel in range(channels):
        own = torch.arange(len(X)) // cells == channel
        removal.append(DI - information(X[~own])[0])
        slope.append(2 * rho * float(G[own].square().sum()))
    return DI, torch.tensor(removal).double(), torch.tensor(slope).double()


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


@given(
    batch=st.integers(2, 12),
    channels=st.integers(1, 4),
    cells=st.integers(1, 5),
    classes=st.integers(2, 4),
    seed=st.integers(0, 1000),
    discrete=st.booleans(),
)
def test_one_batch(
    batch: int, channels: int, cells: int, classes: int, seed: int, discrete: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, channels * cells, generator=generator)
    x[:, 0] = 3.25  # constant
    x[:, -1] = x[:, channels * cells // 2]  # a copy
    labels = torch.randint(0, classes, (batch,), generator=generator)
    y = torch.nn.functional.one_hot(labels, classes).double()
    Y = torch.zeros_like(y.T)
    if discrete:
        present = labels.unique()
        Y[present] = teacher(labels, classes)[present]
    else:
        y = torch.randn(batch, classes, generator=generator).double() + 2
        Y = (y - y.mean(0)).T
    dual = Dual.zeros(channels)
    dual.add_(x, y, discrete=discrete)
    DI, removal, slope = primal(x, Y, channels)
    assert dual.information == pytest.approx(DI, rel=1e-6, abs=1e-7)
    assert dual.trace_YY == pytest.approx(float(Y.square().sum()))
    assert (dual.batches, dual.samples) == (1, batch)
    close(dual.removal, removal)
    close(dual.slope, slope)
    assert dual.information <= dual.trace_YY + 1e-9


@pytest.mark.parametrize("sampling", ["dual", "dual:2"])
@pytest.mark.parametrize("net", ["plain", "flatten", "token"])
def test_collected_batch_by_batch(net: str, sampling: str) -> None:
    model, groups = ready(net)
    loader = batches64(3, 6)
    statistics = collect(model, loader, groups, sampling=sampling, blocks=2)
    assert (statistics.blocks, statistics.sampling) == (2, sampling)
    assert set(statistics.duals) == set(groups.consumers)
    for name, dual in statistics.duals.items():
        module, consumer = model.get_submodule(name), groups.consumers[name]
        found = []
        for x, (_, labels) in zip(inputs_of(model, loader, name), loader, strict=True):
            flat = samples_of(x, module, sampling, consumer)[0].mean(1)  # tokens: their mean
            present = [k for k in range(CLASSES) if (labels == k).any()]
            Y = teacher(labels, CLASSES)[present]
            channels = flat.shape[1] if flat.shape[1] == x.shape[-1] else x.shape[1]
            found.append((*primal(flat, Y, channels), float(Y.square().sum())))
        DI, removal, slope, trace = zip(*found, strict=True)
        assert (dual.batches, dual.samples) == (3, 18)
        assert dual.information == pytest.approx(math.fsum(DI), rel=1e-6)
        assert dual.trace_YY == pytest.approx(math.fsum(trace))
        close(dual.removal, torch.stack(removal).sum(0))
        close(dual.slope, torch.stack(slope).sum(0))
        assert statistics[name].samples == 0


def same(one: Dual, other: Dual) -> None:
    assert (one.batches, one.samples) == (other.batches, other.samples)
    assert one.information == pytest.approx(other.information, rel=1e-12)
    assert one.trace_YY == pytest.approx(other.trace_YY, rel=1e-12)
    torch.testing.assert_close(one.removal, other.removal, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(one.slope, other.slope, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("teacher", [CLASSES, "logits", "targets"])
def test_parts_add_up(teacher: int | str) -> None:
    model, groups = ready("plain")
    loader = batches64(4, 6)
    if teacher == "targets":
        loader = [(x, x[:, :2]) for x, _ in loader]  # maps: their means teach
    options = {"teacher": teacher, "sampling": "dual"}
    whole = collect(model, loader, groups, blocks=3, **options)
    uneven = [collect(model, part, groups, **options) for part in (loader[:1], loader[1:])]
    merged = uneven[0].merge(uneven[1])
    assert (whole.blocks, merged.blocks, merged.images) == (3, 3, 24)
    for name, dual in whole.duals.items():
        same(merged.duals[name], dual)
    rest = collect(model, loader[:2] + loader[3:], groups, **options)
    left = whole.leave_out(2)
    assert left.images == 18
    for name, dual in left.duals.items():
        same(dual, rest.duals[name])
    if teacher == "targets":
        means = [(x, y.mean((2, 3))) for x, y in loader]
        for name, dual in collect(model, means, groups, **options).duals.items():
            same(dual, whole.duals[name])
