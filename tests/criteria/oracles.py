"""Discriminant information written slowly from the definitions, with X and Y in hand."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from prunus.graph import Groups
from prunus.statistics import Scatter
from tests.statistics.oracles import scatter_of, teacher

RIDGE = 1e-2


def correlated(
    seed: int, samples: int = 80, features: int = 9, classes: int = 4
) -> tuple[Tensor, Tensor]:
    """Return correlated features (N, F) of many scales, whose means depend on the labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % classes
    mix = torch.randn(features, features, generator=generator)
    means = torch.randn(classes, features, generator=generator)
    x = torch.randn(samples, features, generator=generator) @ mix + means[labels]
    return (x * torch.rand(features, generator=generator) * 5).double(), labels


#: Samples per class, features, and the modification of the last features.
CASES = {
    "balanced": ([20, 20, 20], 6, ""),
    "unbalanced": ([6, 40, 14], 6, ""),
    "two classes": ([25, 11], 5, ""),
    "more classes than channels": ([8] * 9, 4, ""),
    "a constant channel": ([15, 9, 20], 6, "constant"),
    "a duplicated channel": ([15, 9, 20], 6, "duplicate"),
}


def case(name: str) -> tuple[Tensor, Tensor, int]:
    """Return x (N, F), labels (N,) and the number of classes of one of `CASES`."""
    counts, features, trouble = CASES[name]
    generator = torch.Generator().manual_seed(len(name))
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    mix = torch.randn(features, features, generator=generator)
    means = torch.randn(len(counts), features, generator=generator)
    x = (torch.randn(len(labels), features, generator=generator) @ mix + means[labels]).double()
    if trouble == "constant":
        x[:, -1] = 2.5
    if trouble == "duplicate":
        x[:, -1] = x[:, 0]
    return x, labels, len(counts)


def matrices(name: str) -> tuple[Scatter, Tensor, Tensor, float]:
    """Return the scatter of a case, with X (F, N), Y (L, N) and ρ written out."""
    x, labels, classes = case(name)
    scatter = scatter_of(x, labels, classes)
    return scatter, standardised(x), teacher(labels, classes), RIDGE * len(x)


def standardised(x: Tensor) -> Tensor:
    """Return X (F, N): centred, of variance 1, or 0 where a feature is constant."""
    X = x - x.mean(0)
    scale = X.square().mean(0).sqrt()
    return torch.where(scale > 1e-9, X / scale.clamp(min=1e-300), 0.0).T


def discriminant_information(X: Tensor, Y: Tensor, rho: float) -> float:
    """DI = tr(M⁻¹ S_B), from the definition."""
    if not len(X):
        return 0.0
    M = X @ X.T + rho * torch.eye(len(X), dtype=torch.float64)
    D = X @ Y.T
    return float(torch.trace(torch.linalg.inv(M) @ D @ D.T))


def without(X: Tensor, gone: list[int]) -> Tensor:
    """Return the rows of X but those in `gone`."""
    return X[[i for i in range(len(X)) if i not in gone]]


def gain_behind(model: nn.Module, groups: Groups, consumer: str) -> Tensor:
    """γ/σ of the BatchNorm behind a consumer, from what the norm does to 0 and 1; ones without."""
    name = groups.normalizer.get(consumer)
    if name is None:
        return torch.ones((), dtype=torch.float64)
    norm = copy.deepcopy(model.get_submodule(name)).double().eval()
    zero = torch.zeros(1, norm.num_features, 1, 1, dtype=torch.float64)
    with torch.no_grad():
        return (norm(zero + 1) - norm(zero)).flatten()
