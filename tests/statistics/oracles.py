"""What statistics should be, written slowly from the definitions."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.graph import Consumer, Groups, find_groups
from prunus.statistics import Scatter
from tests.graph.nets import batches, build, images

Loader = list[tuple[Tensor, Tensor]]

FIELDS = ("gram", "total", "cross", "teacher_total", "teacher_gram", "weight")


@cache
def ready(net: str) -> tuple[nn.Module, Groups]:
    """Return a network in float64 and its groups; tests leave it as it is."""
    model = build(net).double()
    return model, find_groups(model, images(1).double())


def batches64(count: int = 3, size: int = 8, seed: int = 0) -> Loader:
    """Return labelled images in float64."""
    return [(x.double(), y) for x, y in batches(count, size, seed)]


def scatter_of(
    x: Tensor, labels: Tensor, classes: int, weights: Tensor | None = None, cells: int = 1
) -> Scatter:
    """Sum samples x (N, F) with class labels (N,) one by one."""
    scatter = Scatter.zeros(x.shape[1], classes, cells=cells)
    for n, (row, label) in enumerate(zip(x.double(), labels.tolist(), strict=True)):
        w = 1.0 if weights is None else float(weights[n])
        scatter.gram += w * torch.outer(row, row)
        scatter.total += w * row
        scatter.cross[label] += w * row
        scatter.teacher_total[label] += w
        scatter.weight += w
    return scatter


def regression_scatter(
    x: Tensor, y: Tensor, weights: Tensor | None = None, cells: int = 1
) -> Scatter:
    """Sum samples x (N, F) with targets y (N, q)."""
    x, y = x.double(), y.double()
    w = x.new_ones(len(x)) if weights is None else weights.double()
    return Scatter(
        gram=torch.einsum("n,ni,nj->ij", w, x, x),
        total=torch.einsum("n,ni->i", w, x),
        cross=torch.einsum("n,nq,ni->qi", w, y, x),
        teacher_total=torch.einsum("n,nq->q", w, y),
        teacher_gram=torch.einsum("n,nq,nr->qr", w, y, y),
        weight=w.sum(),
        cells=cells,
    )


def teacher(labels: Tensor, classes: int) -> Tensor:
    """Y (L, N): 1/√N_l where a sample is of class l, then centred."""
    Y = torch.zeros(classes, len(labels), dtype=torch.float64)
    for n, label in enumerate(labels.tolist()):
        Y[label, n] = 1 / math.sqrt(int((labels == label).sum()))
    return Y - Y.mean(1, keepdim=True)


def weighted(x: Tensor, labels: Tensor, classes: int, w: Tensor) -> tuple[Tensor, Tensor]:
    """X (F, N) and Y (L, N) of samples with weights: centred by weighted means, times √w."""
    W = w.sum()
    mean = (w[:, None] * x).sum(0) / W
    Y = torch.zeros(classes, len(x), dtype=torch.float64)
    for n, label in enumerate(labels.tolist()):
        Y[label, n] = 1 / math.sqrt(float(w[labels == label].sum()))
    Y = Y - (Y * w).sum(1, keepdim=True) / W
    return (x - mean).T * w.sqrt(), Y * w.sqrt()


def inputs_of(model: nn.Module, loader: Loader, name: str) -> list[Tensor]:
    """Return what module `name` reads, a tensor a batch."""
    seen: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(
        lambda _, args: seen.append(args[0].clone())
    )
    with torch.no_grad():
        for x, _ in loader:
            model(x)
    handle.remove()
    return seen


def gathered(model: nn.Module, loader: Loader, name: str) -> tuple[Tensor, Tensor]:
    """Return every sample (N, F) that module `name` reads, by pixel, and its label (N,)."""
    return drawn(model, loader, name, "pixel")


def drawn(
    model: nn.Module, loader: Loader, name: str, sampling: str, consumer: Consumer | None = None
) -> tuple[Tensor, Tensor]:
    """Return every sample (N, F) of module `name` and its label or target."""
    module = model.get_submodule(name)
    rows, labels = [], []
    for x, (_, y) in zip(inputs_of(model, loader, name), loader, strict=True):
        samples, _ = samples_of(x, module, sampling, consumer)
        rows.append(samples.flatten(0, 1))
        labels.append(y.repeat_interleave(samples.shape[1], dim=0))
    return torch.cat(rows), torch.cat(labels)


def samples_of(
    x: Tensor, module: nn.Module, sampling: str, consumer: Consumer | None = None
) -> tuple[Tensor, tuple[int, ...]]:
    """Return the samples (B, P, F) of an input x, and the grid they come from."""
    kind, _, grid = sampling.partition(":")
    if isinstance(module, nn.Linear):
        if consumer is not None and consumer.positions.shape[1] > 1:
            cells = torch.stack([x[:, torch.from_numpy(p)] for p in consumer.positions], 1)
            if kind in ("flatten", "dual"):
                return cells.flatten(1)[:, None], ()
            return cells.transpose(1, 2), ()
        if consumer is not None:
            x = x[..., torch.from_numpy(consumer.positions[:, 0])]
        return x.reshape(len(x), -1, x.shape[-1]), ()
    if grid:
        pool = {3: F.adaptive_avg_pool1d, 4: F.adaptive_avg_pool2d, 5: F.adaptive_avg_pool3d}
        x = pool[x.dim()](x, int(grid))
    if kind in ("flatten", "dual"):
        return x.flatten(1)[:, None], ()
    if kind == "patch" and hasattr(module, "output_padding") and not module.transposed:
        return unfolded(x, module)
    return x.flatten(2).transpose(1, 2), tuple(x.shape[2:])


def unfolded(x: Tensor, module: nn.Module) -> tuple[Tensor, tuple[int, ...]]:
    """Return the patches (B, P, C·taps) that a convolution of one or two axes reads."""
    flat = x.dim() == 3
    if flat:
        x = x[:, :, None]

    def pair(value: tuple[int, ...], one: int) -> tuple[int, int]:
        return (one, value[0]) if flat else (value[0], value[1])

    kernel, stride = pair(module.kernel_size, 1), pair(module.stride, 1)
    dilation = pair(module.dilation, 1)
    if module.padding == "same":
        spare = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        before = [s // 2 for s in spare]
        after = [s - b for s, b in zip(spare, before, strict=True)]
    else:
        padding = (0,) * len(module.kernel_size) if module.padding == "valid" else module.padding
        before = after = list(pair(padding, 0))
    pads = [before[1], after[1], before[0], after[0]]
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = F.pad(x, pads, mode=mode)
    size = [
        (n - d * (k - 1) - 1) // s + 1
        for n, d, k, s in zip(x.shape[2:], dilation, kernel, stride, strict=True)
    ]
    patches = F.unfold(x, kernel, dilation=dilation, stride=stride).transpose(1, 2)
    return patches, tuple(size[1:] if flat else size)


def cells_of(module: nn.Module, x: Tensor, sampling: str, consumer: Consumer) -> int:
    """Return how many features of a scatter each channel has."""
    kind, _, grid = sampling.partition(":")
    if isinstance(module, nn.Linear):
        return consumer.positions.shape[1] if kind == "flatten" else 1
    if kind == "flatten":
        return int(grid) ** (x.dim() - 2) if grid else math.prod(x.shape[2:])
    if kind == "patch" and not module.transposed:
        return math.prod(module.kernel_size)
    return 1


def assert_close(scatter: Scatter, expected: Scatter, rtol: float = 1e-10) -> None:
    """Compare all sums, each against its own largest entry."""
    assert scatter.cells == expected.cells
    for name in FIELDS:
        found, wanted = getattr(scatter, name), getattr(expected, name)
        if wanted is None:
            assert found is None, name
            continue
        assert found.dtype == torch.float64
        atol = rtol * float(wanted.abs().max()) if wanted.numel() else 0.0
        torch.testing.assert_close(found, wanted, rtol=rtol, atol=atol, msg=lambda m, n=name: n + m)


def assert_equal(scatter: Scatter, expected: Scatter) -> None:
    """Compare all sums, byte by byte."""
    for name in FIELDS:
        found, wanted = getattr(scatter, name), getattr(expected, name)
        assert (found is None) == (wanted is None)
        assert wanted is None or torch.equal(found, wanted), name
