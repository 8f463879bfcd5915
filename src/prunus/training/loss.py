"""What the P-phase minimises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from prunus.evaluation import primary
from prunus.training.config import TrainConfig

__all__ = ["AUXILIARY_WEIGHT", "distillation", "task_loss"]

#: Weight of each auxiliary head (Szegedy et al. 2015, Going deeper with convolutions, §5).
AUXILIARY_WEIGHT = 0.3


def task_loss(output: Any, labels: Tensor, config: TrainConfig) -> Tensor:
    """Return the cross-entropy of the main output plus 0.3 times that of each auxiliary one.

    Of an output with names (Hugging Face's) the first is the main one, and the others are features.
    """
    several = isinstance(output, Sequence)
    heads = [h for h in output if h is not None] if several else [primary(output)]
    losses = [F.cross_entropy(h, labels, label_smoothing=config.label_smoothing) for h in heads]
    return losses[0] + AUXILIARY_WEIGHT * torch.stack([losses[0] * 0, *losses[1:]]).sum()


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T²·KL(teacher ‖ student) of outputs softened by T (Hinton et al. 2015, eq. 1)."""
    return temperature**2 * F.kl_div(
        F.log_softmax(student / temperature, dim=1),
        F.log_softmax(teacher / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
