"""Residual networks written as in Tables 4-3 and 4-5 of the thesis: "(c64, i64)-c128-c256-c512".

Source: [Tian, Tables 4-3 and 4-5] (tiny ResNets; ResNet-10 to ResNet-50); the modules and the stem
are those of [ResNet]. How the tables are read:

- 'i' is a module of two 3×3 convolutions whose shortcut is the identity, 'c' one whose shortcut
  is a 1×1 convolution; 'I' and 'C' have three convolutions, 1×1, 3×3 and a 1×1 of 4 times the
  filters. Parentheses group the modules of a stage, '-' separates stages, and each stage but the
  first halves the image.
- 'c64' in the first stage has its 1×1 convolution although its widths agree: Table 4-3 writes both
  'i64' and 'c64' there. So ResNet-18 and ResNet-34 of Table 4-5 have 64² weights and one BatchNorm
  more than those of [ResNet] ("i64" instead of "c64" gives theirs); ResNet-50 is the standard one.
- '1c256' (ResNet7, ResNet9) is not explained. Our reconstruction, which matches the depths in the
names: a 'c' module of one 3×3 convolution.
- The stride of 'C' is at its 3×3 convolution: 4.09 GMAC for ResNet-50, as in [Kung-Hou, Table 2].
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.core import ConfigError
from prunus.models.growth import add_residual_
from prunus.models.registry import register_model

__all__ = ["ModuleSpec", "ResidualModule", "StagedResNet", "read_stages"]

TINY = {
    6: "i64-c128",
    7: "i64-c128-1c256",
    8: "i64-c128-c256",
    9: "i64-c128-c256-1c512",
    10: "c64-c128-c256-c512",
}
IMAGENET = {
    10: "c64-c128-c256-c512",
    12: "(c64, i64)-c128-c256-c512",
    18: "(c64, i64)-(c128, i128)-(c256, i256)-(c512, i512)",
    20: "(c64, i64)-(c128, i128)-(c256, i256)-(c512, i512, i512)",
    22: "(c64, i64)-(c128, i128)-(c256, i256, i256)-(c512, i512, i512)",
    24: "(c64, i64)-(c128, i128, i128)-(c256, i256, i256)-(c512, i512, i512)",
    26: "(c64, i64, i64)-(c128, i128, i128)-(c256, i256, i256)-(c512, i512, i512)",
    28: "(c64, i64, i64)-(c128, i128, i128)-(c256, i256, i256, i256)-(c512, i512, i512)",
    30: "(c64, i64, i64)-(c128, i128, i128, i128)-(c256, i256, i256, i256)-(c512, i512, i512)",
    32: "(c64, i64, i64)-(c128, i128, i128, i128)-(c256, i256, i256, i256, i256)-"
    "(c512, i512, i512)",
    34: "(c64, i64, i64)-(c128, i128, i128, i128)-(c256, i256, i256, i256, i256, i256)-"
    "(c512, i512, i512)",
    38: "(C64, I64, I64)-(C128, I128, I128)-(C256, I256, I256)-(C512, I512, I512)",
    41: "(C64, I64, I64)-(C128, I128, I128)-(C256, I256, I256, I256)-(C512, I512, I512)",
    44: "(C64, I64, I64)-(C128, I128, I128, I128)-(C256, I256, I256, I256)-(C512, I512, I512)",
    47: "(C64, I64, I64)-(C128, I128, I128, I128)-(C256, I256, I256, I256, I256)-"
    "(C512, I512, I512)",
    50: "(C64, I64, I64)-(C128, I128, I128, I128)-(C256, I256, I256, I256, I256, I256)-"
    "(C512, I512, I512)",
}


@dataclass(frozen=True, kw_only=True)
class ModuleSpec:
    """One residual module: `depth` convolutions of `filters`, with a projection or without.

    `depth` is 1, 2 or 3; with 3 there are 4·`filters` output channels.
    """

    depth: int
    filters: int
    projects: bool

    @property
    def width(self) -> int:
        """Return the channels at the module's end."""
        return 4 * self.filters if self.depth == 3 else self.filters


def read_stages(notation: str) -> tuple[tuple[ModuleSpec, ...], ...]:
    """Return the modules of each stage of "(c64, i64)-c128", in the notation of the tables.

    Raises:
        ConfigError: a stage does not follow the notation.

    Example:
        >>> [len(stage) for stage in read_stages("(c64, i64)-c128")]
        [2, 1]
    """
    return tuple(_read_stage(stage.strip()) for stage in notation.split("-"))


def _read_stage(stage: str) -> tuple[ModuleSpec, ...]:
    grouped = stage.startswith("(") and stage.endswith(")")
    modules = []
    for written in stage[1:-1].split(",") if grouped else [stage]:
        found = re.fullmatch(r"(1[ic]|[icIC])([1-9][0-9]*)", written.strip())
        if found is None:
            raise ConfigError(
                f"the stage {stage!r} of a residual network holds {written.strip()!r}, expected "
                "modules like i64, c128, 1c256, I64 or C128, several as (c64, i64), and '-' "
                "between stages"
            )
        kind, filters = found[1], int(found[2])
        depth = 1 if kind[0] == "1" else 3 if kind in "IC" else 2
        modules.append(ModuleSpec(depth=depth, filters=filters, projects=kind[-1] in "cC"))
    return tuple(modules)


