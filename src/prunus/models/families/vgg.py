"""VGG-16 and VGG-19: 3×3 convolutions, five poolings, three kinds of head.

Source: [VGG, Table 1], configurations D and E. The CIFAR forms (batch normalisation after each
convolution, which keeps its bias; one hidden layer of 512 or none) follow from the exact counts of
docs/theory.md, section 18: [Kung-slides] prints 1.5e7 parameters and 6.26e8 FLOPs for VGG-16 on
CIFAR-10. The 4096 form is that of [Tian, Table 4-4]: 134.3M at 10 classes, no normalisation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prunus.models.growth import identity_conv_, identity_norm_
from prunus.models.registry import register_model

__all__ = ["STAGES_16", "STAGES_19", "VGG"]

#: Channels of the convolutions; a 2×2 max pooling ends each stage.
STAGES_16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
STAGES_19 = ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4)


class VGG(nn.Module):
    """Convolutions of `stages`, pooled to `grid` × `grid`, then layers of `hidden`, then logits.

    Shapes: (B, `in_channels`, H, W) → (B, num_classes), any H and W. `norm` adds a BatchNorm after
    each convolution; `dropout` is the rate after each hidden layer.

    Example:
        >>> sum(p.numel() for p in VGG(STAGES_16, hidden=(512,)).parameters())
        14990922
    """

    def __init__(
        self,
        stages: tuple[tuple[int, ...], ...],
        num_classes: int = 10,
        in_channels: int = 3,
        *,
        hidden: tuple[int, ...] = (),
        grid: int = 1,
        norm: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for stage in stages:
            for channels in stage:
                layers.append(nn.Conv2d(in_channels, channels, 3, padding=1))
                layers += [nn.BatchNorm2d(channels)] if norm else []
                layers.append(nn.ReLU())
                in_channels = channels
            # Rounding up admits images of less than 32 pixels; at 32 it changes nothing.
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(grid)  # does nothing at the usual size
        width = in_channels * grid**2
        layers = []
        for features in hidden:
            layers += [nn.Linear(width, features), nn.ReLU()]
            layers += [nn.Dropout(dropout)] if dropout else []
            width = features
        self.classifier = nn.Sequential(*layers, nn.Linear(width, num_classes))
        # Thirteen convolutions with PyTorch's default weights would lose the signal; three layers
        # do not.
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    @property
    def stage_sizes(self) -> tuple[int, ...]:
        """The current number of convolutions before each pooling."""
        counts = [0]
        for layer in self.features:
            counts[-1] += isinstance(layer, nn.Conv2d)
            counts += [0] if isinstance(layer, nn.MaxPool2d) else []
        return tuple(counts[:-1])

    def grow_(self, stage: int, *, preserve: bool = False) -> nn.Sequential:
        """Add a convolution as wide as the last one, its norm and its ReLU, before a pooling.

        They are returned; later layers get the names that they have in a VGG built with these
        sizes. With `preserve` the convolution and its norm start as the identity.
        """
        pools = [at for at, layer in enumerate(self.features) if isinstance(layer, nn.MaxPool2d)]
        beneath = self.features[pools[stage] - 2]  # a norm or a convolution; ReLU and pool follow
        normed = isinstance(beneath, nn.BatchNorm2d)
        last = self.features[pools[stage] - 3] if normed else beneath
        assert isinstance(last, nn.Conv2d)
        width = last.out_channels
        conv = nn.Conv2d(width, width, 3, padding=1)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        added: list[nn.Module] = [conv]
        if preserve:
            identity_conv_(conv)
        if isinstance(beneath, nn.BatchNorm2d):
            norm = nn.BatchNorm2d(width)
            if preserve:
                identity_norm_(norm, beneath)
            added.append(norm)
        added.append(nn.ReLU())
        for place, layer in enumerate(added):
            self.features.insert(pools[stage] + place, layer)
        return nn.Sequential(*added)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, num_classes); comments are for 32 × 32 and `grid` = 1."""
        x = self.features(x)  # (B, 512, 1, 1)
        x = self.pool(x)  # (B, 512, grid, grid)
        x = torch.flatten(x, 1)  # (B, 512·grid²)
        return self.classifier(x)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


@register_model("vgg16", source="Simonyan & Zisserman 2015, D, as on CIFAR in Kung's slides")
def vgg16(*, num_classes: int, input_shape: tuple[int, int, int]) -> VGG:
    """Return VGG-16 for CIFAR, one hidden layer of 512: 14 990 922 parameters, 10 classes."""
    return VGG(STAGES_16, num_classes, input_shape[0], hidden=(512,))


@register_model("vgg16_nofc", source="Simonyan & Zisserman 2015, D, logits from the last stage")
def vgg16_nofc(*, num_classes: int, input_shape: tuple[int, int, int]) -> VGG:
    """Return VGG-16 for CIFAR without a hidden layer: 14 728 266 parameters, 10 classes."""
    return VGG(STAGES_16, num_classes, input_shape[0])


@register_model(
    "vgg16_fc4096",
    source="Simonyan & Zisserman 2015, D, as in Tian's thesis, Table 4-4",
    input_shape=(3, 224, 224),
)
def vgg16_fc4096(*, num_classes: int, input_shape: tuple[int, int, int]) -> VGG:
    """Return the VGG-16 of ImageNet, two hidden layers of 4096: 134 301 514, 10 classes."""
    return VGG(
        STAGES_16,
        num_classes,
        input_shape[0],
        hidden=(4096, 4096),
        grid=7,
        norm=False,
        dropout=0.5,
    )


@register_model(
    "vgg19", source="Simonyan & Zisserman 2015, E, as in Kung's slides", num_classes=100
)
def vgg19(*, num_classes: int, input_shape: tuple[int, int, int]) -> VGG:
    """Return VGG-19 for CIFAR without a hidden layer: 20 086 692 parameters, 100 classes."""
    return VGG(STAGES_19, num_classes, input_shape[0])
