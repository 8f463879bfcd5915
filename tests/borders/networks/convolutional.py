"""Convolutional classifiers: residual, dense, grouped, shuffled, re-parametrisable blocks."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.borders.case import image, network


class Conv(nn.Sequential):
    """Convolution, BatchNorm, SiLU: the brick of most detectors."""

    def __init__(self, i: int, o: int, k: int = 1, s: int = 1, g: int = 1) -> None:
        super().__init__(
            nn.Conv2d(i, o, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(o), nn.SiLU()
        )


class Head(nn.Sequential):
    def __init__(self, i: int, o: int = 4) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(i, o))


@network(image(), cuts=("0", "3"), export="onnx")
def plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        Head(16),
    )


@network(image(), cuts=("stem.0", "c.a.0", "c.cv1.0"), export="onnx")
class YoloC2f(nn.Module):
    """C2f with one shortcut bottleneck: half of the channels is read three times."""

    class C2f(nn.Module):
        def __init__(self, i: int, o: int) -> None:
            super().__init__()
            self.cv1, self.cv2 = Conv(i, o), Conv(3 * o // 2, o)
            self.a, self.b = Conv(o // 2, o // 2, 3), Conv(o // 2, o // 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = list(self.cv1(x).chunk(2, 1))
            y.append(y[-1] + self.b(self.a(y[-1])))
            return self.cv2(torch.cat(y, 1))

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.c, self.head = Conv(3, 12, 3), self.C2f(12, 16), Head(16)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(self.stem(x)))


@network(image(), cuts=("stem.0", "cv1.0", "cv2.0", "m.0.0.0"))
class YoloC3k2(nn.Module):
    """C3: two branches, one through residual bottlenecks, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.cv1, self.cv2, self.cv3 = (
            Conv(3, 12, 3),
            Conv(12, 8),
            Conv(12, 8),
            Conv(16, 12),
        )
        self.m = nn.ModuleList(nn.Sequential(Conv(8, 8, 3), Conv(8, 8, 3)) for _ in range(2))
        self.head = Head(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.cv1(x)
        for block in self.m:
            y = y + block(y)
        return self.head(self.cv3(torch.cat((y, self.cv2(x)), 1)))


@network(image(), cuts=("cv1.0", "cv2.0"))
class YoloSppf(nn.Module):
    """SPPF: one tensor, pooled again and again, all of them concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.cv1, self.cv2, self.head = Conv(3, 10, 3), Conv(40, 12), Head(12)

    def forward(self, x: Tensor) -> Tensor:
        y = [self.cv1(x)]
        for _ in range(3):
            y.append(F.max_pool2d(y[-1], 5, 1, 2))
        return self.head(self.cv2(torch.cat(y, 1)))


@network(image(), cuts=("stem.0", "a.0"))
class BasicBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.head = (
            Conv(3, 12, 3),
            Conv(12, 16, 3),
            Conv(16, 12, 3),
            Head(12),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(F.relu(x + self.b(self.a(x))))


@network(image(), cuts=("stem.0", "expand.0", "deep.0"))
class InvertedResidual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.expand, self.deep = Conv(3, 8, 3), Conv(8, 24), Conv(24, 24, 3, g=24)
        self.project, self.head = nn.Conv2d(24, 8, 1), Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.project(self.deep(self.expand(x))))


@network(image(), cuts=("layers.0.0", "layers.1.0"))
class DenseBlock(nn.Module):
    """Every layer reads all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Conv(3 + 6 * i, 6, 3) for i in range(3))
        self.head = Head(21)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat((x, layer(x)), 1)
        return self.head(x)


@network(image(), cuts=("stem.0",))
class ShuffleUnit(nn.Module):
    """ShuffleNet 2: half passes, half is computed, and the halves are interleaved."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = Conv(3, 16, 3), Conv(8, 8), Conv(8, 8)
        self.deep, self.last, self.head = Conv(8, 8, 3, g=8), Conv(16, 12), Head(12)

    def forward(self, x: Tensor) -> Tensor:
        p, q = self.stem(x).chunk(2, 1)
        x = torch.cat((p, self.b(self.deep(self.a(q)))), 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(self.last(x))


@network(image(), cuts=("0.primary.0",))
def ghost() -> nn.Module:
    class Ghost(nn.Module):
        """Half of the channels by a convolution, half from those by a cheap one."""

        def __init__(self, i: int, o: int) -> None:
            super().__init__()
            self.primary, self.cheap = Conv(i, o // 2, 3), Conv(o // 2, o // 2, 3, g=o // 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.primary(x)
            return torch.cat((y, self.cheap(y)), 1)

    return nn.Sequential(Ghost(3, 16), Ghost(16, 16), Head(16))


@network(image(), cuts=("a.three.0", "b.three.0"))
class RepVgg(nn.Module):
    """3×3, 1×1 and identity with a norm, added."""

    class Block(nn.Module):
        def __init__(self, i: int, o: int) -> None:
            super().__init__()
            self.three = nn.Sequential(nn.Conv2d(i, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o))
            self.one = nn.Sequential(nn.Conv2d(i, o, 1, bias=False), nn.BatchNorm2d(o))
            self.same = nn.BatchNorm2d(o) if i == o else None

        def forward(self, x: Tensor) -> Tensor:
            y = self.three(x) + self.one(x)
            return F.relu(y if self.same is None else y + self.same(x))

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = (
            self.Block(3, 12),
            self.Block(12, 12),
            self.Block(12, 10),
            Head(10),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(self.b(self.a(x))))


@network(image(), cuts=("stem", "up"))
class ConvNext(nn.Module):
    """Depthwise, channels last, LayerNorm, inverted bottleneck, LayerScale."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 12, 2, 2), nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.norm, self.up, self.down = nn.LayerNorm(12), nn.Linear(12, 24), nn.Linear(24, 12)
        self.gamma = nn.Parameter(torch.full((12,), 1e-6))
        self.last, self.head = nn.LayerNorm(12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.deep(x).permute(0, 2, 3, 1))
        y = self.gamma * self.down(F.gelu(self.up(y)))
        x = x + y.permute(0, 3, 1, 2)
        return self.head(self.last(x.mean((2, 3))))