#: Kernels of a body by its number of convolutions; the first 3×3 has the stride.
KERNELS = {1: (3,), 2: (3, 3), 3: (1, 3, 1)}


class ResidualModule(nn.Module):
    """relu(body(x) + shortcut(x)), the body's convolutions each with BN, ReLU between.

    Shapes: (B, `in_planes`, H, W) → (B, `spec.width`, H/`stride`, W/`stride`). The convolutions
    have the channels of `spec` or, if given, `widths`.
    """

    def __init__(
        self, spec: ModuleSpec, in_planes: int, stride: int, *, widths: Sequence[int] = ()
    ) -> None:
        super().__init__()
        widths = widths or [*[spec.filters] * (spec.depth - 1), spec.width]
        kernels = KERNELS[spec.depth]
        body: list[nn.Module] = []
        read = in_planes
        for place, (kernel, width) in enumerate(zip(kernels, widths, strict=True)):
            body += [nn.ReLU()] if body else []
            body += _conv(read, width, kernel, stride if place == kernels.index(3) else 1)
            read = width
        self.body = nn.Sequential(*body)
        self.shortcut = nn.Sequential(*(_conv(in_planes, read, 1, stride) if spec.projects else []))
        self.spec = spec

    def forward(self, x: Tensor) -> Tensor:
        """Return the module's output; an empty shortcut is the identity."""
        return F.relu(self.body(x) + self.shortcut(x))

    def another(self) -> ResidualModule:
        """Return a new identity module with this one's current widths, to stack on top."""
        widths = [layer.out_channels for layer in self.body if isinstance(layer, nn.Conv2d)]
        return ResidualModule(replace(self.spec, projects=False), widths[-1], 1, widths=widths)


class StagedResNet(nn.Module):
    """The stem of [ResNet] (7×7 of 64 with stride 2, 3×3 max pooling), stages, mean, logits.

    Shapes: (B, `in_channels`, H, W) → (B, num_classes), any H and W.

    Raises:
        ConfigError: `stages` cannot be read, or an identity shortcut would have to change the
            width or the size.

    Example:
        >>> net = StagedResNet("(C64, I64)-C128", num_classes=10)
        >>> net(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 10])
    """

    def __init__(self, stages: str, num_classes: int = 1000, in_channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            *_conv(in_channels, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)
        )
        width = 64
        built = []
        for at, stage in enumerate(read_stages(stages)):
            modules = []
            for place, spec in enumerate(stage):
                stride = 2 if at > 0 and place == 0 else 1
                if not spec.projects and (stride != 1 or spec.width != width):
                    raise ConfigError(
                        f"module {place + 1} of stage {at + 1} of {stages!r} is an identity, but "
                        f"it gets {width} channels, gives {spec.width}, and its stride is "
                        f"{stride}: write {'C' if spec.depth == 3 else 'c'}{spec.filters}"
                    )
                modules.append(ResidualModule(spec, width, stride))
                width = spec.width
            built.append(nn.Sequential(*modules))
        self.stages = nn.Sequential(*built)
        self.fc = nn.Linear(width, num_classes)
        _draw(self)

    @property
    def stage_sizes(self) -> tuple[int, ...]:
        """The current number of modules per stage."""
        return tuple(len(stage) for stage in self.stages if isinstance(stage, nn.Sequential))

    def grow_(self, stage: int, *, preserve: bool = False) -> ResidualModule:
        """Add an identity module with the depth and width of the last one to a stage; return it.

        So "c128" becomes "(c128, i128)". With `preserve` its last norm is 0, so that
        relu(0 + x) = x, as x is not negative.
        """
        return add_residual_(
            self.stages[stage],
            ResidualModule,
            draw=_draw,
            last=lambda module: module.body[-1],
            preserve=preserve,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, num_classes); comments are for 224 × 224, ResNet-50."""
        x = self.stem(x)  # (B, 64, 56, 56)
        x = self.stages(x)  # (B, 2048, 7, 7)
        x = F.adaptive_avg_pool2d(x, 1)  # (B, 2048, 1, 1)
        x = torch.flatten(x, 1)  # (B, 2048)
        return self.fc(x)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


def _draw(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _conv(in_planes: int, planes: int, kernel: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(in_planes, planes, kernel, stride, kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(planes)]


def _staged(stages: str, *, num_classes: int, input_shape: tuple[int, int, int]) -> StagedResNet:
    return StagedResNet(stages, num_classes, in_channels=input_shape[0])


for _depth, _stages in TINY.items():
    register_model(
        f"tiny_resnet{_depth}",
        source=f"Tian's thesis, Table 4-3, ResNet{_depth}: {_stages}",
        input_shape=(3, 224, 224),
    )(partial(_staged, _stages))

for _depth, _stages in IMAGENET.items():
    register_model(
        f"imagenet_resnet{_depth}",
        source=f"Tian's thesis, Table 4-5, ResNet-{_depth}",
        input_shape=(3, 224, 224),
        num_classes=1000,
    )(partial(_staged, _stages))
