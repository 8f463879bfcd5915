"""LapSRN: the image is enlarged twofold level by level, and each level adds a residual.

Source: [LapSRN, section 3, Figure 1]; that of [Kung-Hou, Tables 5 and 6]. Ten convolutions per
level, leaky ReLU of slope 0.2, transposed 4×4 convolutions, no biases: 870 112 parameters at × 4,
luminance (docs/theory.md, section 18).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from prunus.batches import Heads
from prunus.models.families.srresnet import doublings
from prunus.models.registry import register_restorer

__all__ = ["LapSRN", "PyramidLevel"]

SLOPE = 0.2


class PyramidLevel(nn.Module):
    """f' = features(f), image' = up(image) + residual(f'): both at twice the height and width.

    Shapes: f (B, `width`, H, W), image (B, C, H, W) → f' (B, `width`, 2H, 2W), image' (B, C, 2H,
    2W), C = `in_channels`. `up` starts as bilinear interpolation of each colour separately.
    """

    def __init__(self, width: int, depth: int, in_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.LeakyReLU(SLOPE)]
        layers += [_doubling(width, width), nn.LeakyReLU(SLOPE)]
        self.features = nn.Sequential(*layers)
        self.residual = nn.Conv2d(width, in_channels, 3, padding=1, bias=False)
        self.up = _doubling(in_channels, in_channels, groups=in_channels)

    def forward(self, f: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features and the image of the next finer level."""
        f = self.features(f)
        return f, self.up(image) + self.residual(f)


class LapSRN(nn.Module):
    """One pyramid level for each doubling, `depth` convolutions of `width` channels in each.

    Shapes: (B, `in_channels`, H, W) → (B, `in_channels`, s·H, s·W), s = `scale`. In training mode
    it returns the images of all levels, the finest first: each has its own loss in the paper
    (section 3.2), against the target down-sampled to its size.

    Raises:
        ConfigError: the scale is not a power of two.

    Example:
        >>> sum(p.numel() for p in LapSRN(scale=4).parameters())
        870112
    """

    def __init__(
        self, scale: int, in_channels: int = 1, *, width: int = 64, depth: int = 10
    ) -> None:
        super().__init__()
        self.head = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.relu = nn.LeakyReLU(SLOPE)
        self.levels = nn.ModuleList(
            PyramidLevel(width, depth, in_channels) for _ in range(doublings(scale))
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, SLOPE)
            elif isinstance(module, nn.ConvTranspose2d):
                _interpolate_(module)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the finest image, in training mode followed by those of the coarser levels."""
        f = self.relu(self.head(image))  # (B, 64, H, W)
        images: list[Tensor] = []
        for level in self.levels:
            f, image = level(f, image)  # (B, 64, 2H, 2W), (B, C, 2H, 2W); then 4H, …
            images.insert(0, image)
        return Heads(images) if self.training else image


def _doubling(in_channels: int, out_channels: int, groups: int = 1) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(
        in_channels, out_channels, 4, stride=2, padding=1, groups=groups, bias=False
    )


@torch.no_grad()
def _interpolate_(module: nn.ConvTranspose2d) -> None:
    """Set an upsampling layer to bilinear interpolation of each channel separately.

    The paper names the bilinear filter; placing it only on the diagonal is our choice: between all
    pairs of channels every output would be the same.
    """
    side = torch.tensor([0.25, 0.75, 0.75, 0.25])
    module.weight.zero_()
    for channel in range(module.in_channels):  # (in, out / groups, 4, 4)
        module.weight[channel, channel % module.weight.shape[1]] = torch.outer(side, side)


def _lapsrn(scale: int, *, input_shape: tuple[int, int, int]) -> LapSRN:
    return LapSRN(scale, input_shape[0])


for _scale in (2, 4):
    register_restorer(
        f"lapsrn_x{_scale}",
        source="Lai et al. 2017, without biases, as in Kung & Hou 2020, Table 6",
        input_shape=(1, 24, 24),
        scale=_scale,
    )(partial(_lapsrn, _scale))
