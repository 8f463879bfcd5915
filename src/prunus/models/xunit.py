"""xUnit: an activation that weights each pixel by its neighbourhood.

Sources: [xUnit, section 3] (the original form); [Dense-xUnit, section 3.2, Figure 3b] (DxNet's
form). theory.md (83).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from prunus.core import ConfigError

__all__ = ["Gaussian", "XUnit", "XUnitForm"]

XUnitForm = Literal["original", "dxnet"]


class Gaussian(nn.Module):
    """g(d) = exp(−d²): 1 at d = 0, 0 far from it. Shapes: any → the same."""

    def forward(self, d: Tensor) -> Tensor:
        """Return exp(−d²)."""
        return torch.exp(-d * d)


class XUnit(nn.Module):
    """y = x ⊙ g(BN(DW(ReLU(BN(h))))): a weight between 0 and 1 for every value of `x`.

    DW is a depthwise `kernel` × `kernel` convolution; `norm=False` omits both BNs.

    - `form="original"`: h = x, g the Gaussian exp(−d²).
    - `form="dxnet"`: h = W x + c, a 1×1 convolution across the maps, g the sigmoid.

    Shapes: (B, C, H, W) → (B, C, H, W), C = `channels`. Parameters: C·(`kernel`² + 1), and 4·C
    with BN, and C² + C in DxNet's form; `bias=False` subtracts C for every convolution.

    Raises:
        ConfigError: the form is unknown, or the kernel has no centre pixel.

    Example:
        >>> sum(p.numel() for p in XUnit(16).parameters())
        1648
        >>> sum(p.numel() for p in XUnit(16, form="original").parameters())
        1376
    """

    def __init__(
        self,
        channels: int,
        kernel: int = 9,
        *,
        form: XUnitForm = "dxnet",
        norm: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if form not in get_args(XUnitForm):
            raise ConfigError(
                f"xUnit has no form {form!r}: choose "
                f"{' or '.join(repr(f) for f in get_args(XUnitForm))}"
            )
        if kernel < 1 or kernel % 2 == 0:
            raise ConfigError(
                f"xUnit was given a kernel of {kernel}×{kernel}, but its weight map has the size "
                "of the image only with an odd kernel: use 7 or 9"
            )
        original = form == "original"
        self.mix = nn.Identity() if original else nn.Conv2d(channels, channels, 1, bias=bias)
        self.norm1 = nn.BatchNorm2d(channels) if norm else nn.Identity()
        self.relu = nn.ReLU()
        self.depthwise = nn.Conv2d(
            channels, channels, kernel, padding=kernel // 2, groups=channels, bias=bias
        )
        self.norm2 = nn.BatchNorm2d(channels) if norm else nn.Identity()
        self.gate = Gaussian() if original else nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` times its weight map; all shapes are (B, C, H, W)."""
        h = self.relu(self.norm1(self.mix(x)))
        return x * self.gate(self.norm2(self.depthwise(h)))  # type: ignore[no-any-return]
