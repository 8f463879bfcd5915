"""Bicubic resizing and luma as MATLAB computes them, the reference in the field."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from prunus.core import ConfigError

__all__ = ["bicubic_weights", "resize_bicubic", "rgb_to_luma"]

_A = -0.5  # Keys's parameter: the only one whose error is of third order
_SMALL = 2**16  # entries up to which a matrix is cached for the next patch of the same size
_LUMA = (65.481, 128.553, 24.966)  # of R, G, B in [0, 1]; they sum to 219


def resize_bicubic(image: Tensor, scale: float) -> Tensor:
    """Resize by `scale` along both axes, as MATLAB's `imresize(image, scale)` does.

    y = W_h x W_wᵀ for each channel, with W of `bicubic_weights`, in float64. A uint8 image is
    rounded (halves away from zero) and clipped to 0 … 255 after the rows and again after the
    columns, since MATLAB keeps the type of its input between the two. Floats are neither rounded
    nor clipped: bicubic overshoots at edges.

    Shapes: uint8 or floating (…, H, W) → the same type (…, ⌈H·scale⌉, ⌈W·scale⌉).

    Source: MATLAB, Image Processing Toolbox, `imresize`, method 'bicubic', antialiasing on. Nearly
    all published super-resolution pairs are made with it; Pillow's and OpenCV's results differ.

    Raises:
        ConfigError: `scale` is not positive and finite, or `image` is empty or of another type.

    Example:
        >>> resize_bicubic(torch.full((1, 5, 8), 7, dtype=torch.uint8), 1 / 2).shape
        torch.Size([1, 3, 4])
    """
    if not 0 < scale < math.inf:
        raise ConfigError(f"the scale of a resizing is {scale}, expected a positive number")
    known = image.dtype == torch.uint8 or image.is_floating_point()
    if not known or image.dim() < 2 or image.numel() == 0:
        raise ConfigError(
            f"an image of type {image.dtype} and shape {tuple(image.shape)} cannot be resized: "
            "give (…, H, W) as uint8 or floats"
        )
    H, W = image.shape[-2:]
    # MATLAB resizes the axis of the smaller scale first, rows where both are the same.
    rows = _like(_weights(H, scale).to(image.device) @ image.double(), image.dtype)
    columns = _weights(W, scale).to(image.device).T
    return _like(rows.double() @ columns, image.dtype)


def bicubic_weights(length: int, scale: float) -> Tensor:
    """Return the float64 matrix (⌈length·scale⌉, length) that resizes one axis.

    Output pixel i, counted from 0, is at u = (i + 1/2)/scale - 1/2 of the input and is

        y_i = Σ_j k(s·(u - j)) x_|j| / Σ_j k(s·(u - j)),   s = min(scale, 1),

    over all integers j, with x mirrored at its ends (…, x_1, x_0, x_0, x_1, …), and with

        k(t) = (a + 2)|t|³ - (a + 3)|t|² + 1         for |t| ≤ 1,
               a|t|³ - 5a|t|² + 8a|t| - 4a           for 1 < |t| ≤ 2,   a = -1/2,

    and 0 beyond. When down-sampling, s widens the kernel: this is the antialiasing.

    Source: [Keys, eq. 15], theory.md (86).
    """
    s = min(scale, 1.0)
    count = math.ceil(length * scale)
    u = (torch.arange(count, dtype=torch.float64) + 0.5) / scale - 0.5  # (count,)
    taps = math.ceil(4 / s) + 2  # the kernel is 4/s wide; one extra at each end
    first = torch.floor(u - 2 / s)
    j = first[:, None] + torch.arange(taps, dtype=torch.float64)  # (count, taps)
    weight = _keys(s * (u[:, None] - j))
    weight /= weight.sum(1, keepdim=True)
    place = torch.remainder(j.long(), 2 * length)  # the mirrored signal repeats after 2·length
    place = torch.where(place < length, place, 2 * length - 1 - place)
    return torch.zeros(count, length, dtype=torch.float64).scatter_add_(1, place, weight)


def _weights(length: int, scale: float) -> Tensor:
    small = length * length * scale <= _SMALL
    return _kept_weights(length, scale) if small else bicubic_weights(length, scale)


_kept_weights = lru_cache(maxsize=64)(bicubic_weights)


def _keys(t: Tensor) -> Tensor:
    t = t.abs()
    near = ((_A + 2) * t - (_A + 3)) * t**2 + 1
    far = ((_A * t - 5 * _A) * t + 8 * _A) * t - 4 * _A
    return torch.where(t <= 1, near, torch.where(t <= 2, far, torch.zeros_like(t)))


def rgb_to_luma(image: Tensor) -> Tensor:
    """Return Y of YCbCr, 16 … 235 of 255, as MATLAB's `rgb2ycbcr` does.

    Y = 16 + 65.481 R + 128.553 G + 24.966 B with R, G, B in [0, 1]; uint8 values are rounded.

    Shapes: uint8 or floating in [0, 1], (…, 3, H, W) → the same type, (…, 1, H, W). Floats are
    Y/255, so in [16/255, 235/255].

    Source: ITU-R BT.601, as in MATLAB's `rgb2ycbcr`.

    Example:
        >>> rgb_to_luma(torch.tensor([0, 255], dtype=torch.uint8).expand(3, 1, 2))
        tensor([[[ 16, 235]]], dtype=torch.uint8)
    """
    weight = torch.tensor(_LUMA, dtype=torch.float64, device=image.device)[:, None, None] / 255
    if image.dtype == torch.uint8:
        return _like(16 + (weight * image.double()).sum(-3, keepdim=True), image.dtype)
    return (16 / 255 + (weight * image.double()).sum(-3, keepdim=True)).to(image.dtype)


def _like(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `x` as `dtype`; for uint8 clipped and rounded, halves up."""
    if dtype == torch.uint8:
        return torch.floor(x + 0.5).clamp(0, 255).to(dtype)
    return x.to(dtype)
