"""Adding one batch to a scatter: products in the activations' precision, sums in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from prunus.statistics.scatter import Scatter

__all__ = ["add_features", "add_teacher"]

#: Share of its second moment that a feature's variance must be for float32 products about zero
#: to keep four digits of it; below it they are taken about the batch's mean.
SPREAD = 1e-3

#: Rows from which half of a symmetric product is worth saving.
SPLIT = 256


def add_features(
    scatter: Scatter, x: Tensor, weight: Tensor | None = None, centre: bool | None = None
) -> tuple[Tensor, bool]:
    """Add the features x (B, F, P) of a batch, with one weight per image, (B,).

    `centre` says whether to multiply about the batch's mean; None decides it from the data.
    Returns each image's sum over its samples, (B, F), and whether products were taken about the
    mean.
    """
    batch, _, positions = x.shape
    like = scatter.gram
    sums = x.sum(2).to(like)
    total = sums.sum(0) if weight is None else weight @ sums
    samples = positions * (batch if weight is None else float(weight.sum()))
    gram = None if centre else _gram(x, sums, weight).to(like)
    if positions == 1:
        centre = False
    elif gram is not None and centre is None:
        second, mean = gram.diagonal(), total / max(samples, 1e-300)
        centre = bool((second - samples * mean.square() < SPREAD * second).any())
    if centre or gram is None:
        sums, gram = _about(x, total / max(samples, 1e-300), weight, samples, like)
        total = sums.sum(0) if weight is None else weight @ sums
    scatter.gram += gram
    scatter.total += total
    scatter.weight += samples
    return sums, bool(centre)


def _about(
    x: Tensor, mean: Tensor, weight: Tensor | None, samples: float, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Return each image's sums (B, F) and the Gram matrix of x, worked out about its mean."""
    offset = mean.to(x)
    x = x - offset[:, None]
    rest, offset = x.sum(2).to(like), offset.to(like)
    cross = torch.outer(rest.sum(0) if weight is None else weight @ rest, offset)
    gram = _gram(x, rest, weight).to(like) + cross + cross.T
    gram += samples * torch.outer(offset, offset)
    return rest + x.shape[2] * offset, gram


def add_teacher(
    scatter: Scatter, y: Tensor, sums: Tensor, weight: Tensor | None = None, positions: int = 1
) -> None:
    """Add the teacher's side of a batch whose features were added.

    y (B, q) holds for all `positions` samples of an image, whose sum is `sums` (B, F); a map
    y (B, q, P) goes with the samples themselves, `sums` (B, F, P).
    """
    if not len(scatter.teacher_total):  # the width of the network's own output is known by now
        scatter.teacher_total = y.new_zeros(y.shape[1])
        scatter.cross = y.new_zeros(y.shape[1], scatter.features)
        if scatter.teacher_gram is not None:
            scatter.teacher_gram = y.new_zeros(y.shape[1], y.shape[1])
    taught = y if weight is None else y * weight.view(-1, *[1] * (y.dim() - 1))
    if y.dim() > 2:
        taught, y = (t.transpose(0, 1).flatten(1).T for t in (taught, y))  # (B·P, q)
        sums, positions = sums.transpose(0, 1).flatten(1).T, 1
    scatter.cross += taught.T @ sums
    scatter.teacher_total += positions * taught.sum(0)
    if scatter.teacher_gram is not None:
        scatter.teacher_gram += positions * (taught.T @ y)


def _gram(x: Tensor, sums: Tensor, weight: Tensor | None) -> Tensor:
    """Return Σ w x xᵀ (F, F) of x (B, F, P); with one position that is Σ w s sᵀ in float64."""
    batch, features, positions = x.shape
    if positions == 1:
        return sums.T @ (sums if weight is None else sums * weight[:, None])
    w = x.new_ones(batch) if weight is None else weight.to(x)
    if features <= positions:
        products = torch.bmm(x, x.transpose(1, 2)).view(batch, -1)
        return (w @ products).view(features, features)  # products.sum(0) takes three times as long
    flat = x if weight is None else x * w.sqrt()[:, None, None]
    return _outer_square(flat.transpose(0, 1).reshape(features, -1))


def _outer_square(rows: Tensor) -> Tensor:
    """Return rows·rowsᵀ, computing each block below the diagonal from the one above."""
    if len(rows) < SPLIT:
        return rows @ rows.T
    half = len(rows) // 2
    above, below = rows[:half], rows[half:]
    square = rows.new_empty(len(rows), len(rows))
    square[:half, :half] = _outer_square(above)
    square[half:, half:] = _outer_square(below)
    torch.mm(above, below.T, out=square[:half, half:])
    square[half:, :half] = square[:half, half:].T
    return square
