"""Image degradations that a network learns to undo: down-sampling, Gaussian noise, JPEG."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from prunus.core import ConfigError
from prunus.data.pairs.bicubic import resize_bicubic

__all__ = ["Degradation", "Downsampling", "GaussianNoise", "JpegCompression", "degrade_crop"]


class Degradation(Protocol):
    """Makes the network's input from the image that the network should restore.

    The result at a pixel depends on the pixels less than `margin` away, and on the pixel's position
    modulo `align`. With these two, `degrade_crop` treats a crop exactly like the whole image.
    """

    @property
    def scale(self) -> int:
        """How many times larger the image is than the input."""
        ...

    @property
    def align(self) -> int:
        """The spatial period of the degradation, in pixels."""
        ...

    @property
    def margin(self) -> int:
        """How many pixels around a crop, aligned to `align`, influence it."""
        ...

    def __call__(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return float32 (C, H/scale, W/scale) of the bytes `image` (C, H, W); black is 0, white 1.

        Random numbers come from `generator`, or else from PyTorch's global one.
        """
        ...


@dataclass(frozen=True)
class Downsampling:
    """Down-sample an image bicubically by an integer factor to uint8: super-resolution's input.

    x = round(resize_bicubic(y, 1/scale)), the 8-bit low-resolution images of DIV2K, and of MATLAB
    for uint8 input.

    Raises:
        ConfigError: `scale` is less than 2; when called: a side of the image is not a multiple of
            it.
    """

    scale: int

    def __post_init__(self) -> None:
        if self.scale < 2:
            raise ConfigError(f"the scale of super-resolution is {self.scale}, expected 2 or more")

    @property
    def align(self) -> int:
        """The scale: whole pixels of the input."""
        return self.scale

    @property
    def margin(self) -> int:
        """Half the width of the antialiasing kernel."""
        return 2 * self.scale

    def __call__(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return float32 (C, H/scale, W/scale) of the bytes `image` (C, H, W)."""
        if image.shape[-2] % self.scale or image.shape[-1] % self.scale:
            raise ConfigError(
                f"an image of {image.shape[-2]}×{image.shape[-1]} pixels is not a whole number of "
                f"pixels at 1/{self.scale}: crop it to multiples of {self.scale}"
            )
        return resize_bicubic(image, 1 / self.scale).float() / 255


@dataclass(frozen=True)
class GaussianNoise:
    """Add white Gaussian noise: x = y + σ/255·n with n ~ N(0, 1) for each pixel and channel.

    `sigma` is on the scale 0 … 255. It is neither clipped nor rounded, so that it stays Gaussian
    and x may leave [0, 1]: the convention of [BM3D] and [DnCNN].

    Source: [DnCNN], theory.md (88).

    Raises:
        ConfigError: `sigma` is negative or more than 255.
    """

    sigma: float
    scale: ClassVar[int] = 1
    align: ClassVar[int] = 1
    margin: ClassVar[int] = 0

    def __post_init__(self) -> None:
        if not 0 <= self.sigma <= 255:
            raise ConfigError(f"the noise's sigma is {self.sigma}, expected 0 to 255")

    def __call__(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return float32 (C, H, W) of the bytes `image` (C, H, W)."""
        noise = torch.randn(image.shape, generator=generator)
        return (image.float() + self.sigma * noise) / 255


@dataclass(frozen=True)
class JpegCompression:
    """Encode an image as JPEG of `quality` and decode it again.

    Grey images are coded as they are, colour ones as YCbCr with both chroma planes halved (4:2:0),
    by Pillow's libjpeg, whose quantisation tables at each quality are those of the Independent
    JPEG Group and of MATLAB's `imwrite`.

    Raises:
        ConfigError: `quality` is not in 1 … 100.
    """

    quality: int
    scale: ClassVar[int] = 1
    align: ClassVar[int] = 16  # an 8×8 block of halved chroma covers 16×16 pixels
    margin: ClassVar[int] = 16  # the decoder smooths chroma across block borders

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"the JPEG quality is {self.quality}, expected 1 to 100")

    def __call__(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return float32 (C, H, W) of the bytes `image` (C, H, W), C 1 or 3."""
        pixels = image.permute(1, 2, 0).numpy()  # (H, W, C)
        file = io.BytesIO()
        Image.fromarray(pixels.squeeze(2) if len(image) == 1 else pixels).save(
            file, format="JPEG", quality=self.quality, subsampling="4:2:0"
        )
        with Image.open(file) as coded:
            decoded = np.array(coded)  # (H, W) or (H, W, 3)
        return torch.from_numpy(decoded.reshape(pixels.shape)).permute(2, 0, 1).float() / 255


def degrade_crop(
    image: Tensor,
    degradation: Degradation,
    top: int,
    left: int,
    size: tuple[int, int],
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the input of `image[:, top : top + H, left : left + W]`, (H, W) = `size`.

    Except for noise, it equals that region of the degraded whole image, at the cost of the crop: a
    border is degraded with it and cut off. `top`, `left` and `size` are multiples of the scale.

    Shapes: uint8 (C, ·, ·) → float32 (C, H/scale, W/scale).
    """
    s, reach = degradation.scale, degradation.margin
    (H, W), (height, width) = size, image.shape[-2:]
    y0 = max(0, (top - reach) // degradation.align * degradation.align)
    x0 = max(0, (left - reach) // degradation.align * degradation.align)
    y1, x1 = min(height, top + H + reach), min(width, left + W + reach)
    whole = degradation(image[:, y0:y1, x0:x1], generator)
    y, x = (top - y0) // s, (left - x0) // s
    return whole[:, y : y + H // s, x : x + W // s]
