"""The loss functions of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from prunus.batches import Matched, auxiliary, match, primary
from prunus.core import DataError
from prunus.training.config import TrainConfig

__all__ = ["AUXILIARY_WEIGHT", "distillation", "matched_loss", "task_loss"]

#: Weight of each auxiliary head [GoogLeNet, section 5].
AUXILIARY_WEIGHT = 0.3


def task_loss(output: Any, targets: Tensor, config: TrainConfig) -> Tensor:
    """Return the loss of the main output plus that of the auxiliary ones.

    For class labels (of images, of positions, or smoothed; see `match`): the cross-entropy plus
    0.3 times that of each auxiliary head. For numbers and images (B, C, H, W): the mean absolute
    or squared error, plus that of each smaller output of a pyramid against the target resized to
    it (bicubic, antialiased), all with weight 1 as in LapSRN. With `loss: auto` it is the absolute
    error for images and the squared one for other numbers. Auxiliary are only the outputs of which
    the network says so (`auxiliary`); what else it returns, such as features, is not trained.

    Raises:
        DataError: the targets do not match the loss that `config` names, or the output.
    """
    found = match(primary(output), targets, config.loss)
    return matched_loss(found, auxiliary(output), targets, config)


def matched_loss(
    found: Matched, others: Sequence[Tensor], targets: Tensor, config: TrainConfig
) -> Tensor:
    """Return `task_loss`, of the main output and its targets as `match` found them."""
    of_classes = found.kind != "values"
    kind: str = config.loss
    if kind == "auto":
        numbers = "l1" if targets.dim() == 4 else "mse"
        kind = "cross_entropy" if of_classes else numbers
    if (kind == "cross_entropy") != of_classes:
        held = f"targets of {targets.dtype} with shape {tuple(targets.shape)}"
        raise DataError(f"the loss {kind!r} does not fit {held}: set train.loss to auto")
    if of_classes:
        smoothing = config.label_smoothing
        heads = [found, *(match(head, targets) for head in others)]
        losses = [F.cross_entropy(h.scores, h.targets, label_smoothing=smoothing) for h in heads]
        return losses[0] + AUXILIARY_WEIGHT * torch.stack([losses[0] * 0, *losses[1:]]).sum()
    error = F.l1_loss if kind == "l1" else F.mse_loss
    pairs = [(found.scores, found.targets), *((o, _resized(found.targets, o)) for o in others)]
    return torch.stack([error(made, wanted) for made, wanted in pairs]).sum()


def distillation(
    student: Tensor, teacher: Tensor, temperature: float, *, axis: int | None = None
) -> Tensor:
    """Return T²·KL(teacher ‖ student) of outputs softened by T [Distillation, eq. 1].

    For images and numbers, which are not logits, it is the mean absolute difference. `axis` is that
    of the classes where each position has its own (`class_axis`).
    """
    if axis is not None:
        student, teacher = (t.movedim(axis, -1).flatten(0, -2) for t in (student, teacher))
    if student.dim() != 2 or student.shape[1] == 1:
        return F.l1_loss(student, teacher)
    return temperature**2 * F.kl_div(
        F.log_softmax(student / temperature, dim=1),
        F.log_softmax(teacher / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )


def _resized(targets: Tensor, like: Tensor) -> Tensor:
    if targets.shape == like.shape:
        return targets
    return F.interpolate(targets, like.shape[2:], mode="bicubic", antialias=True)
