"""ResNets whose convolutions are shared within a level: ResNet-A^l-B^{l,i} and variants.

Source: [Data-feature, Algorithm 1, eq. 2.3–2.4, 3.6–3.7, section 5.2], theory.md (81). A *level* l
is a stage of one resolution. In the paper's symbols, with σ = ReLU, *₂ a convolution of stride 2
and r^{l,i} the features after block i,

    ResNet          r^{l,i}   = σ(r^{l,i−1} + A^{l,i} * σ(B^{l,i} * r^{l,i−1}))
                    r^{l+1,0} = σ(R *₂ r^{l,ν} + A^{l+1,0} * σ(B^{l+1,0} *₂ r^{l,ν}))
    pre-act ResNet  r^{l,i}   = r^{l,i−1} + A^{l,i} * σ(B^{l,i} * σ(r^{l,i−1}))
                    r^{l+1,0} = R *₂ r^{l,ν} + A^{l+1,0} * σ(B^{l+1,0} *₂ σ(r^{l,ν}))

Shared means A^{l,i} = A^l for all i ≥ 0, the pooling block's A^{l,0} included (Appendix A), and
B^{l,i} = B^l for i ≥ 1: B^{l,0} reads the level before and is not shared (section 5.2).

BatchNorm is never shared. In a ResNet it follows every convolution, R too, as in torchvision; in a
pre-activation ResNet it precedes every σ, and R has none, as in [Pre-activation]. There, one more
BN and σ precede the average, as in that paper; Algorithm 1 has neither, and without them training
at its rate of 0.1 diverged in our trials. The stem is σ(BN(θ⁰ * f)) for both.

Parameters of the ResNets (the pre-activation ones have 1 664 fewer):

| | 18, CIFAR-100 | 34, CIFAR-10 |
|---|---|---|
| A^{l,i}-B^{l,i} | 11 220 132 | 21 282 122 |
| A^l-B^{l,i} | 8 086 692 | 13 098 314 |
| A^{l,i}-B^l | 11 183 268 | 16 194 890 |
| A^l-B^l | 8 049 828 | 8 011 082 |

Tables 2 and 4 and the first two rows of Table 3 agree. For the last two rows Table 3 prints 9.7 M
and 6.6 M (18), 15 M and 6.7 M (34). We follow the text. According to it, depth 18 has two blocks
with i ≥ 1 only in the first level, so a shared B saves one 3×3×64×64 kernel, 36 864 parameters; the
table's values cannot be reached without sharing B^{l,0}, whose shape differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.core import ConfigError
from prunus.models.growth import zero_
from prunus.models.registry import register_model

__all__ = ["PreActResNetShared", "ResNetShared"]

Stem = Literal["cifar", "imagenet"]

#: Images of at least this side get the ImageNet stem by default.
LARGE = 128


class Level(nn.Module):
    """The convolutions of one level, each shared one stored once, and the norms of its blocks.

    `pooled` levels begin with the pooling block (i = 0), which halves the map; the first level
    has none. Shapes: (B, `in_planes`, H, W) → (B, `planes`, H, W), or (B, `planes`, H/2, W/2).

    Attributes:
        a: the A^{l,i}, one for each block, or A^l alone. Weights (planes, planes, 3, 3).
        b: the B^{l,i} with i ≥ 1, or B^l alone. Weights (planes, planes, 3, 3).
        b0: B^{l,0}, of stride 2, of a pooled level. Weight (planes, in_planes, 3, 3).
        r: R, 1×1 of stride 2, of a pooled level. Weight (planes, in_planes, 1, 1).
        norm_b: the norms of B's output, one for each block.
        end: the attribute that holds the last layer of each block.
    """

    norm_b: nn.ModuleList
    end: str

    def __init__(
        self,
        in_planes: int,
        planes: int,
        blocks: int,
        *,
        pooled: bool,
        share_a: bool,
        share_b: bool,
    ) -> None:
        super().__init__()
        basic = blocks - pooled  # those with i ≥ 1
        self.pooled, self.share_a, self.share_b = pooled, share_a, share_b
        self.a = nn.ModuleList(_conv3(planes, planes) for _ in range(1 if share_a else blocks))
        self.b = nn.ModuleList(_conv3(planes, planes) for _ in range(1 if share_b else basic))
        if pooled:
            self.b0 = _conv3(in_planes, planes, stride=2)
            self.r = nn.Conv2d(in_planes, planes, 1, stride=2, bias=False)

    def convolutions(self, block: int) -> tuple[nn.Module, nn.Module]:
        """Return the A and the B of block number `block` of this level, from 0."""
        a = self.a[block if len(self.a) > 1 else 0]
        if self.pooled and block == 0:
            return a, self.b0
        return a, self.b[block - self.pooled if len(self.b) > 1 else 0]

    def norms(self, planes: int, inner: int) -> dict[str, int]:
        """Return the widths of the norms of a block with i ≥ 1, by their attribute."""
        raise NotImplementedError

    def grow_(self, *, preserve: bool) -> nn.ModuleList:
        """Add a block with the widths of the previous one; return its own layers.

        These are its norms, and an A and a B if the level does not share them.
        """
        a, b = self.convolutions(len(self.norm_b) - 1)
        assert isinstance(a, nn.Conv2d) and isinstance(b, nn.Conv2d)
        if preserve and self.end == "a" and self.share_a:
            raise ConfigError(
                "a block of a pre-activation ResNet with one A per level cannot start as the "
                "identity, because A is shared and no layer of the block's own follows it: grow "
                "without preserve, or use a network with an A per block"
            )
        planes, inner = a.out_channels, b.out_channels
        added = nn.ModuleList()
        for name, shared, conv in (
            ("a", self.share_a, (inner, planes)),
            ("b", self.share_b, (planes, inner)),
        ):
            if not shared:
                getattr(self, name).append(_conv3(*conv))
                added.append(getattr(self, name)[-1])
        _draw(added)
        for name, width in self.norms(planes, inner).items():
            getattr(self, name).append(nn.BatchNorm2d(width))
            added.append(getattr(self, name)[-1])
        if preserve:
            zero_(getattr(self, self.end)[-1])
        return added


class ResNetLevel(Level):
    """A level of eq. 2.3, 2.4 and 3.7: BN follows every convolution, σ follows the sum."""

    end = "norm_a"

    def __init__(self, in_planes: int, planes: int, blocks: int, **kind: bool) -> None:
        super().__init__(in_planes, planes, blocks, **kind)
        self.norm_a = nn.ModuleList(nn.BatchNorm2d(planes) for _ in range(blocks))
        self.norm_b = nn.ModuleList(nn.BatchNorm2d(planes) for _ in range(blocks))
        if self.pooled:
            self.norm_r = nn.BatchNorm2d(planes)

    def norms(self, planes: int, inner: int) -> dict[str, int]:
        """Return the widths of the norms of a block with i ≥ 1, by their attribute."""
        return {"norm_a": planes, "norm_b": inner}

    def forward(self, r: Tensor) -> Tensor:
        """Return the level's last features."""
        for i, (norm_a, norm_b) in enumerate(zip(self.norm_a, self.norm_b, strict=True)):
            a, b = self.convolutions(i)
            skip = self.norm_r(self.r(r)) if self.pooled and i == 0 else r
            r = F.relu(skip + norm_a(a(F.relu(norm_b(b(r))))))
        return r


