"""Teachers: class labels, several granularities of them, targets, or the network itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.batches import (
    IGNORED,
    Inputs,
    are_shares,
    check_range,
    class_axis,
    class_labels,
    finest,
    match,
    primary,
)
from prunus.core import ConfigError, DataError
from prunus.modules import module_at, without_checkpoints

__all__ = ["Classes", "Logits", "Targets", "Teacher", "make_teacher"]


class Teacher(Protocol):
    """Turns what a loader gives beside the images into the columns of Y.

    `discrete` says that columns are classes, weighed 1/√N_l later; `own` that the network's
    output is the teacher and labels are ignored.
    """

    discrete: bool
    own: bool

    def encode(self, y: Tensor) -> Tensor:
        """Return Y of a batch: (B, q), or (B, q, *spatial) for a map of targets; float64."""
        ...

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a batch, summed over its images: what gradients are taken of."""
        ...


@dataclass
class Classes:
    """Class labels (B,), or (B, G) with the finest labels first; or those of positions.

    `parents[g][l]` is the class of granularity g+1 (coarser) that class l belongs to. With
    labels of several columns they are learned during the pass. With `positions` there is one label
    for each position of a map or each token, (B, *spatial). Shares of classes (smoothed labels),
    float (B, L), are taken as they are.
    """

    count: int
    parents: list[Tensor] = field(default_factory=list)
    positions: bool = False
    discrete: bool = True
    own: bool = False

    def encode(self, y: Tensor) -> Tensor:
        """Return the one-hot of the finest labels, (B, L), or of positions, (B, L, *spatial)."""
        if self.positions:
            if y.dim() == 1:
                raise DataError(
                    "there is one label per image, but the network's output has positions: pass "
                    "teacher=<number of classes>, 'targets' or 'logits'"
                )
            if y.dim() > 2 and y.shape[1] == 1:
                y = y[:, 0]  # maps of one channel
            self._check_range(y)
            return F.one_hot(y.long(), self.count).movedim(-1, 1).double()
        if are_shares(y, self.count):
            return y.double()
        return F.one_hot(self._finest(y), self.count).double()

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        """Return the cross-entropy.

        Raises:
            ConfigError: the output is not logits of these classes.
        """
        whole = output.dim() == 2 and output.shape[1] >= self.count
        if not whole and class_axis(output, y) is None:
            raise ConfigError(
                f"gradients need logits (batch, {self.count} classes), the network's output has "
                f"shape {tuple(output.shape)}: pass gradients=False, or another teacher"
            )
        found = match(output, y)
        return F.cross_entropy(found.scores, found.targets, reduction="sum")

    def _finest(self, y: Tensor) -> Tensor:
        y = class_labels(y, self.count)
        fine = finest(y)
        self._check_range(fine)
        if y.dim() == 2:
            self._learn(fine, y[:, 1:])
        return fine

    def _check_range(self, y: Tensor) -> None:
        if y.is_floating_point():
            raise DataError(
                f"labels have shape {tuple(y.shape)} and type {y.dtype}, expected one class index "
                "(int64) per position; for targets pass teacher='targets'"
            )
        if bool((y == IGNORED).any()):
            raise DataError(
                f"labels hold {IGNORED} for positions that do not count, which statistics cannot "
                "leave out: give labels for all positions, or collect with teacher='logits'"
            )
        check_range(y, self.count)

    def _learn(self, fine: Tensor, coarser: Tensor) -> None:
        """Note the parents of the classes seen; a class has one parent per granularity."""
        fine, coarser = fine.cpu(), coarser.cpu()
        if not self.parents:
            self.parents += [torch.full((self.count,), -1) for _ in coarser.T]
        if len(self.parents) != coarser.shape[1] or (coarser < 0).any():
            raise DataError(
                f"labels give {coarser.shape[1]} coarser classes per image, expected "
                f"{len(self.parents)}, none of them negative"
            )
        for g, (parent, column) in enumerate(zip(self.parents, coarser.T, strict=True)):
            known = parent[fine]
            parent[fine] = torch.where(known >= 0, known, column)
            if (parent[fine] != column).any():
                raise DataError(
                    f"a class of the finest labels has two labels at granularity {g + 1}: coarser "
                    "labels must be a function of the finest ones"
                )


