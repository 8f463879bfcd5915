"""X-SRResNet: SRResNet whose upsampling can be pruned like any other layer.

Source: [Kung-Hou, section 7.1]: the pixel shuffles of SRGAN's generator are replaced by
nearest-neighbour interpolation and convolutions; Table 4 (× 4): 92.6K parameters, "9.6B FLOPs". The
form follows from these figures (a reconstruction): that of [EDSR] (RGB, 3×3, biases, no BatchNorm,
activations only in the blocks), 16 blocks, and 17 channels everywhere: 92 568 parameters. For an
image of 1280 × 720, with two operations per MAC as in that table, the convolutions of its residual
blocks take 9.588e9 and the whole network 16.78e9.

`x_srresnet_full_x4` has the 64 channels that X-Learning starts from.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from prunus.models.families.srresnet import ResidualBlock, doublings
from prunus.models.registry import register_restorer

__all__ = ["XSRResNet"]


class XSRResNet(nn.Module):
    """`blocks` residual blocks with one long skip, then (nearest × 2, 3×3 convolution, ReLU)s.

    Shapes: (B, `in_channels`, H, W) → (B, `in_channels`, s·H, s·W), s = `scale`.

    Raises:
        ConfigError: the scale is not a power of two.

    Example:
        >>> sum(p.numel() for p in XSRResNet(scale=4, width=17).parameters())
        92568
    """

    def __init__(
        self, scale: int, in_channels: int = 3, *, width: int = 64, blocks: int = 16
    ) -> None:
        super().__init__()
        self.head = nn.Conv2d(in_channels, width, 3, padding=1)
        self.body = nn.Sequential(
            *(ResidualBlock(width) for _ in range(blocks)),
            nn.Conv2d(width, width, 3, padding=1),
        )
        steps: list[nn.Module] = []
        for _ in range(doublings(scale)):
            steps += [nn.Upsample(scale_factor=2, mode="nearest")]
            steps += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
        self.up = nn.Sequential(*steps)
        self.tail = nn.Conv2d(width, in_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the images at `scale` times the height and width."""
        x = self.head(x)  # (B, width, H, W)
        x = x + self.body(x)
        x = self.up(x)  # (B, width, s·H, s·W)
        return self.tail(x)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


def _x_srresnet(width: int, *, input_shape: tuple[int, int, int]) -> XSRResNet:
    return XSRResNet(4, input_shape[0], width=width)


for _name, _width, _form in (
    ("x_srresnet_x4", 17, "pruned to the size of Table 4"),
    ("x_srresnet_full_x4", 64, "before pruning"),
):
    register_restorer(
        _name,
        source=f"Kung & Hou 2020, X-Learning, section 7.1, {_form}",
        input_shape=(3, 24, 24),
        scale=4,
    )(partial(_x_srresnet, _width))
