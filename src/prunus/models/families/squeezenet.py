"""SqueezeNet 1.1: few channels before each 3×3 convolution, no fully connected layer.

Source: [SqueezeNet], in the authors' release 1.1. A baseline in [Tian, chapters 3 and 4], which
does not describe a variant for CIFAR; ours has stride 1 in its stem.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.core import ConfigError
from prunus.models.registry import register_model

__all__ = ["Fire", "SqueezeNet"]

#: Fire modules between the poolings: (squeeze, expand), the latter each of 1×1 and of 3×3.
FIRES = (
    ((16, 64), (16, 64)),
    ((32, 128), (32, 128)),
    ((48, 192), (48, 192), (64, 256), (64, 256)),
)


class Fire(nn.Module):
    """A 1×1 convolution to `squeeze` channels, then 1×1 and 3×3 in parallel, ReLU after each.

    Shapes: (B, `in_planes`, H, W) → (B, `expand` + `three`, H, W), `three` the channels of the 3×3,
    `expand` if it is None.
    """

    def __init__(self, in_planes: int, squeeze: int, expand: int, three: int | None = None) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_planes, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand if three is None else three, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the module's output."""
        x = F.relu(self.squeeze(x))
        return F.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], dim=1))

    def another(self) -> Fire:
        """Return a new module with this one's current widths, to stack on top of it."""
        one, three = self.expand1x1.out_channels, self.expand3x3.out_channels
        return Fire(one + three, self.squeeze.out_channels, one, three)


class SqueezeNet(nn.Module):
    """SqueezeNet 1.1: 1 235 496 parameters at 3 channels and 1000 classes.

    Shapes: (B, `in_channels`, H, W) → (B, num_classes), H and W ≥ 17. `small_images` is the variant
    for CIFAR: its stem keeps the image's size, and H and W ≥ 8 do.

    Example:
        >>> sum(p.numel() for p in SqueezeNet().parameters())
        1235496
    """

    def __init__(
        self, num_classes: int = 1000, in_channels: int = 3, *, small_images: bool = False
    ) -> None:
        super().__init__()
        stride, padding = (1, 1) if small_images else (2, 0)
        layers: list[nn.Module] = [nn.Conv2d(in_channels, 64, 3, stride, padding), nn.ReLU()]
        width = 64
        for fires in FIRES:
            layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            for squeeze, expand in fires:
                layers.append(Fire(width, squeeze, expand))
                width = 2 * expand
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(0.5)
        self.conv = nn.Conv2d(width, num_classes, 1)
        _draw(self)
        nn.init.normal_(self.conv.weight, std=0.01)

    @property
    def stage_sizes(self) -> tuple[int, ...]:
        """The current number of Fire modules after each pooling."""
        counts: list[int] = []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                counts.append(0)
            elif isinstance(layer, Fire):
                counts[-1] += 1
        return tuple(counts)

    def grow_(self, stage: int, *, preserve: bool = False) -> Fire:
        """Add a copy of the last Fire module, with new weights, to a stage, and return it.

        Raises:
            ConfigError: with `preserve`: `squeeze` makes fewer channels than the module reads.
        """
        fires = [at for at, layer in enumerate(self.features) if isinstance(layer, Fire)]
        last = fires[sum(self.stage_sizes[: stage + 1]) - 1]
        beneath = self.features[last]
        assert isinstance(beneath, Fire)
        fire = beneath.another()
        if preserve:
            raise ConfigError(
                "a Fire module cannot start as the identity, because it squeezes "
                f"{fire.squeeze.in_channels} channels into {fire.squeeze.out_channels}: grow "
                "without preserve, or grow a residual, dense or VGG network"
            )
        _draw(fire)
        self.features.insert(last + 1, fire)
        return fire

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, num_classes), none negative; comments are for 224 × 224."""
        x = self.features(x)  # (B, 512, 13, 13)
        x = F.relu(self.conv(self.dropout(x)))  # (B, num_classes, 13, 13)
        x = F.adaptive_avg_pool2d(x, 1)  # (B, num_classes, 1, 1)
        return torch.flatten(x, 1)  # (B, num_classes)


def _draw(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


@register_model(
    "squeezenet",
    source="Iandola et al. 2016, release 1.1",
    input_shape=(3, 224, 224),
    num_classes=1000,
)
def squeezenet(*, num_classes: int, input_shape: tuple[int, int, int]) -> SqueezeNet:
    """Return SqueezeNet 1.1 for images of at least 17×17."""
    _check_side("squeezenet", input_shape, 17)
    return SqueezeNet(num_classes, input_shape[0])


@register_model("squeezenet_cifar", source="Iandola et al. 2016, release 1.1, our stem for CIFAR")
def squeezenet_cifar(*, num_classes: int, input_shape: tuple[int, int, int]) -> SqueezeNet:
    """Return SqueezeNet 1.1 whose stem keeps the size of images, which are at least 8×8."""
    _check_side("squeezenet_cifar", input_shape, 8)
    return SqueezeNet(num_classes, input_shape[0], small_images=True)


def _check_side(name: str, input_shape: tuple[int, int, int], least: int) -> None:
    _, height, width = input_shape
    if min(height, width) < least:
        raise ConfigError(
            f"{name} needs images of at least {least}×{least} for its poolings, got "
            f"{height}×{width}: resize the images"
        )