@dataclass
class Targets:
    """Continuous targets: vectors (B, q), numbers (B,) or maps (B, q, *spatial)."""

    discrete: bool = False
    own: bool = False

    def encode(self, y: Tensor) -> Tensor:
        """Return the targets as they are, in float64."""
        if not y.is_floating_point() or not 1 <= y.dim() <= 5:
            raise DataError(
                f"targets have shape {tuple(y.shape)} and type {y.dtype}, expected floats (B,), "
                "(B, q) or (B, q, H, W); for class labels pass teacher=<number of classes>"
            )
        if not torch.isfinite(y).all():
            raise DataError("the targets hold NaN or infinity: clean the data first")
        return (y[:, None] if y.dim() == 1 else y).double()

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        """Return half the squared error.

        Raises:
            DataError: the output has another shape than the targets.
        """
        target = (y[:, None] if y.dim() == 1 else y).to(output)
        if output.shape != target.shape:
            raise DataError(
                f"the network's output has shape {tuple(output.shape)}, the targets "
                f"{tuple(target.shape)}: gradients need targets of the output's shape"
            )
        return (output - target).square().sum() / 2


@dataclass
class Logits:
    """The network's own output; no labels are needed.

    `generator` draws the labels of the loss, so that two passes over the same data agree; `axis` is
    that of the classes: 1 for maps, −1 for tokens.
    """

    axis: int = 1
    discrete: bool = False
    own: bool = True
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def encode(self, y: Tensor) -> Tensor:
        """Return the output in float64, (B, L); maps and tokens are averaged over positions."""
        if y.dim() < 2:
            raise DataError(
                f"the network's output has shape {tuple(y.shape)}, expected (batch, classes): give "
                "batches of two images or more if it drops axes of size 1"
            )
        return (y if y.dim() == 2 else y.movedim(self.axis, 1).flatten(2).mean(2)).double()

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        """Return the cross-entropy with labels drawn from the output: the true Fisher's."""
        if output.dim() < 2:
            raise ConfigError("gradients without labels need an output of shape (batch, classes)")
        output = output.movedim(self.axis, -1).flatten(0, -2) if output.dim() > 2 else output
        chances = output.detach().cpu().double().softmax(1)
        drawn = torch.multinomial(chances, 1, generator=self.generator)[:, 0]
        return F.cross_entropy(output, drawn.to(output.device), reduction="sum")


def make_teacher(
    teacher: Teacher | int | str | None,
    model: nn.Module,
    inputs: Inputs,
    parents: Sequence[Sequence[int]],
    *,
    labels: Tensor | None = None,
    heads: Sequence[str] = (),
    seed: int = 0,
) -> Teacher:
    """Return the teacher that `collect` was asked for; by default the classes of the output.

    Args:
        inputs: some examples; the output for them shows how many classes there are.
        labels: those of the first batch, whose shape says which axis holds the classes.
        heads: the modules that make the output: linear ones put the classes on its last axis.
        seed: that of the labels which `Logits` draws.
    """
    axis = -1 if any(isinstance(module_at(model, name), nn.Linear) for name in heads) else 1
    positions = False
    if teacher is None:
        with torch.no_grad(), without_checkpoints():
            output = primary(inputs.run(model))
        if output.dim() < 2:
            raise DataError(
                f"the network's output has shape {tuple(output.shape)} for {inputs.size} examples, "
                "expected (batch, classes): keep the axis of the batch and that of the classes"
            )
        positions = output.dim() > 2
        if labels is not None and labels.dim() == output.dim() - 1 > 1:
            axis = class_axis(output, labels[: len(output)]) or axis
        teacher = int(output.shape[axis])
    if isinstance(teacher, int):
        known = [torch.as_tensor(parent).long().cpu().clone() for parent in parents]
        for parent in known:
            if len(parent) != teacher or (parent < 0).any():
                raise ConfigError(
                    f"parents are {parent.tolist()}, expected the coarser class, from 0, of each "
                    f"of {teacher} classes"
                )
        return Classes(teacher, known, positions=positions)
    if parents:
        raise ConfigError(
            f"parents go with class labels, and the teacher is {teacher!r}: leave them out"
        )
    if isinstance(teacher, str):
        if teacher not in ("targets", "logits"):
            raise ConfigError(
                f"teacher {teacher!r}: expected a number of classes, 'targets' or 'logits'"
            )
        if teacher == "targets":
            return Targets()
        return Logits(axis=axis, generator=torch.Generator().manual_seed(seed))
    return teacher
