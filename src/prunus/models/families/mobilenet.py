"""MobileNet V1 and V2: depthwise separable convolutions, inverted residuals.

Source: [MobileNet, Table 1]; [MobileNetV2, Table 2]. Baselines and base networks in
[Kung-Hou, Table 1, section 6.2], [Kung-slides] and [Tian, Table 4-4]. On CIFAR, V2 has stride 1 in
its stem and its 24-channel stage, which reproduces the counts of docs/theory.md, section 18. The
sources do not describe V1 for CIFAR; ours has stride 1 in its stem and its first 128-channel block.
"""

from __future__ import annotations

from functools import partial
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.models.growth import identity_conv_, identity_norm_, zero_
from prunus.models.registry import register_model

__all__ = ["InvertedResidual", "MobileNetV1", "MobileNetV2"]

#: V1's blocks: (channels, stride).
SEPARABLE = (
    ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2))
    + 5 * ((512, 1),)
    + ((1024, 2), (1024, 1))
)
#: V2's stages: (expansion, channels, blocks, stride of the first).
INVERTED = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class MobileNetV1(nn.Module):
    """MobileNet V1 of width 1: each block a depthwise 3×3 and a 1×1, each with BN and ReLU.

    Shapes: (B, `in_channels`, H, W) → (B, num_classes), any H and W. `small_images` is the variant
    for CIFAR: the image is halved three times, not five.

    Example:
        >>> sum(p.numel() for p in MobileNetV1(num_classes=1000).parameters())
        4231976
    """

    def __init__(
        self, num_classes: int = 1000, in_channels: int = 3, *, small_images: bool = False
    ) -> None:
        super().__init__()
        layers = [*_conv(in_channels, 32, 3, 1 if small_images else 2), nn.ReLU()]
        width = 32
        for place, (channels, step) in enumerate(SEPARABLE):
            stride = 1 if small_images and place == 1 else step
            layers += [*_conv(width, width, 3, stride, groups=width), nn.ReLU()]
            layers += [*_conv(width, channels, 1), nn.ReLU()]
            width = channels
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(0.001)  # the rate of the authors' code
        self.fc = nn.Linear(width, num_classes)
        _draw(self)
        self.stage_sizes = tuple(len(list(same)) for _, same in groupby(c for c, _ in SEPARABLE))

    def grow_(self, stage: int, *, preserve: bool = False) -> nn.Sequential:
        """Add a block that keeps the width at the end of a stage, and return its layers.

        A stage consists of `stage_sizes` blocks of one width. With `preserve` both convolutions
        and both norms start as the identity.
        """
        end = 3 + 6 * sum(self.stage_sizes[: stage + 1])  # the stem has 3 layers, a block 6
        beneath = self.features[end - 2]
        assert isinstance(beneath, nn.BatchNorm2d)
        width = beneath.num_features
        block = nn.Sequential(
            *(*_conv(width, width, 3, groups=width), nn.ReLU()),
            *(*_conv(width, width, 1), nn.ReLU()),
        )
        _draw(block)
        for place, layer in enumerate(block):
            if preserve and isinstance(layer, nn.Conv2d):
                identity_conv_(layer)
            elif preserve and isinstance(layer, nn.BatchNorm2d):
                identity_norm_(layer, beneath)
            self.features.insert(end + place, layer)
        sizes = self.stage_sizes
        self.stage_sizes = (*sizes[:stage], sizes[stage] + 1, *sizes[stage + 1 :])
        return block

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, num_classes); comments are for 224 × 224."""
        x = self.features(x)  # (B, 1024, 7, 7)
        x = F.adaptive_avg_pool2d(x, 1)  # (B, 1024, 1, 1)
        x = torch.flatten(x, 1)  # (B, 1024)
        return self.fc(self.dropout(x))  # type: ignore[no-any-return]  # __call__ is untyped


class InvertedResidual(nn.Module):
    """1×1 to `expansion` times the channels, depthwise 3×3, 1×1 back; no ReLU at the end.

    Added to the input if the shape stays the same. Shapes: (B, `in_planes`, H, W) →
    (B, `planes`, H/`stride`, W/`stride`). There are `inner` channels between,
    `expansion`·`in_planes` if it is None; with an `expansion` of 1 there is no first convolution.
    """

    def __init__(
        self,
        in_planes: int,
        planes: int,
        expansion: int,
        stride: int,
        *,
        inner: int | None = None,
    ) -> None:
        super().__init__()
        inner = in_planes * expansion if inner is None else inner
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [*_conv(in_planes, inner, 1), nn.ReLU6()]
        layers += [*_conv(inner, inner, 3, stride, groups=inner), nn.ReLU6()]
        layers += _conv(inner, planes, 1)
        self.body = nn.Sequential(*layers)
        self.residual = stride == 1 and in_planes == planes

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        out = self.body(x)
        return x + out if self.residual else out  # type: ignore[no-any-return]  # as above

    def another(self) -> InvertedResidual:
        """Return a new block with this one's current width and expansion, to stack on top."""
        convs = [layer for layer in self.body if isinstance(layer, nn.Conv2d)]
        width = convs[-1].out_channels
        if len(convs) == 2:
            return InvertedResidual(width, width, 1, 1)
        inner = max(1, round(width * convs[0].out_channels / convs[0].in_channels))
        return InvertedResidual(width, width, 6, 1, inner=inner)


