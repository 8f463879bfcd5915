"""What both trainers' callbacks are tried on: a few digits, in batches of a fixed order."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn


def digits(count: int) -> tuple[Tensor, Tensor]:
    """Images (count, 1, 8, 8) and labels."""
    data = load_digits()
    images = torch.tensor(data.images[:count], dtype=torch.float32)[:, None] / 16
    return images, torch.tensor(data.target[:count])


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(12, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip
