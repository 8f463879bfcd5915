"""SRResNet: super-resolution by residual blocks at low resolution and pixel shuffles.

Source: [SRResNet, section 2.1, Figure 4]; it is the SRResNet of [Kung-Hou, Tables 5 and 6], and the
generator of its "SRGAN". The counts (docs/theory.md, section 18) say which form: they leave no room
for the slopes of Ledig's PReLU, so the activations here are ReLU (a reconstruction).

Three forms, × 2 and × 4:

- `srresnet`: 9×9 convolutions at both ends, luminance, no bias, no BatchNorm: 1 521 792 (× 4).
- `srresnet_3x3`: 3×3 at both ends, RGB, biases and BatchNorm: 1 521 795 (× 4). The block is the one
that [EDSR, Figure 2b] shows for comparison.
- `srresnet_binary`: 9×9, luminance, biases, no BatchNorm: 1 376 769 (× 2), 1 524 481 (× 4). The
  weights here are real; [Binary-SR] binarises those of its residual blocks.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from prunus.core import ConfigError
from prunus.models.registry import register_restorer

__all__ = ["ResidualBlock", "SRResNet", "doublings", "shuffle_up"]


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))), 3×3 convolutions, each followed by a BatchNorm if `norm`.

    Shapes: (B, `width`, H, W) → the same.
    """

    def __init__(self, width: int, *, norm: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=bias)
        self.norm1 = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=bias)
        self.norm2 = nn.BatchNorm2d(width) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        out = self.relu(self.norm1(self.conv1(x)))
        return x + self.norm2(self.conv2(out))  # type: ignore[no-any-return]


class SRResNet(nn.Module):
    """`blocks` residual blocks of `width` channels with one long skip, then pixel shuffles.

    Shapes: (B, `in_channels`, H, W) → (B, `in_channels`, s·H, s·W), s = `scale`. `kernel` is that
    of the first and the last convolution; `bias` and `norm` apply to all (a BatchNorm follows each
    convolution of the residual part).

    Raises:
        ConfigError: the scale is not a power of two.

    Example:
        >>> sum(p.numel() for p in SRResNet(scale=4).parameters())
        1521792
    """

    def __init__(
        self,
        scale: int,
        in_channels: int = 1,
        *,
        kernel: int = 9,
        norm: bool = False,
        bias: bool = False,
        width: int = 64,
        blocks: int = 16,
    ) -> None:
        super().__init__()
        self.head = nn.Conv2d(in_channels, width, kernel, padding=kernel // 2, bias=bias)
        self.relu = nn.ReLU()
        self.body = nn.Sequential(
            *(ResidualBlock(width, norm=norm, bias=bias) for _ in range(blocks)),
            nn.Conv2d(width, width, 3, padding=1, bias=bias),
            nn.BatchNorm2d(width) if norm else nn.Identity(),
        )
        self.up = shuffle_up(width, scale, bias=bias, relu=True)
        self.tail = nn.Conv2d(width, in_channels, kernel, padding=kernel // 2, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the images at `scale` times the height and width."""
        x = self.relu(self.head(x))  # (B, 64, H, W)
        x = x + self.body(x)
        x = self.up(x)  # (B, 64, s·H, s·W)
        return self.tail(x)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


def shuffle_up(width: int, scale: int, *, bias: bool = True, relu: bool) -> nn.Sequential:
    """Return layers that double height and width up to × `scale`: 3×3 convolution, pixel shuffle.

    out[c, 2y + i, 2x + j] = conv[4c + 2i + j, y, x] [Pixel-shuffle, eq. 4], so four channels of the
    convolution become one channel after it. `relu` adds a ReLU after each shuffle.
    """
    steps: list[nn.Module] = []
    for _ in range(doublings(scale)):
        steps += [nn.Conv2d(width, 4 * width, 3, padding=1, bias=bias), nn.PixelShuffle(2)]
        steps += [nn.ReLU()] if relu else []
    return nn.Sequential(*steps)


def doublings(scale: int) -> int:
    """Return the number of doublings that enlarge an image by `scale`: log₂ `scale`.

    Raises:
        ConfigError: `scale` is not 2, 4, 8, …
    """
    times = scale.bit_length() - 1
    if times < 1 or scale != 1 << times:
        raise ConfigError(
            f"a scale of {scale} was requested, but this network doubles the image step by step: "
            "choose 2, 4 or 8"
        )
    return times


def _srresnet(
    scale: int, kernel: int, norm: bool, bias: bool, *, input_shape: tuple[int, int, int]
) -> SRResNet:
    return SRResNet(scale, input_shape[0], kernel=kernel, norm=norm, bias=bias)


for _scale in (2, 4):
    register_restorer(
        f"srresnet_x{_scale}",
        source="Ledig et al. 2017, 9×9, luminance, no bias or BatchNorm, as in Kung & Hou 2020",
        input_shape=(1, 24, 24),
        scale=_scale,
    )(partial(_srresnet, _scale, 9, False, False))
    register_restorer(
        f"srresnet_3x3_x{_scale}",
        source="Ledig et al. 2017 as in Lim et al. 2017, Figure 2b: 3×3, RGB, BatchNorm",
        input_shape=(3, 24, 24),
        scale=_scale,
    )(partial(_srresnet, _scale, 3, True, True))
    register_restorer(
        f"srresnet_binary_x{_scale}",
        source="Ledig et al. 2017 as Ma et al. 2018 binarise it: Kung & Hou 2020, Table 6",
        input_shape=(1, 24, 24),
        scale=_scale,
    )(partial(_srresnet, _scale, 9, False, True))
