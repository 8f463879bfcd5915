"""Random augmentation of a whole batch at once, drawn from PyTorch's global generator."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Augmentation", "cut_out", "flip_images", "shift_images"]

#: float (B, C, H, W) of 0 … 1 → the same shape.
Augmentation = Callable[[Tensor], Tensor]


def shift_images(x: Tensor, reach: int | tuple[int, int]) -> Tensor:
    """Shift each image by its own whole pixels, up to `reach` along each axis, padding with zeros.

    This is padding with `reach` zeros on every side and cropping at random to the original size.

    Shapes: (B, C, H, W) → (B, C, H, W).

    Source: [ResNet, section 4.2].
    """
    B, _, H, W = x.shape
    down, right = (reach, reach) if isinstance(reach, int) else reach
    padded = F.pad(x, (right, right, down, down))
    top = torch.randint(0, 2 * down + 1, (B,))
    left = torch.randint(0, 2 * right + 1, (B,))
    windows = padded.unfold(2, H, 1).unfold(3, W, 1)  # a view: (B, C, 2·down+1, 2·right+1, H, W)
    return windows[torch.arange(B), :, top, left]


def flip_images(x: Tensor) -> Tensor:
    """Flip each image left to right with probability ½.

    Shapes: (B, C, H, W) → (B, C, H, W).
    """
    flipped = torch.rand(len(x)) < 0.5
    return torch.where(flipped[:, None, None, None], x.flip(3), x)


def cut_out(x: Tensor, side: tuple[int, int], fill: Tensor) -> Tensor:
    """Fill one rectangle of `side` (height, width) per image with `fill`, one value per channel.

    Its centre is any pixel with equal probability, so it may extend beyond the edge.

    Shapes: (B, C, H, W), fill (C,) → (B, C, H, W).

    Source: [Cutout, section 3.2].
    """
    B, _, H, W = x.shape
    top = torch.randint(0, H, (B, 1)) - side[0] // 2
    left = torch.randint(0, W, (B, 1)) - side[1] // 2
    row, column = torch.arange(H), torch.arange(W)
    inside_rows = (row >= top) & (row < top + side[0])  # (B, H)
    inside_columns = (column >= left) & (column < left + side[1])  # (B, W)
    inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]  # (B, 1, H, W)
    return torch.where(inside, fill[:, None, None], x)