class MobileNetV2(nn.Module):
    """MobileNet V2 of width 1: stem of 32, the stages of `INVERTED`, a 1×1 to 1280, logits.

    Shapes: (B, `in_channels`, H, W) → (B, num_classes), any H and W. `small_images` is the variant
    for CIFAR: the image is halved three times, not five.

    Example:
        >>> sum(p.numel() for p in MobileNetV2(num_classes=100).parameters())
        2351972
    """

    def __init__(
        self, num_classes: int = 1000, in_channels: int = 3, *, small_images: bool = False
    ) -> None:
        super().__init__()
        layers = [*_conv(in_channels, 32, 3, 1 if small_images else 2), nn.ReLU6()]
        width = 32
        for expansion, channels, blocks, step in INVERTED:
            first = 1 if small_images and channels == 24 else step
            for place in range(blocks):
                stride = first if place == 0 else 1
                layers.append(InvertedResidual(width, channels, expansion, stride))
                width = channels
        layers += [*_conv(width, 1280, 1), nn.ReLU6()]
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(1280, num_classes)
        _draw(self)

    @property
    def stage_sizes(self) -> tuple[int, ...]:
        """The current number of blocks per row of `INVERTED`; the first of a row has no skip."""
        counts: list[int] = []
        for layer in self.features:
            if isinstance(layer, InvertedResidual):
                counts += [] if layer.residual else [0]
                counts[-1] += 1
        return tuple(counts)

    def grow_(self, stage: int, *, preserve: bool = False) -> InvertedResidual:
        """Add a copy of the last block, with new weights, at the end of a stage, and return it.

        With `preserve` its last norm is 0, so that x + 0 = x.
        """
        blocks = [a for a, layer in enumerate(self.features) if isinstance(layer, InvertedResidual)]
        last = blocks[sum(self.stage_sizes[: stage + 1]) - 1]
        beneath = self.features[last]
        assert isinstance(beneath, InvertedResidual)
        block = beneath.another()
        _draw(block)
        if preserve:
            zero_(block.body[-1])
        self.features.insert(last + 1, block)
        return block

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, num_classes); comments are for 224 × 224."""
        x = self.features(x)  # (B, 1280, 7, 7)
        x = F.adaptive_avg_pool2d(x, 1)  # (B, 1280, 1, 1)
        x = torch.flatten(x, 1)  # (B, 1280)
        return self.fc(self.dropout(x))  # type: ignore[no-any-return]  # __call__ is untyped


def _conv(
    in_planes: int, planes: int, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    convolution = nn.Conv2d(
        in_planes, planes, kernel, stride, kernel // 2, groups=groups, bias=False
    )
    return [convolution, nn.BatchNorm2d(planes)]


def _draw(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)


def _mobilenet(
    kind: type[MobileNetV1] | type[MobileNetV2],
    small_images: bool,
    *,
    num_classes: int,
    input_shape: tuple[int, int, int],
) -> nn.Module:
    return kind(num_classes, input_shape[0], small_images=small_images)


register_model(
    "mobilenet_v1",
    source="Howard et al. 2017, Table 1",
    input_shape=(3, 224, 224),
    num_classes=1000,
)(partial(_mobilenet, MobileNetV1, False))
register_model("mobilenet_v1_cifar", source="Howard et al. 2017, our strides for CIFAR")(
    partial(_mobilenet, MobileNetV1, True)
)
register_model(
    "mobilenet_v2",
    source="Sandler et al. 2018, Table 2",
    input_shape=(3, 224, 224),
    num_classes=1000,
)(partial(_mobilenet, MobileNetV2, False))
register_model(
    "mobilenet_v2_cifar",
    source="Sandler et al. 2018, as on CIFAR-100 in Kung & Hou 2020",
    num_classes=100,
)(partial(_mobilenet, MobileNetV2, True))