class PreActLevel(Level):
    """A level of eq. 2.1, 2.2 and 3.6: BN precedes every σ, the sum has no activation."""

    end = "a"

    def __init__(self, in_planes: int, planes: int, blocks: int, **kind: bool) -> None:
        super().__init__(in_planes, planes, blocks, **kind)
        widths = [in_planes, *[planes] * (blocks - 1)]
        self.norm_r = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.norm_b = nn.ModuleList(nn.BatchNorm2d(planes) for _ in range(blocks))

    def norms(self, planes: int, inner: int) -> dict[str, int]:
        """Return the widths of the norms of a block with i ≥ 1, by their attribute."""
        return {"norm_r": planes, "norm_b": inner}

    def forward(self, r: Tensor) -> Tensor:
        """Return the level's last features."""
        for i, (norm_r, norm_b) in enumerate(zip(self.norm_r, self.norm_b, strict=True)):
            a, b = self.convolutions(i)
            skip = self.r(r) if self.pooled and i == 0 else r
            r = skip + a(F.relu(norm_b(b(F.relu(norm_r(r))))))
        return r


class ResNetShared(nn.Module):
    """ResNet of four levels, with A, B, both or neither shared within a level.

    `blocks` is the number of blocks per level, including the pooling block: (2, 2, 2, 2) is depth
    18, (3, 4, 6, 3) depth 34. The level l has `planes`·2^l channels. Shared convolutions are one
    module each, registered once (`levels.1.a.0`), which a forward pass calls several times.

    Shapes: (B, `in_channels`, H, W) → (B, num_classes), any H and W. The `cifar` stem is a 3×3
    convolution, for MNIST too; the `imagenet` stem a 7×7 one of stride 2 and max pooling.

    Example:
        >>> net = ResNetShared((2, 2, 2, 2), share_a=True)
        >>> sum(p.numel() for p in net.parameters())
        8040522
    """

    level: type[Level] = ResNetLevel

    def __init__(
        self,
        blocks: Sequence[int],
        num_classes: int = 10,
        in_channels: int = 3,
        *,
        share_a: bool = False,
        share_b: bool = False,
        stem: Stem = "cifar",
        planes: int = 64,
    ) -> None:
        super().__init__()
        if stem not in ("cifar", "imagenet"):
            raise ConfigError(f"stem {stem!r}: expected 'cifar' or 'imagenet'")
        kernel, stride = (7, 2) if stem == "imagenet" else (3, 1)
        self.conv = nn.Conv2d(in_channels, planes, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(planes)
        self.pool = nn.MaxPool2d(3, 2, padding=1) if stem == "imagenet" else nn.Identity()
        widths = [planes * 2**level for level in range(len(blocks))]
        self.levels = nn.Sequential(
            *(
                self.level(
                    widths[max(0, i - 1)],
                    widths[i],
                    count,
                    pooled=i > 0,
                    share_a=share_a,
                    share_b=share_b,
                )
                for i, count in enumerate(blocks)
            )
        )
        self.last = self.end(widths[-1])
        self.linear = nn.Linear(widths[-1], num_classes)
        _draw(self)

    @property
    def stage_sizes(self) -> tuple[int, ...]:
        """The current number of blocks per level."""
        return tuple(len(level.norm_b) for level in self.levels if isinstance(level, Level))

    def grow_(self, stage: int, *, preserve: bool = False) -> nn.ModuleList:
        """Add a block at the end of a level; return its own layers, without the shared ones.

        With `preserve` the last of them is 0 and the sum is the features beneath: the norm of A
        in a ResNet, A in a pre-activation ResNet.

        Raises:
            ConfigError: with `preserve`, in a pre-activation ResNet that shares A.
        """
        level = self.levels[stage]
        assert isinstance(level, Level)
        return level.grow_(preserve=preserve)

    def end(self, planes: int) -> nn.Module:
        """Return the layers between the last level and the average: none."""
        return nn.Identity()

    def forward(self, f: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of images; comments are for 32 × 32, `cifar` stem."""
        r = self.pool(F.relu(self.norm(self.conv(f))))  # (B, 64, 32, 32)
        r = self.levels(r)  # (B, 512, 4, 4)
        h = F.adaptive_avg_pool2d(self.last(r), 1)  # (B, 512, 1, 1)
        return self.linear(torch.flatten(h, 1))  # type: ignore[no-any-return]


class PreActResNetShared(ResNetShared):
    """Pre-activation ResNet of four levels, shared like `ResNetShared`.

    Example:
        >>> net = PreActResNetShared((2, 2, 2, 2), share_a=True)
        >>> sum(p.numel() for p in net.parameters())
        8038858
    """

    level = PreActLevel

    def end(self, planes: int) -> nn.Module:
        """Return the layers between the last level and the average: BN and σ."""
        return nn.Sequential(nn.BatchNorm2d(planes), nn.ReLU())


def _draw(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


def _conv3(in_planes: int, planes: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_planes, planes, 3, stride, padding=1, bias=False)


def _build(
    kind: type[ResNetShared],
    blocks: tuple[int, ...],
    share_a: bool,
    share_b: bool,
    *,
    num_classes: int,
    input_shape: tuple[int, int, int],
) -> ResNetShared:
    """Return a network with the ImageNet stem for images of side `LARGE` or more."""
    channels, *sides = input_shape
    stem: Stem = "imagenet" if min(sides) >= LARGE else "cifar"
    return kind(blocks, num_classes, channels, share_a=share_a, share_b=share_b, stem=stem)


#: Names of the variants: whether A, and whether B, is one convolution per level.
SHARINGS = {
    "ali_bli": (False, False),
    "al_bli": (True, False),
    "ali_bl": (False, True),
    "al_bl": (True, True),
}
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}

for _kind, _prefix, _equation in (
    (ResNetShared, "resnet", "2.3"),
    (PreActResNetShared, "preact_resnet", "2.1"),
):
    for _depth, _blocks in DEPTHS.items():
        for _name, _shared in SHARINGS.items():
            register_model(
                f"{_prefix}{_depth}_{_name}",
                source=f"He et al. 2019 (data-feature mapping), eq. {_equation}, section 5.2",
            )(partial(_build, _kind, _blocks, *_shared))
