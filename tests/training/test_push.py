"""Each term of the push from its definition, with explicit scatter matrices."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prunus.training import PushConfig
from prunus.training.local import explained_share, teacher_matrix
from prunus.training.push import (
    FLOOR,
    alignment_loss,
    covariance_loss,
    factors,
    push_terms,
    separation_loss,
    solve_within,
)

LABELS = {
    "balanced": [0, 1, 2] * 6,
    "unbalanced": [0] * 9 + [1] * 6 + [2] * 3,
    "a class is missing": [0] * 5 + [3] * 7 + [1] * 6,
    "a class of one image": [4] + [0] * 8 + [1] * 9,
    "two classes": [5] * 10 + [1] * 8,
    "a class an image": list(range(18)),
}


def features(width: int, batch: int = 18, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return 2 + torch.randn(batch, width, generator=generator, dtype=torch.float64) @ mix


def scatters(x: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Σ_a, Σ_w and Σ_b per image, image by image (eq. 4.2-4.4)."""
    B, d = x.shape
    total, within = np.zeros((d, d)), np.zeros((d, d))
    for n in range(B):
        own = (x[n] - x[labels == labels[n]].mean(0)).numpy()
        whole = (x[n] - x.mean(0)).numpy()
        within += np.outer(own, own) / B
        total += np.outer(whole, whole) / B
    return total, within, total - within


def oracle(x: Tensor, labels: Tensor, ridge: float) -> dict[str, float]:
    d = x.shape[1]
    total, within, between = scatters(x, labels)
    spectrum = np.linalg.eigvalsh(within)
    c = ridge * (spectrum**2).sum() / spectrum.sum() if spectrum.sum() > 1e-20 else 0.0
    c += 1e-12 * np.trace(between) / (d * len(set(labels.tolist())))
    ridged = within + c * np.eye(d)
    v = scipy.linalg.eigh(between, ridged, eigvals_only=True)
    N = min(len(set(labels.tolist())) - 1, d)
    A = np.linalg.inv(ridged) @ between
    cov = align = 0.0
    for i in range(d):
        for j in range(d):
            if i != j:
                cov += abs(total[i, j])
                align += abs(A[i, j])
    return {
        "lda": 1 / (np.sort(v)[-N:].sum() / N + FLOOR),
        "cov": cov / max(d * (d - 1), 1),
        "align": align / max(d - 1, 1) / (v.sum() + N * FLOOR),
    }


@pytest.mark.parametrize("ridge", [1e-3, 1.0])
@pytest.mark.parametrize("width", [1, 2, 5, 30])
@pytest.mark.parametrize("name", [name for name in LABELS if name != "a class an image"])
def test_the_terms_are_their_definitions(name: str, width: int, ridge: float) -> None:
    x, y = features(width), torch.tensor(LABELS[name])
    terms = push_terms(x, y, PushConfig(ridge=ridge))
    assert terms is not None
    expected = oracle(x, y, ridge)
    assert list(terms) == list(expected)
    for key, value in expected.items():
        assert float(terms[key]) == pytest.approx(value, rel=1e-6, abs=1e-12), key


def test_the_factors_are_the_scatter_matrices() -> None:
    x, y = features(5), torch.tensor(LABELS["unbalanced"])
    for factor, matrix in zip(factors(x, y), scatters(x, y), strict=True):
        np.testing.assert_allclose((factor.T @ factor).numpy(), matrix, rtol=1e-9, atol=1e-9)
    assert factors(x, y).M.shape == (3, 5)


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(3, 20),
    width=st.integers(1, 24),
    classes=st.integers(2, 6),
    ridge=st.floats(1e-3, 10),
    seed=st.integers(0, 99),
)
def test_dual_and_primal_agree(
    batch: int, width: int, classes: int, ridge: float, seed: int
) -> None:
    x, y = features(width, batch, seed), torch.arange(batch) % classes
    _, W, M = factors(x, y)
    if not W.abs().max() > 1e-9:  # a class an image: no scatter within
        return
    found = [solve_within(W, M, ridge, dual=dual) for dual in (False, True)]
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("form", ["lda", "di"])
@pytest.mark.parametrize("width", [3, 9])
def test_gradients_are_finite_differences(width: int, form: str) -> None:
    x = features(width, batch=8).requires_grad_()
    y = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2])
    config = PushConfig(form=form, ridge=0.5)  # type: ignore[arg-type]

    def total(z: Tensor) -> Tensor:
        terms = push_terms(z, y, config)
        assert terms is not None
        return torch.stack(list(terms.values()))

    assert torch.autograd.gradcheck(total, (x,), atol=1e-6)


def values(x: Tensor, y: Tensor) -> dict[str, float]:
    terms = push_terms(x, y, PushConfig())
    assert terms is not None
    return {name: float(term) for name, term in terms.items()}


@pytest.mark.parametrize("width", [4, 30])
def test_more_of_the_same_images_change_nothing(width: int) -> None:
    x, y = features(width), torch.tensor(LABELS["unbalanced"])
    order = torch.randperm(54, generator=torch.Generator().manual_seed(0))
    found = values(x.repeat(3, 1)[order], y.repeat(3)[order])
    assert found == pytest.approx(values(x, y), rel=1e-7)


