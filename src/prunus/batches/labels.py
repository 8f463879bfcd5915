"""Which labels match which outputs: the one place that decides it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from prunus.core import DataError

__all__ = [
    "IGNORED",
    "Matched",
    "are_shares",
    "check_range",
    "class_axis",
    "class_labels",
    "finest",
    "match",
]

#: The label of a position that is not to be counted, as in PyTorch's cross-entropy.
IGNORED = -100

#: What an output is compared with: one class, the share of every class, or numbers.
Kind = Literal["classes", "shares", "values"]


@dataclass(frozen=True, eq=False)
class Matched:
    """An output and its labels, in shapes that fit each other.

    Shapes: for `classes` scores (N, L) and targets int64 (N,), N all examples, or all their
    positions, that are not ignored; for `shares` (smoothed labels) targets (N, L) in the type of
    the scores; for `values` both of one shape.
    """

    kind: Kind
    scores: Tensor
    targets: Tensor

    def right(self) -> Tensor:
        """Return for every row whether its largest score is that of its class. Shape (N,)."""
        wanted = self.targets if self.kind == "classes" else self.targets.argmax(1)
        return self.scores.argmax(1) == wanted


def match(output: Tensor, labels: Tensor | None, loss: str = "auto") -> Matched:
    """Bring a network's main output and the labels of a batch together.

    | labels | output | are |
    |---|---|---|
    | integers (B,), (B, 1) | (B, L) | classes |
    | integers (B, G), the finest first | (B, L) | the classes of the first column |
    | integers (B, L), one 1 in each row | (B, L) | classes, one-hot |
    | integers (B, *spatial) | (B, L, *spatial), of tokens (B, T, L) | classes of positions |
    | floats (B, L), rows that sum to 1 | (B, L) | shares of classes (smoothed labels) |
    | floats of the output's shape, or (B,) for (B, 1) | any | values |

    int32, uint8 and boolean labels are integers. Rows that sum to 1 are values if `loss` names a
    loss of values.

    Raises:
        DataError: the labels are missing, have another number of examples, are no classes of the
            output, or have a shape that fits none of these.

    Example:
        >>> import torch
        >>> found = match(torch.eye(3), torch.tensor([[0], [1], [0]]))
        >>> found.kind, found.right().sum()
        ('classes', tensor(2))
    """
    if labels is None:
        raise DataError("the batches have no labels: give (images, labels)")
    if labels.is_complex():
        raise DataError(f"the labels are {labels.dtype}, expected integers or real numbers")
    labels = labels.to(output.device)
    if labels.dim() == 0 or output.dim() == 0 or len(labels) != len(output):
        raise _mismatch(output, labels)
    if not labels.is_floating_point():
        return _classes(output, labels.long())
    whole = output.dim() == 2 and loss not in ("l1", "mse")
    if whole and are_shares(labels, output.shape[1]):
        return Matched("shares", output, labels.to(output.dtype))
    if output.dim() == 2 and output.shape[1] == 1 and labels.dim() == 1:
        labels = labels[:, None]
    if output.dim() == 1 and labels.dim() == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if output.shape == labels.shape:
        return Matched("values", output, labels.to(output.dtype))
    raise _mismatch(output, labels)


def class_labels(labels: Tensor, classes: int) -> Tensor:
    """Return the labels of whole images as int64: (B,), or (B, G) with the finest first.

    One-hot rows of `classes` integers become classes; (B, 1) becomes (B,).

    Raises:
        DataError: they are no integers, or no rows of one class.
    """
    if labels.dim() not in (1, 2) or labels.is_floating_point() or labels.is_complex():
        raise DataError(
            f"labels have shape {tuple(labels.shape)} and type {labels.dtype}, expected one class "
            "index (int64) per image, or one per granularity; for targets pass teacher='targets'"
        )
    labels = labels.long()
    if labels.dim() == 2 and labels.shape[1] == 1:
        return labels[:, 0]
    if labels.dim() == 2 and labels.shape[1] == classes and _are_bits(labels):
        return _of_one_hot(labels)
    return labels


def class_axis(output: Tensor, labels: Tensor) -> int | None:
    """Return the axis of the classes of positions: 1, 2 of tokens, None if labels are of images."""
    if output.dim() < 3 or labels.dim() != output.dim() - 1:
        return None
    if (output.shape[0], *output.shape[2:]) == tuple(labels.shape):
        return 1
    return 2 if output.dim() == 3 and output.shape[:2] == labels.shape else None


def _classes(output: Tensor, labels: Tensor) -> Matched:
    if output.dim() > 2 and labels.dim() == output.dim() and labels.shape[1] == 1:
        labels = labels[:, 0]  # masks of one channel
    axis = class_axis(output, labels)
    if axis is not None:
        scores, wanted = output.movedim(axis, -1).flatten(0, -2), labels.flatten()
        check_range(wanted, scores.shape[1])
        return _counted(scores, wanted)
    if output.dim() != 2 or labels.dim() > 2:
        raise _mismatch(output, labels)
    if output.shape[1] == 1:
        raise DataError(
            "the network has one output and the labels are integers: give floats (B, 1) to fit "
            "numbers, or a network with one output per class"
        )
    wanted = finest(class_labels(labels, output.shape[1]))
    check_range(wanted, output.shape[1])
    return _counted(output, wanted)


def _counted(scores: Tensor, wanted: Tensor) -> Matched:
    counted = wanted != IGNORED
    if not bool(counted.all()):
        scores, wanted = scores[counted], wanted[counted]
    return Matched("classes", scores, wanted)


def finest(labels: Tensor) -> Tensor:
    """Return the labels of the finest granularity, (B,), of (B,) or (B, G)."""
    return labels if labels.dim() == 1 else labels[:, 0]


def check_range(labels: Tensor, classes: int) -> None:
    """Raise `DataError` where a label, unless it is ignored, is none of `classes` classes."""
    counted = labels[labels != IGNORED]
    if counted.numel() and not 0 <= int(counted.min()) <= int(counted.max()) < classes:
        raise DataError(
            f"labels run from {int(counted.min())} to {int(counted.max())}, but the network has "
            f"{classes} outputs: give a network with one output per class"
        )


def _are_bits(labels: Tensor) -> bool:
    return bool(((labels == 0) | (labels == 1)).all())


def _of_one_hot(labels: Tensor) -> Tensor:
    if not bool((labels.sum(1) == 1).all()):
        raise DataError(
            f"labels have shape {tuple(labels.shape)} with several classes in a row or none: "
            "networks of several labels per image are not supported; give one class per image"
        )
    return labels.argmax(1)


def are_shares(labels: Tensor, classes: int) -> bool:
    """Return whether labels are the shares of classes: float (B, L), rows ≥ 0 that sum to 1."""
    if not labels.is_floating_point() or labels.dim() != 2 or labels.shape[1] != classes:
        return False
    sums = labels.double().sum(1)
    return classes > 1 and bool((labels >= 0).all()) and bool(((sums - 1).abs() < 1e-3).all())


def _mismatch(output: Tensor, labels: Tensor) -> DataError:
    shapes = (
        f"the output of the network has shape {tuple(output.shape)}, but the labels have shape "
        f"{tuple(labels.shape)} and type {labels.dtype}"
    )
    if labels.is_floating_point() and output.dim() == 4 and labels.dim() == 4:
        return DataError(f"{shapes}: use data with the scale of the network")
    if labels.is_floating_point() and labels.dim() == 1 and output.dim() == 2:
        return DataError(f"{shapes}: give class labels as integers (int64)")
    return DataError(
        f"{shapes}: give one class index (int64) per image or position, or targets of the "
        "output's shape; output= names the output if the network returns several"
    )
