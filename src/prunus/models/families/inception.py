"""Inception networks of any stage sizes: GoogLeNet, InceptionV1 with BatchNorm, Inception-88.

Source: [GoogLeNet] (`googlenet`); [Tian, section 4.2, Table 4-1] (the 21 networks found while
growing) and [Tian, Appendix A] (Inception-88). Exact counts: docs/theory.md, section 18. Two
departures: GoogLeNet's local response normalisation is left out, as in appendix A, and appendix A's
BatchNorms have no scale, while ours have one.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.batches import Heads
from prunus.core import ConfigError
from prunus.models.families.inception_module import ConvUnit, InceptionModule, stage_widths
from prunus.models.registry import Shape, register_model

__all__ = ["TABLE_4_1", "AuxiliaryHead", "Inception"]

#: Stage sizes (i, j, k) in [Tian, Table 4-1]: InceptionV1, then Inception-34 … Inception-91.
TABLE_4_1 = (
    (2, 5, 2), (3, 5, 2), (3, 5, 3), (4, 5, 3), (4, 6, 3), (4, 7, 3), (4, 7, 4),
    (4, 7, 5), (4, 8, 5), (5, 8, 5), (6, 8, 5), (7, 8, 5), (7, 8, 6), (7, 8, 7),
    (8, 8, 7), (8, 8, 8), (8, 8, 9), (9, 8, 9), (9, 8, 10), (10, 8, 10), (10, 8, 11),
)  # fmt: skip

#: The factor by which the small network is narrower than InceptionV1.
SMALL = 8


class AuxiliaryHead(nn.Module):
    """An auxiliary classifier: average pool 5×5 at stride 3, 1×1, two linear layers.

    Shapes: (B, `in_channels`, H, W) → (B, num_classes), (H, W) = `sides`. Maps smaller than 5 × 5
    are averaged entirely. It has 128 channels and 1024 features, divided by `narrower`; without
    BatchNorm (`norm`) it has GoogLeNet's dropout.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        sides: tuple[int, int],
        *,
        narrower: int = 1,
        norm: bool = True,
    ) -> None:
        super().__init__()
        window = (min(5, sides[0]), min(5, sides[1]))
        places = ((sides[0] - window[0]) // 3 + 1) * ((sides[1] - window[1]) // 3 + 1)
        self.pool = nn.AvgPool2d(window, 3)
        self.conv = ConvUnit(in_channels, 128 // narrower, 1, norm=norm)
        self.fc1 = nn.Linear(128 // narrower * places, 1024 // narrower)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(0.0 if norm else 0.7)
        self.fc2 = nn.Linear(1024 // narrower, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of a feature map; comments are for 14 × 14."""
        x = self.conv(self.pool(x))  # (B, 128, 4, 4)
        x = torch.flatten(x, 1)  # (B, 2048)
        x = self.dropout(self.relu(self.fc1(x)))  # (B, 1024)
        return self.fc2(x)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


class Inception(nn.Module):
    """A stem, three stages of i, j and k Inception modules, an average pool, a linear layer.

    Shapes: (B, `in_channels`, H, W) → (B, num_classes). It is 3·(i + j + k) + 4 layers deep.

    It grows by copies of the last module of a stage (`grow_`): names and weights of all other
    layers stay the same. The names are those of a network built at the larger sizes, except for the
    second auxiliary head, which stays where it is.

    Args:
        stages: modules per stage (i, j, k).
        num_classes: classes.
        in_channels: channels of the images.
        five_by_five: GoogLeNet's 5×5 filters, biases, max pooling and dropout instead of two
            3×3, BatchNorm and average pooling.
        small: all widths divided by 8, and a stem for small images (8 × 8 or larger): its first
            convolution is 3×3 at stride 1 with no pooling after it. A reconstruction of ours.
        aux: two auxiliary heads read the second stage, after its first module and before its
            last. In training the output is then the tuple (logits, auxiliary 1, auxiliary 2).
        image_size: height and width; auxiliary heads have weights only for these, the rest of the
            network accepts other sizes too.

    Raises:
        ConfigError: the stages are not three positive numbers, the images are too small, or the
            second stage has too few modules for auxiliary heads.

    Example:
        >>> net = Inception((2, 5, 2), num_classes=100, five_by_five=True)
        >>> sum(p.numel() for p in net.parameters())
        6076052
        >>> net.grow_(0).widths.out, net.stage_sizes
        (480, (3, 5, 2))
    """

    def __init__(
        self,
        stages: tuple[int, int, int] = (2, 5, 2),
        num_classes: int = 1000,
        in_channels: int = 3,
        *,
        five_by_five: bool = False,
        small: bool = False,
        aux: bool = False,
        image_size: tuple[int, int] = (224, 224),
    ) -> None:
        super().__init__()
        _check(stages, image_size, least=8 if small else 31, aux=aux)
        by = SMALL if small else 1
        channels = 192 // by
        self.stem = _stem(in_channels, 64 // by, channels, norm=not five_by_five, small=small)
        built = []
        for index, modules in enumerate(stages):
            stage = nn.Sequential()
            for widths in stage_widths(index, modules):
                module = InceptionModule(channels, widths.divided(by), five_by_five=five_by_five)
                stage.append(module)
                channels = module.widths.out
            built.append(stage)
        self.stage3, self.stage4, self.stage5 = built
        self.pool3, self.pool4 = _halve(), _halve()
        self.dropout = nn.Dropout(0.4 if five_by_five else 0.0)
        self.fc = nn.Linear(channels, num_classes)
        self.heads = nn.ModuleDict()  # by the index of the module in stage 4 that each head reads
        if aux:
            height, width = ((n // 4 if small else (n + 1) // 2 // 8) for n in image_size)
            for index in (0, stages[1] - 2):
                read = stage_widths(1, stages[1])[index].divided(by)
                self.heads[str(index)] = AuxiliaryHead(
                    read.out, num_classes, (height, width), narrower=by, norm=not five_by_five
                )

    @property
    def stages(self) -> tuple[nn.Sequential, nn.Sequential, nn.Sequential]:
        """The three stages of Inception modules, from the images to the classes."""
        return self.stage3, self.stage4, self.stage5

    @property
    def stage_sizes(self) -> tuple[int, ...]:
        """The current number of modules per stage (i, j, k)."""
        return tuple(len(stage) for stage in self.stages)

    def grow_(self, stage: int, *, preserve: bool = False) -> InceptionModule:
        """Add a copy of the last module, with new weights, at the end of a stage, and return it.

        There is no function-preserving start. The 1×1 convolutions of a module like 3b, 4e or 5b
        make 352 of 480, 576 of 832 and 752 of 1024 channels, and no continuous map of so many
        channels into fewer is injective: no weights can restore what the module read.

        Raises:
            ConfigError: `preserve` is true.
        """
        beneath = self.stages[stage][-1]
        assert isinstance(beneath, InceptionModule)
        if preserve:
            raise ConfigError(
                "an Inception module cannot start as the identity, because its reductions and "
                f"its pooling pass at most {beneath.unchanged} of its {beneath.widths.out} "
                "channels unchanged: grow without preserve, or grow a residual, dense or VGG "
                "network"
            )
        module = beneath.another()
        self.stages[stage].append(module)
        return module

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the logits (B, num_classes) of images; comments are for 3 × 224 × 224."""
        x = self.stem(x)  # (B, 192, 28, 28)
        x = self.pool3(self.stage3(x))  # (B, 480, 14, 14)
        if self.training and len(self.heads) > 0:
            x, others = self._stage4_with_heads(x)  # (B, 832, 14, 14), [(B, num_classes)]·2
        else:
            x, others = self.stage4(x), []
        x = self.pool4(x)  # (B, 832, 7, 7)
        x = self.stage5(x)  # (B, 1024, 7, 7)
        x = F.adaptive_avg_pool2d(x, 1)  # (B, 1024, 1, 1)
        x = self.dropout(torch.flatten(x, 1))  # (B, 1024)
        logits: Tensor = self.fc(x)
        return Heads((logits, *others)) if others else logits

    def _stage4_with_heads(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        others = []
        for index, module in enumerate(self.stage4):
            x = module(x)
            if str(index) in self.heads:
                others.append(self.heads[str(index)](x))
        return x, others


def _stem(in_channels: int, narrow: int, wide: int, *, norm: bool, small: bool) -> nn.Sequential:
    """Return the layers before the stages: (B, C, 224, 224) → (B, `wide`, 28, 28).

    That is an eighth of each side, and a half in the small network.
    """
    first = (
        [ConvUnit(in_channels, narrow, 3, norm=norm)]
        if small
        else [ConvUnit(in_channels, narrow, 7, stride=2, norm=norm), _halve()]
    )
    return nn.Sequential(
        *first,
        ConvUnit(narrow, narrow, 1, norm=norm),
        ConvUnit(narrow, wide, 3, norm=norm),
        _halve(),
    )


def _halve() -> nn.MaxPool2d:
    """Return the sources' max pool 3×3 at stride 2, from a side n to ⌊n/2⌋ (n ≥ 2)."""
    return nn.MaxPool2d(3, 2, ceil_mode=True)


def _check(
    stages: tuple[int, int, int], image_size: tuple[int, int], *, least: int, aux: bool
) -> None:
    if len(stages) != 3 or min(stages) < 1:
        raise ConfigError(
            f"the stages of an Inception network are {tuple(stages)}, expected three positive "
            "numbers of modules, as (2, 5, 2)"
        )
    if min(image_size) < least:
        raise ConfigError(
            f"images of {image_size[0]}×{image_size[1]} were requested, but the strides of an "
            f"Inception network need at least {least}×{least}: resize the images"
            + ("" if least == 8 else ", or use inception_v1_small")
        )
    if aux and stages[1] < 3:
        raise ConfigError(
            f"auxiliary heads were requested in a stage of {stages[1]} modules, but they read it "
            "after its first module and before its last: give it at least 3, or aux=False"
        )


def _inception(
    stages: tuple[int, int, int],
    *,
    num_classes: int,
    input_shape: Shape,
    five_by_five: bool = False,
    small: bool = False,
    aux: bool = False,
) -> Inception:
    return Inception(
        stages,
        num_classes,
        input_shape[0],
        five_by_five=five_by_five,
        small=small,
        aux=aux,
        image_size=input_shape[1:],
    )


_imagenet = partial(register_model, input_shape=(3, 224, 224), num_classes=1000)

for _name, _aux in (("googlenet", False), ("googlenet_aux", True)):
    _imagenet(_name, source="Szegedy et al. 2015, table 1" + ", auxiliary heads" * _aux)(
        partial(_inception, (2, 5, 2), five_by_five=True, aux=_aux)
    )
for _stages in TABLE_4_1:
    _name = "inception_v1" if _stages == (2, 5, 2) else f"inception{3 * sum(_stages) + 4}"
    _imagenet(_name, source=f"Tian 2020, table 4-1, stages {_stages}")(partial(_inception, _stages))


@register_model(
    "inception_v1_small",
    source="InceptionV1 of Tian 2020 at an eighth of its widths: a reconstruction of ours",
    input_shape=(1, 28, 28),
)
def inception_v1_small(*, num_classes: int, input_shape: Shape) -> Inception:
    """Return an InceptionV1 for small images, 8 × 8 or larger; its widths are our reconstruction.

    Stages (2, 5, 2) as in InceptionV1, every width divided by 8, a stem that halves each side
    once instead of three times: at 28 × 28 the stages see 14 × 14, 7 × 7 and 3 × 3.
    """
    return _inception((2, 5, 2), num_classes=num_classes, input_shape=input_shape, small=True)
