"""FEQE: a small residual network on four-fold pixel-unshuffled images, × 4.

Source: [FEQE], winner of PIRM 2018 and a baseline in [Kung-Hou, Table 4] (FEQE-P: 96K parameters,
11B FLOPs). The latter gives only these two figures. The network is a reconstruction that matches
both, with the widths and the order of the authors' public code: 96 464 parameters, and 11.11e9
operations (two per MAC) for an image of 1280 × 720.

The authors use the bicubically enlarged image as input; here the network enlarges it itself.
"""

from __future__ import annotations

from torch import Tensor, nn

from prunus.core import ConfigError
from prunus.models.families.srresnet import ResidualBlock
from prunus.models.registry import register_restorer

__all__ = ["FEQE"]


class FEQE(nn.Module):
    """bicubic(x) + up(body(down(bicubic(x)))): the body works at the resolution of x.

    Shapes: (B, `in_channels`, H, W) → (B, `in_channels`, 4H, 4W). A pixel unshuffle loses
    nothing: it moves 2 × 2 pixels into four channels. The cubic kernel is PyTorch's (a = −0.75).

    Raises:
        ConfigError: the width is not a multiple of 4.

    Example:
        >>> sum(p.numel() for p in FEQE().parameters())
        96464
    """

    def __init__(self, in_channels: int = 3, *, width: int = 16, blocks: int = 20) -> None:
        super().__init__()
        if width < 4 or width % 4:
            raise ConfigError(
                f"FEQE has no width {width}, because its pixel unshuffle makes four channels of "
                "one: give a multiple of 4"
            )
        self.enlarge = nn.Upsample(scale_factor=4, mode="bicubic")
        self.down = nn.Sequential(
            nn.PixelUnshuffle(2), nn.Conv2d(4 * in_channels, width // 4, 1), nn.PixelUnshuffle(2)
        )
        self.body = nn.Sequential(
            *(ResidualBlock(width) for _ in range(blocks)), nn.Conv2d(width, width, 3, padding=1)
        )
        self.up = nn.Sequential(
            nn.Conv2d(width, 4 * width, 1),
            nn.PixelShuffle(2),
            nn.Conv2d(width, 4 * in_channels, 1),
            nn.PixelShuffle(2),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the images at four times the height and width."""
        image = self.enlarge(x)  # (B, C, 4H, 4W)
        f = self.body(self.down(image))  # (B, 16, H, W)
        return image + self.up(f)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


@register_restorer(
    "feqe_x4",
    source="Vu et al. 2018, FEQE-P, reconstructed to the figures of Kung & Hou 2020, Table 4",
    input_shape=(3, 24, 24),
    scale=4,
)
def feqe_x4(*, input_shape: tuple[int, int, int]) -> FEQE:
    """Return FEQE for images of `input_shape`."""
    return FEQE(input_shape[0])
