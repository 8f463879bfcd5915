"""CIFAR ResNets with parameter-free shortcuts.

Source: [ResNet, section 4.2] and option A of [ResNet, section 4.1]. Parameter names are those of
akamaster/pytorch_resnet_cifar10, whose public weights can be loaded.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.models.growth import add_residual_
from prunus.models.registry import register_model

__all__ = ["BasicBlock", "ResNetCifar", "Shortcut"]


class Shortcut(nn.Module):
    """Option A: take every second pixel and pad the channels with zeros, half on each side.

    Shapes: (B, C, H, W) → (B, C + 2·`padding`, ⌈H/2⌉, ⌈W/2⌉).
    """

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        """Return the subsampled and padded `x`."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding))


class BasicBlock(nn.Module):
    """relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x)), 3×3 convolutions.

    Shapes: (B, `in_planes`, H, W) → (B, `planes`, H/`stride`, W/`stride`). There are `inner`
    channels between the convolutions, `planes` if it is None.
    """

    def __init__(
        self, in_planes: int, planes: int, stride: int, *, inner: int | None = None
    ) -> None:
        super().__init__()
        inner = planes if inner is None else inner
        self.conv1 = nn.Conv2d(in_planes, inner, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = nn.Identity() if stride == 1 else Shortcut(planes // 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))

    def another(self) -> BasicBlock:
        """Return a new block with this one's current widths, to stack on top of it."""
        width = self.conv2.out_channels
        return BasicBlock(width, width, 1, inner=self.conv1.out_channels)


class ResNetCifar(nn.Module):
    """ResNet of depth 6·`blocks` + 2: three stages of 16, 32 and 64 channels.

    Shapes: (B, `in_channels`, H, W) → (B, num_classes), any H and W.

    Example:
        >>> sum(p.numel() for p in ResNetCifar(blocks=9).parameters())
        853018
    """

    def __init__(self, blocks: int, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, num_classes)
        _draw(self)

    @property
    def stage_sizes(self) -> tuple[int, ...]:
        """The current number of blocks per stage."""
        return len(self.layer1), len(self.layer2), len(self.layer3)

    def grow_(self, stage: int, *, preserve: bool = False) -> BasicBlock:
        """Add a copy of the last block, with new weights, at the end of a stage, and return it.

        With `preserve` its last norm is 0, so that relu(0 + x) = x, as x is not negative.
        """
        layer = (self.layer1, self.layer2, self.layer3)[stage]
        return add_residual_(
            layer, BasicBlock, draw=_draw, last=lambda block: block.bn2, preserve=preserve
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of images; comments are for 32 × 32."""
        x = F.relu(self.bn1(self.conv1(x)))  # (B, 16, 32, 32)
        x = self.layer1(x)
        x = self.layer2(x)  # (B, 32, 16, 16)
        x = self.layer3(x)  # (B, 64, 8, 8)
        x = F.adaptive_avg_pool2d(x, 1)  # (B, 64, 1, 1)
        x = torch.flatten(x, 1)  # (B, 64)
        return self.linear(x)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


def _draw(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)


def _stage(in_planes: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_planes, planes, stride)
    return nn.Sequential(first, *(BasicBlock(planes, planes, 1) for _ in range(blocks - 1)))


def _resnet(blocks: int, *, num_classes: int, input_shape: tuple[int, int, int]) -> ResNetCifar:
    return ResNetCifar(blocks, num_classes, in_channels=input_shape[0])


for _depth in (20, 32, 44, 56, 110):
    register_model(f"resnet{_depth}", source="He et al. 2016, section 4.2, option A")(
        partial(_resnet, (_depth - 2) // 6)
    )
