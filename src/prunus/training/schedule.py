"""The optimiser of training, and its learning rate step by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from prunus.core import prepare_torch
from prunus.training.config import TrainConfig

__all__ = ["make_optimizer", "make_schedule", "plateaus"]

#: Minimum relative decrease of a loss to count as better.
BETTER = 1e-4


def make_optimizer(model: nn.Module, config: TrainConfig) -> Optimizer:
    """Return the optimiser, with weight decay on matrices and kernels but not biases and norms."""
    prepare_torch()
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        nesterov = config.momentum > 0
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=nesterov)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    on_cpu = all(p.device.type == "cpu" for p in trained)  # on the CPU, torch fuses only on request
    return kind(groups, lr=config.lr, fused=on_cpu or None)


def make_schedule(
    config: TrainConfig, batches: int, losses: Sequence[float]
) -> Callable[[int], float]:
    """Return the factor of the learning rate at each step.

    `losses` are those of the finished epochs, and grow during training; only `plateau` uses them.
    """
    steps = max(1, config.epochs * batches)
    warm = int(config.warmup * steps)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / (warm + 1)
        if config.schedule == "cosine":
            done = min(1.0, (step - warm) / max(1, steps - warm))
            return 0.5 * (1 + math.cos(math.pi * done))
        if config.schedule == "step":
            return config.gamma ** sum(step >= share * steps for share in config.milestones)
        if config.schedule == "plateau":
            return config.gamma ** plateaus(losses, config.patience)
        return 1.0

    return factor


def plateaus(losses: Sequence[float], patience: int) -> int:
    """Return how often `patience` epochs in a row did not improve the best loss.

    Example:
        >>> plateaus([3.0, 2.0, 2.0, 2.0, 1.0, 1.0], patience=2)
        1
    """
    best, waited, found = math.inf, 0, 0
    for loss in losses:
        waited += 1
        if loss < best * (1 - BETTER):
            best, waited = loss, 0
        elif waited == patience:
            found, waited = found + 1, 0
    return found
