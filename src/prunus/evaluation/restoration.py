"""Similarity of restored and true images: PSNR and SSIM."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.batches import Loader, primary, read
from prunus.core import ConfigError, DataError, NonFiniteError
from prunus.data import rgb_to_luma
from prunus.modules import evaluating

__all__ = ["Quality", "psnr", "restoration_quality", "ssim"]

# Not torchmetrics (1.8 to 1.9). Its SSIM also averages over windows that reach beyond the image,
# into a reflected border, which `ssim_index.m` does not: the value differs by up to 0.04 on small
# images. It takes ten times as long, for its window is not separated into rows and columns. Its
# PSNR divides by a float32 log(10), 1e-6 dB off. Importing it takes 2.4 s, with transformers.
# Inside the border both agree with what follows, which a test holds.
_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2  # (K₁L)² and (K₂L)² with L = 1
_IDENTICAL = 100.0  # dB; PSNR of equal images is infinite, and so would be every mean of it


class Quality(NamedTuple):
    """Means over images: `psnr` in dB, `ssim` at most 1."""

    psnr: float
    ssim: float


def restoration_quality(
    model: nn.Module,
    loader: Loader,
    scale: int,
    progress: Any = None,
) -> Quality:
    """Return the mean PSNR and SSIM of the images that `model` restores.

    Outputs are clipped to [0, 1] and rounded to 8 bits, as if they were written to a file. Then,
    following the convention of each field,

    * `scale` > 1, super-resolution: colour is converted to Y of YCbCr (BT.601, 16 … 235, in 8 bits,
      `rgb_to_luma`), `scale` pixels are cropped at each border, and the rest is measured. Images
      with one channel are Y already.
    * `scale` = 1, denoising and deblocking: all channels, grey or RGB, up to the border.

    Both measures are computed per image and averaged over images. Equal images, whose PSNR is
    infinite, count as 100 dB. The model's training mode is restored.

    Shapes: the loader yields float (B, C, h, w) and (B, C, H, W) in [0, 1]; of several outputs the
    main one is used, see `primary`.

    Raises:
        ConfigError: `scale` is less than 1, or the outputs have another shape than the images.
        DataError: the loader yields no image, or one that is smaller than SSIM's window.
        NonFiniteError: an output is NaN or infinite.
    """
    if scale < 1:
        raise ConfigError(f"the scale of a restoration is {scale}, expected 1 or more")
    parameter = next(model.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    ratios: list[float] = []
    similarities: list[float] = []
    with torch.no_grad(), evaluating(model):
        batches = read(loader, model, progress)
        for batch in batches:
            x, y = batch.inputs.tensors[0], batch.labels
            if y is None:
                raise DataError("the batches have no targets: give (images, targets)")
            answer = primary(batch.inputs.run(model))
            if answer.shape != y.shape:
                raise ConfigError(
                    f"{type(model).__name__} maps {tuple(x.shape)} to "
                    f"{tuple(answer.shape)}, but the targets are {tuple(y.shape)}: "
                    "choose data with the network's scale and channels"
                )
            if not torch.isfinite(answer).all():
                raise NonFiniteError(
                    f"{type(model).__name__} produced NaN or infinite outputs: its training "
                    "diverged or its weights are corrupt; use another checkpoint"
                )
            pair = _measured(answer, scale), _measured(y.to(device), scale)
            ratios += psnr(*pair).clamp(max=_IDENTICAL).tolist()
            similarities += ssim(*pair).tolist()
    if not ratios:
        raise DataError(
            "the loader yields no image to measure PSNR and SSIM on: give a non-empty one"
        )
    return Quality(sum(ratios) / len(ratios), sum(similarities) / len(similarities))


def _measured(image: Tensor, scale: int) -> Tensor:
    """Return the part of (B, C, H, W) that is measured, float64 in [0, 1]."""
    image = _round(image.double())
    if scale == 1:
        return image
    if image.shape[1] == 3:
        image = _round(rgb_to_luma(image))
    return image[..., scale:-scale, scale:-scale]


def _round(image: Tensor) -> Tensor:
    """Return `image` rounded to 8 bits, halves up."""
    return torch.floor(image.clamp(0, 1) * 255 + 0.5) / 255


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each image, in dB.

    PSNR = 10·log₁₀(L²/MSE), L = 1, the mean square over all pixels and channels; ∞ where x = y.

    Shapes: two of (B, C, H, W) in [0, 1] → float64 (B,).

    Example:
        >>> psnr(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.1)).round(decimals=4)
        tensor([20.], dtype=torch.float64)
    """
    error = (x.double() - y.double()).square().flatten(1).mean(1)
    return -10 * torch.log10(error)


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Return the mean structural similarity of each image.

    At every position of a window inside the image, with weights w (Σw = 1),
    μ_x = Σ w x, σ_x² = Σ w x² - μ_x², σ_xy = Σ w x y - μ_x μ_y,

        SSIM = (2μ_x μ_y + C₁)(2σ_xy + C₂) / ((μ_x² + μ_y² + C₁)(σ_x² + σ_y² + C₂)),

    C₁ = (0.01 L)², C₂ = (0.03 L)², L = 1; the mean is over positions and channels. The window is
    11×11, Gaussian with σ 1.5 pixels. Images are not downscaled first, as in `ssim_index.m`, which
    is the reference of published tables.

    Shapes: two of (B, C, H, W) in [0, 1] → float64 (B,).

    Source: [SSIM, eq. 13], theory.md (90).

    Raises:
        DataError: the images are smaller than 11×11.
    """
    if min(x.shape[-2:]) < _WINDOW:
        raise DataError(
            f"SSIM needs images of at least {_WINDOW}×{_WINDOW} pixels inside the border, but "
            f"{x.shape[-2]}×{x.shape[-1]} were given: use larger images"
        )
    x, y = x.double(), y.double()
    mu_x, mu_y, xx, yy, xy = (_windowed(image) for image in (x, y, x * x, y * y, x * y))
    var_x, var_y, covariance = xx - mu_x**2, yy - mu_y**2, xy - mu_x * mu_y
    similarity = ((2 * mu_x * mu_y + _C1) * (2 * covariance + _C2)) / (
        (mu_x**2 + mu_y**2 + _C1) * (var_x + var_y + _C2)
    )  # (B, C, H - 10, W - 10)
    return similarity.flatten(1).mean(1)


def _windowed(image: Tensor) -> Tensor:
    """Return the weighted mean in each window: (B, C, H, W) → (B, C, H - 10, W - 10)."""
    t = torch.arange(_WINDOW, dtype=image.dtype, device=image.device) - _WINDOW // 2
    line = torch.exp(-(t**2) / (2 * _SIGMA**2))
    line = line / line.sum()
    B, C, H, W = image.shape
    planes = image.reshape(B * C, 1, H, W)
    rows = F.conv2d(planes, line.view(1, 1, -1, 1))
    smooth = F.conv2d(rows, line.view(1, 1, 1, -1))
    return smooth.view(B, C, *smooth.shape[2:])