class LayerNorm2d(nn.Module):
    """Written for channels first, as in ConvNeXt's own repository."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        square = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(square + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


@network(image(size=12), cuts=("0", "3"))
def channels_first_norm() -> nn.Module:
    """Maps as large as they have channels: 12×12 of 12."""
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        LayerNorm2d(12),
        nn.GELU(),
        nn.Conv2d(12, 16, 3, padding=1),
        LayerNorm2d(16),
        Head(16),
    )


@network(image(), cuts=("0", "2"))
def circular_padding() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1, padding_mode="circular"),
        nn.ReLU(),
        nn.Conv2d(12, 16, 3, padding=1, padding_mode="circular"),
        nn.ReLU(),
        Head(16),
    )


@network(image(), cuts=("0", "3"))
def reflected_padding() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1, padding_mode="reflect"),
        nn.ReLU(),
        nn.ReplicationPad2d(1),
        nn.Conv2d(12, 16, 3),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        Head(16),
    )


@network(image(), cuts=("0",))
def grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=4),
        nn.ReLU(),
        nn.Conv2d(16, 24, 1),
        nn.ReLU(),
        Head(24),
    )


@network(image(size=8), cuts=("a", "f"))
class LeNetView(nn.Module):
    """x.view(-1, 12 * 4 * 4), as in every tutorial, but with the size computed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 10, 3, padding=1), nn.Conv2d(10, 12, 3, padding=1)
        self.f, self.g = nn.Linear(12 * 16, 20), nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.b(F.relu(self.a(x)))), 2)
        return self.g(F.relu(self.f(x.view(x.size(0), -1))))


@network(image(size=8), cuts=("a", "f"))
class HardCodedView(nn.Module):
    """The same with the sizes written out: what feeds the view stays whole."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 10, 3, padding=1), nn.Conv2d(10, 12, 3, padding=1)
        self.f, self.g = nn.Linear(12 * 16, 20), nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.b(F.relu(self.a(x)))), 2)
        return self.g(F.relu(self.f(x.view(-1, 12 * 4 * 4))))


@network(image(), cuts=("a", "b"))
class Squeezed(nn.Module):
    """.squeeze() behind pooling drops the batch axis of one image."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.f = nn.Conv2d(3, 10, 3), nn.Conv2d(10, 12, 3), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(F.adaptive_avg_pool2d(F.relu(self.b(F.relu(self.a(x)))), 1).squeeze())


@network(image(), cuts=("a", "b"))
class StochasticDepth(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = (
            Conv(3, 12, 3)[0],
            nn.Conv2d(12, 16, 3, 1, 1),
            nn.Conv2d(16, 12, 1),
            Head(12),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        if not self.training or torch.rand(()) < 0.8:
            x = x + self.c(F.relu(self.b(x)))
        return self.head(x)


@network(image(channels=1), cuts=("c0", "c1"))
class OneChannel(nn.Module):
    """Layers of one channel between wide ones: a group of one unit is left alone."""

    def __init__(self) -> None:
        super().__init__()
        self.c0, self.one, self.c1, self.head = (
            nn.Conv2d(1, 12, 3, padding=1),
            nn.Conv2d(12, 1, 1),
            nn.Conv2d(1, 12, 3, padding=1),
            Head(12),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.c1(torch.sigmoid(self.one(F.relu(self.c0(x)))))))


@network(image(), cuts=("branches.0.0", "branches.1.0", "branches.2.1"))
class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(3, 8, 1)),
                nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)),
                nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(3, 6, 1)),
            ]
        )
        self.head = Head(22)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([F.relu(branch(x)) for branch in self.branches], 1))
