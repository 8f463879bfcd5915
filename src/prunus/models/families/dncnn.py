"""DnCNN: a plain chain of convolutions that estimates the noise.

Source: [DnCNN, section III]; a baseline in [Kung-Hou, Table 8] and [Dense-xUnit, Figure 8].
17 layers for one noise level (DnCNN-S), 20 for unknown noise (DnCNN-B). The paper does not say
which layers have a bias; as in its authors' public code only the first convolution has one, since
BatchNorm shifts all others: 556 096 parameters for gray images, 555 137 when each BatchNorm is
folded into a convolution with a bias and the last one has a bias too.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from prunus.core import ConfigError
from prunus.models.registry import register_restorer

__all__ = ["DnCNN"]


class DnCNN(nn.Module):
    """x − noise(x): conv, ReLU, then `depth` − 2 of (conv, BatchNorm, ReLU), then conv, all 3×3.

    Shapes: (B, `in_channels`, H, W) → the same.

    Raises:
        ConfigError: `depth` is less than two.

    Example:
        >>> sum(p.numel() for p in DnCNN().parameters())
        556096
    """

    def __init__(self, depth: int = 17, in_channels: int = 1, width: int = 64) -> None:
        super().__init__()
        if depth < 2:
            raise ConfigError(f"DnCNN needs at least 2 layers, got {depth}")
        layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 3, padding=1), nn.ReLU()]
        for _ in range(depth - 2):
            layers += [nn.Conv2d(width, width, 3, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.Conv2d(width, in_channels, 3, padding=1, bias=False)]
        self.noise = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return the images minus the estimated noise."""
        return x - self.noise(x)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


def _dncnn(depth: int, *, input_shape: tuple[int, int, int]) -> DnCNN:
    return DnCNN(depth, input_shape[0])


for _name, _depth, _form in (
    ("dncnn", 17, "DnCNN-S: 17 layers, one noise level"),
    ("dncnn_b", 20, "DnCNN-B: 20 layers, unknown noise"),
):
    register_restorer(_name, source=f"Zhang et al. 2017, {_form}", input_shape=(1, 40, 40))(
        partial(_dncnn, _depth)
    )
