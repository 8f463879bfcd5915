"""Pre-activation ResNets of bottleneck units for CIFAR.

Source: [Pre-activation, Figure 4(e)] and its appendix: where the width or the size changes, the
projection shares the unit's first BN and ReLU. [Kung-Hou, section 6.2] (ResNet-164 on CIFAR-100).
The stride is at the 3×3 convolution, which reproduces the counts of docs/theory.md, section 18.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.core import ConfigError
from prunus.models.growth import add_residual_
from prunus.models.registry import register_model

__all__ = ["PreactBottleneck", "PreactResNet"]


class PreactBottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions, each after BN and ReLU, added to the input.

    Shapes: (B, `in_planes`, H, W) → (B, 4·`planes`, H/`stride`, W/`stride`). `widths` are the
    channels of the three convolutions if they differ from (`planes`, `planes`, 4·`planes`).
    """

    def __init__(
        self,
        in_planes: int,
        planes: int,
        stride: int,
        *,
        widths: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__()
        first, second, out = widths or (planes, planes, 4 * planes)
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = nn.Conv2d(in_planes, first, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(second)
        self.conv3 = nn.Conv2d(second, out, 1, bias=False)
        self.projection: nn.Conv2d | None = None
        if stride != 1 or in_planes != out:
            self.projection = nn.Conv2d(in_planes, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the unit's output."""
        out = F.relu(self.bn1(x))
        shortcut = x if self.projection is None else self.projection(out)
        out = self.conv1(out)
        out = self.conv2(F.relu(self.bn2(out)))
        out = self.conv3(F.relu(self.bn3(out)))
        return out + shortcut  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped

    def another(self) -> PreactBottleneck:
        """Return a new unit with this one's current widths, to stack on top of it."""
        convs = (self.conv1, self.conv2, self.conv3)
        widths = convs[0].out_channels, convs[1].out_channels, convs[2].out_channels
        return PreactBottleneck(widths[2], widths[0], 1, widths=widths)


class PreactResNet(nn.Module):
    """Pre-activation ResNet of depth 9·n + 2: three stages of n units, 64, 128, 256 channels.

    Shapes: (B, `in_channels`, H, W) → (B, num_classes), any H and W.

    Raises:
        ConfigError: `depth` is not 9·n + 2.

    Example:
        >>> sum(p.numel() for p in PreactResNet(164, num_classes=100).parameters())
        1726388
    """

    def __init__(self, depth: int, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        units, rest = divmod(depth - 2, 9)
        if rest or units < 1:
            raise ConfigError(
                f"a pre-activation ResNet of depth {depth} was requested, but bottlenecks have "
                "depths of 9·n + 2: choose 11, 20, 29, …, 164"
            )
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.layer1 = _stage(16, 16, units, stride=1)
        self.layer2 = _stage(64, 32, units, stride=2)
        self.layer3 = _stage(128, 64, units, stride=2)
        self.bn = nn.BatchNorm2d(256)
        self.linear = nn.Linear(256, num_classes)
        _draw(self)

    @property
    def stage_sizes(self) -> tuple[int, ...]:
        """The current number of units per stage."""
        return len(self.layer1), len(self.layer2), len(self.layer3)

    def grow_(self, stage: int, *, preserve: bool = False) -> PreactBottleneck:
        """Add a copy of the last unit, with new weights, at the end of a stage, and return it.

        With `preserve` its last convolution is 0, so that 0 + x = x.
        """
        layer = (self.layer1, self.layer2, self.layer3)[stage]
        return add_residual_(
            layer, PreactBottleneck, draw=_draw, last=lambda unit: unit.conv3, preserve=preserve
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of images; comments are for 32 × 32."""
        x = self.conv1(x)  # (B, 16, 32, 32)
        x = self.layer1(x)  # (B, 64, 32, 32)
        x = self.layer2(x)  # (B, 128, 16, 16)
        x = self.layer3(x)  # (B, 256, 8, 8)
        x = F.relu(self.bn(x))
        x = F.adaptive_avg_pool2d(x, 1)  # (B, 256, 1, 1)
        x = torch.flatten(x, 1)  # (B, 256)
        return self.linear(x)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


def _draw(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


def _stage(in_planes: int, planes: int, units: int, stride: int) -> nn.Sequential:
    first = PreactBottleneck(in_planes, planes, stride)
    rest = (PreactBottleneck(4 * planes, planes, 1) for _ in range(units - 1))
    return nn.Sequential(first, *rest)


@register_model(
    "preact_resnet164", source="He et al. 2016, Identity mappings, Table 4", num_classes=100
)
def preact_resnet164(*, num_classes: int, input_shape: tuple[int, int, int]) -> PreactResNet:
    """Return the pre-activation ResNet-164: 1 726 388 parameters at 3 channels, 100 classes."""
    return PreactResNet(164, num_classes, input_shape[0])
