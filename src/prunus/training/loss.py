"""The loss functions of training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from prunus.batches import auxiliary, primary
from prunus.core import DataError
from prunus.training.config import TrainConfig

__all__ = ["AUXILIARY_WEIGHT", "distillation", "task_loss"]

#: Weight of each auxiliary head [GoogLeNet, section 5].
AUXILIARY_WEIGHT = 0.3


def task_loss(output: Any, targets: Tensor, config: TrainConfig) -> Tensor:
    """Return the loss of the main output plus that of the auxiliary ones.

    For labels int64 (B,): the cross-entropy plus 0.3 times that of each auxiliary head. For
    images float (B, C, H, W): the mean absolute or squared error, plus that of each smaller
    output of a pyramid against the target resized to it (bicubic, antialiased), all with weight 1
    as in LapSRN. Auxiliary are only the outputs of which the network says so (`auxiliary`); what
    else it returns, such as features, is not trained.

    Raises:
        DataError: the targets do not match the loss that `config` names, or the output.
    """
    heads = [primary(output), *auxiliary(output)]
    kind = config.loss
    if kind == "auto":
        kind = "l1" if targets.is_floating_point() else "cross_entropy"
    if (kind == "cross_entropy") == targets.is_floating_point():
        found = f"targets of {targets.dtype} with shape {tuple(targets.shape)}"
        raise DataError(f"the loss {kind!r} does not fit {found}: set train.loss to auto")
    if kind == "cross_entropy":
        smoothing = config.label_smoothing
        losses = [F.cross_entropy(head, targets, label_smoothing=smoothing) for head in heads]
        return losses[0] + AUXILIARY_WEIGHT * torch.stack([losses[0] * 0, *losses[1:]]).sum()
    if heads[0].shape != targets.shape:
        raise DataError(
            f"the outputs of the network are {tuple(heads[0].shape)}, but the targets are "
            f"{tuple(targets.shape)}: use data with the scale of the network"
        )
    error = F.l1_loss if kind == "l1" else F.mse_loss
    return torch.stack([error(head, _resized(targets, head)) for head in heads]).sum()


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T²·KL(teacher ‖ student) of outputs softened by T [Distillation, eq. 1].

    For images, which are not logits, it is the mean absolute difference.
    """
    if student.dim() == 4:
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
