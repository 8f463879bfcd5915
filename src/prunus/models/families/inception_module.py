"""The Inception module: four parallel branches of filters, and a table of their widths.

Source: [GoogLeNet, Figure 2b, Table 1] (5×5 filters, biases, max pooling);
[Tian, section 4.2.1, Appendix A] (two 3×3 filters instead, BatchNorm, average pooling). Both have
the same widths.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields

import torch
from torch import Tensor, nn

from prunus.core import ConfigError

__all__ = ["STAGE_WIDTHS", "ConvUnit", "InceptionModule", "Widths", "stage_widths"]


@dataclass(frozen=True, kw_only=True)
class Widths:
    """Channels of one Inception module, by branch.

    | field | channels of |
    |---|---|
    | one | the 1×1 branch |
    | three_reduce, three | the 1×1 before the 3×3, the 3×3 |
    | five_reduce, five_middle, five | the 1×1 before the two 3×3, the first of them, the second |
    | pool | the 1×1 after the pooling |

    A branch with a 5×5 has no middle: there `five_middle` is ignored.

    Raises:
        ConfigError: a width is less than 1; names it.
    """

    one: int
    three_reduce: int
    three: int
    five_reduce: int
    five_middle: int
    five: int
    pool: int

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise ConfigError(
                    f"width {field.name} of an Inception module is {getattr(self, field.name)}, "
                    "expected at least 1: every branch needs a channel"
                )

    @property
    def out(self) -> int:
        """Channels of the four branches together, one + three + five + pool."""
        return self.one + self.three + self.five + self.pool

    def divided(self, by: int) -> Widths:
        """Return the widths of a module divided by `by`, rounded down."""
        names = (field.name for field in fields(self))
        return Widths(**dict(zip(names, (w // by for w in astuple(self)), strict=True)))


def _widths(
    one: int, three_reduce: int, three: int, five_reduce: int, five: int, pool: int
) -> Widths:
    """Return a row of [GoogLeNet, Table 1]; [Tian, Appendix A]: the middle is as wide as reduce."""
    return Widths(
        one=one,
        three_reduce=three_reduce,
        three=three,
        five_reduce=five_reduce,
        five_middle=five_reduce,
        five=five,
        pool=pool,
    )


#: The modules 3a 3b, 4a … 4e, 5a 5b of GoogLeNet; InceptionV1 and Inception-88 begin with them.
STAGE_WIDTHS: tuple[tuple[Widths, ...], ...] = (
    (
        _widths(64, 96, 128, 16, 32, 32),
        _widths(128, 128, 192, 32, 96, 64),
    ),
    (
        _widths(192, 96, 208, 16, 48, 64),
        _widths(160, 112, 224, 24, 64, 64),
        _widths(128, 128, 256, 24, 64, 64),
        _widths(112, 144, 288, 32, 64, 64),
        _widths(256, 160, 320, 32, 128, 128),
    ),
    (
        _widths(256, 160, 320, 32, 128, 128),
        _widths(384, 192, 384, 48, 128, 128),
    ),
)


def stage_widths(stage: int, modules: int) -> list[Widths]:
    """Return the widths of the first `modules` modules of stage 0, 1 or 2.

    Beyond GoogLeNet's own, each module repeats the previous one: appendix A repeats 3b, 4e, 5b.
    """
    known = STAGE_WIDTHS[stage]
    return [known[min(index, len(known) - 1)] for index in range(modules)]


class ConvUnit(nn.Module):
    """relu(bn(conv(x))), or relu(conv(x) + bias) without `norm`; same padding.

    Shapes: (B, `in_channels`, H, W) → (B, `out_channels`, ⌈H/`stride`⌉, ⌈W/`stride`⌉) for odd
    kernels. Weights are drawn as in [He-init], biases start at 0.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, *, norm: bool
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=not norm
        )
        self.norm = nn.BatchNorm2d(out_channels) if norm else nn.Identity()
        self.relu = nn.ReLU()
        nn.init.kaiming_normal_(self.conv.weight)
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the unit's output."""
        return self.relu(self.norm(self.conv(x)))  # type: ignore[no-any-return]  # untyped call


class InceptionModule(nn.Module):
    """[1×1 ; 1×1 → 3×3 ; 1×1 → 3×3 → 3×3 ; pool 3×3 → 1×1], concatenated.

    Shapes: (B, `in_channels`, H, W) → (B, `widths.out`, H, W). Each convolution is followed by
    BatchNorm and ReLU, and the pooling is an average that excludes the padding. With
    `five_by_five` the third branch is 1×1 → 5×5, convolutions have a bias and no BatchNorm, and
    the pooling takes the maximum.

    Example:
        >>> module = InceptionModule(192, STAGE_WIDTHS[0][0])
        >>> module(torch.zeros(2, 192, 4, 4)).shape
        torch.Size([2, 256, 4, 4])
    """

    def __init__(self, in_channels: int, widths: Widths, *, five_by_five: bool = False) -> None:
        super().__init__()
        norm = not five_by_five
        pool = nn.MaxPool2d(3, 1, 1) if five_by_five else _average_pool()
        self.one = ConvUnit(in_channels, widths.one, 1, norm=norm)
        self.three = nn.Sequential(
            ConvUnit(in_channels, widths.three_reduce, 1, norm=norm),
            ConvUnit(widths.three_reduce, widths.three, 3, norm=norm),
        )
        self.five = nn.Sequential(ConvUnit(in_channels, widths.five_reduce, 1, norm=norm))
        if five_by_five:
            self.five.append(ConvUnit(widths.five_reduce, widths.five, 5, norm=norm))
        else:
            self.five.append(ConvUnit(widths.five_reduce, widths.five_middle, 3, norm=norm))
            self.five.append(ConvUnit(widths.five_middle, widths.five, 3, norm=norm))
        self.pool = nn.Sequential(pool, ConvUnit(in_channels, widths.pool, 1, norm=norm))
        self.five_by_five = five_by_five

    def forward(self, x: Tensor) -> Tensor:
        """Return the concatenated branches."""
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)

    @property
    def widths(self) -> Widths:
        """The current widths, read from the convolutions, so also valid after pruning."""
        return Widths(
            one=self.one.conv.out_channels,
            three_reduce=_width(self.three, 0),
            three=_width(self.three, -1),
            five_reduce=_width(self.five, 0),
            five_middle=_width(self.five, -2),
            five=_width(self.five, -1),
            pool=_width(self.pool, -1),
        )

    @property
    def unchanged(self) -> int:
        """The most channels that a module of these widths can pass on unchanged.

        A branch passes at most the channels of its narrowest convolution; the pooling branch none.
        """
        w = self.widths
        return w.one + min(w.three_reduce, w.three) + min(w.five_reduce, w.five_middle, w.five)

    def another(self) -> InceptionModule:
        """Return a new module of the same widths that fits on top of this one.

        It reads and returns `widths.out` channels, so the consumers of this module can read the new
        one [Tian, section 4.2.2]. Its weights are drawn from PyTorch's global generator.
        """
        return InceptionModule(self.widths.out, self.widths, five_by_five=self.five_by_five)


def _average_pool() -> nn.AvgPool2d:
    """Return Keras's `AveragePooling2D((3, 3), 1, "same")`: it averages pixels, without padding."""
    return nn.AvgPool2d(3, 1, 1, count_include_pad=False)


def _width(units: nn.Sequential, index: int) -> int:
    unit = units[index]
    assert isinstance(unit, ConvUnit)
    return unit.conv.out_channels