@pytest.mark.parametrize("width", [4, 30])
def test_width_changes_no_discriminant_and_only_thins_the_means(width: int) -> None:
    x, y = features(width), torch.tensor(LABELS["unbalanced"])
    expected = values(x, y)
    dead = values(torch.cat([x, torch.zeros(18, width)], 1), y)
    pairs = (2 * width - 1) * 2 / (width - 1)  # off-diagonal entries, of twice the width
    thinner = (2 * width - 1) / (width - 1)
    assert dead["lda"] == pytest.approx(expected["lda"], rel=1e-7)
    assert dead["cov"] == pytest.approx(expected["cov"] / pairs, rel=1e-7)
    assert dead["align"] == pytest.approx(expected["align"] / thinner, rel=1e-6)
    twice = values(torch.cat([x, x], 1), y)
    assert twice["lda"] == pytest.approx(expected["lda"], rel=1e-6)


def test_independent_neurons_cost_the_same_at_any_width() -> None:
    y = torch.arange(4000) % 4
    costs = []
    for width in (8, 32):
        x = torch.randn(4000, width, generator=torch.Generator().manual_seed(width)).double()
        costs.append(values(x, y)["cov"])
    assert costs[1] == pytest.approx(costs[0], rel=0.25)


def test_separation_and_alignment_do_not_know_the_scale_and_covariance_does() -> None:
    x, y = features(6), torch.tensor(LABELS["balanced"])
    one, seven = values(x, y), values(-7 * x, y)
    assert seven["lda"] == pytest.approx(one["lda"], rel=1e-7)
    assert seven["align"] == pytest.approx(one["align"], rel=1e-7)
    assert seven["cov"] == pytest.approx(49 * one["cov"], rel=1e-7)


def test_a_direction_of_one_neuron_is_aligned_and_a_turned_one_is_not() -> None:
    y = torch.arange(64) % 2
    noise = torch.tensor([1.0, 1, -1, -1]).repeat(16).double()
    other = torch.tensor([1.0, 1, -1, -1, -1, -1, 1, 1]).repeat(8).double()
    x = torch.stack([2 * y + 0.1 * noise, other], 1)  # one tells the classes apart, one does not
    turned = x @ torch.tensor([[1.0, 1.0], [1.0, -1.0]]).double() / 2**0.5
    found = []
    for each in (x, turned):
        T, W, M = factors(each, y)
        G = solve_within(W, M, 1e-3)
        found.append([float(f) for f in (separation_loss(M, G), covariance_loss(T))])
        found[-1].append(float(alignment_loss(M, G)))
    assert found[0][1:] == pytest.approx([0, 0], abs=1e-12)
    assert found[1][2] > 0.5
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-6)  # turned, not moved closer


def test_di_is_the_share_left_unexplained() -> None:
    x, y = features(6), torch.tensor(LABELS["unbalanced"])
    terms = push_terms(x, y, PushConfig(form="di", ridge=0.3, cov=0, align=0))
    assert terms is not None
    assert list(terms) == ["di"]
    assert float(terms["di"]) == float(1 - explained_share(x, teacher_matrix(y), 0.3))
    assert 0 < float(terms["di"]) < 1


@pytest.mark.parametrize("form", ["lda", "di"])
@pytest.mark.parametrize("width", [5, 40])
@pytest.mark.parametrize("value", [0.0, 3.0, 1e4])
def test_a_dead_layer_has_finite_cost_and_no_gradient(value: float, width: int, form: str) -> None:
    x = torch.full((18, width), value, requires_grad=True)
    config = PushConfig(form=form)  # type: ignore[arg-type]
    terms = push_terms(x, torch.tensor(LABELS["balanced"]), config)
    assert terms is not None
    assert all(torch.isfinite(term) for term in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().max() < 1e-6


@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_dead_layers_and_odd_batches_stay_finite(name: str, dtype: torch.dtype) -> None:
    for width in (6, 40):
        x = features(width).relu().to(dtype)
        x[:, ::2] = 0
        x.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            terms = push_terms(x, torch.tensor(LABELS[name]), PushConfig())
        assert terms is not None
        assert {term.dtype for term in terms.values()} == {torch.float64}
        torch.stack(list(terms.values())).sum().backward()
        assert torch.isfinite(x.grad).all()


def test_one_class_has_nothing_to_separate() -> None:
    assert push_terms(features(4), torch.full((18,), 2), PushConfig()) is None


def test_terms_of_no_weight_and_alignment_of_wide_layers_are_left_out() -> None:
    x, y = features(6), torch.tensor(LABELS["balanced"])
    for config, names in [
        (PushConfig(lda=0), ["cov", "align"]),
        (PushConfig(cov=0), ["lda", "align"]),
        (PushConfig(align=0), ["lda", "cov"]),
        (PushConfig(align_limit=5), ["lda", "cov"]),
        (PushConfig(align_limit=6), ["lda", "cov", "align"]),
        (PushConfig(form="di"), ["di", "cov", "align"]),
        (PushConfig(lda=0, form="di", cov=0, align=0), []),
    ]:
        terms = push_terms(x, y, config)
        assert terms is not None
        assert list(terms) == names
