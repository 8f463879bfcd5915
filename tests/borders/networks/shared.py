"""Layers, weights and tensors that are used several times."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.borders.case import image, network, rows, tokens
from tests.borders.networks.convolutional import Conv, Head


@network(image(), cuts=("stem.0", "same.0"))
class SharedAcrossScales(nn.Module):
    """One convolution at three scales."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.same, self.head = Conv(3, 10, 3), Conv(10, 12, 3), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        scales = [x, F.avg_pool2d(x, 2), F.avg_pool2d(x, 4)]
        return self.head(sum(self.same(s).mean((2, 3)) for s in scales))


@network(image(), cuts=("stem.0", "mid.0"))
class Recursive(nn.Module):
    """One block, run again and again on its own output (DRCN, ALBERT)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mid, self.back, self.head = (
            Conv(3, 10, 3),
            Conv(10, 12, 3),
            nn.Conv2d(12, 10, 1),
            Head(10),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(3):
            x = x + self.back(self.mid(x))
        return self.head(x)


@network(image(), cuts=("head.a",))
class SharedWeight(nn.Module):
    """Two convolutions that hold one Parameter, with biases of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 3, padding=1)
        self.one, self.two = nn.Conv2d(10, 10, 3, padding=1), nn.Conv2d(10, 10, 3, padding=1)
        self.two.weight = self.one.weight
        self.head = nn.Sequential()
        self.head.a, self.head.b = nn.Linear(10, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.two(F.relu(self.one(F.relu(self.stem(x))))))
        return self.head.b(F.relu(self.head.a(x.mean((2, 3)))))


@network(image(), cuts=("stem",))
class SharedParallel(nn.Module):
    """One Parameter at two dilations (trident), norms of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 3, padding=1)
        self.one, self.two = (
            nn.Conv2d(10, 12, 3, padding=1, bias=False),
            nn.Conv2d(10, 12, 3, padding=2, dilation=2, bias=False),
        )
        self.two.weight = self.one.weight
        self.n1, self.n2, self.head = nn.BatchNorm2d(12), nn.BatchNorm2d(12), Head(12)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(F.relu(self.n1(self.one(x)) + self.n2(self.two(x))))


@network(rows(8), cuts=("a",))
class TiedAutoencoder(nn.Module):
    """The decoder is the encoder's transpose: F.linear(h, self.a.weight.t())."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(8, 16), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.linear(torch.sigmoid(self.a(x)), self.a.weight.t()))


@network(rows(8), cuts=("net.0",))
class TwoNames(nn.Module):
    """One module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4)
        )
        self.first, self.act = self.net[0], self.net[1]

    def forward(self, x: Tensor) -> Tensor:
        return self.net[4](self.net[3](self.net[2](self.act(self.first(x)))))


@network(rows(8), cuts=("a",))
class SharedNorm(nn.Module):
    """One BatchNorm behind two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.n, self.head = (
            nn.Linear(8, 12),
            nn.Linear(12, 12),
            nn.BatchNorm1d(12),
            nn.Linear(12, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.n(self.b(F.relu(self.n(self.a(x)))))))


@network(tokens(), cuts=("up",))
class SharedBlocks(nn.Module):
    """Two language blocks that share all weights, and a tied head over the classes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.down, self.norm = (
            nn.Embedding(20, 12),
            nn.Linear(12, 20),
            nn.Linear(20, 12),
            nn.LayerNorm(12),
        )

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for _ in range(2):
            x = x + self.down(F.gelu(self.up(self.norm(x))))
        return F.linear(x.mean(1), self.embed.weight[:4])


@network(image(), cuts=("layers.0", "layers.1"))
class PlainList(nn.Module):
    """Modules in a plain list that are registered under other names as well."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, 10, 3), nn.Conv2d(10, 12, 3)])
        self.order, self.head = [self.layers[0], self.layers[1]], Head(12)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.order:
            x = F.relu(layer(x))
        return self.head(x)


@network(image(), cuts=("head.2.inputs",))
class HiddenInList(nn.Module):
    """Modules in a plain list only: PyTorch does not know them, nor does their optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = [nn.Conv2d(3, 10, 3), nn.Conv2d(10, 12, 3)], Head(12)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.hidden:
            x = F.relu(layer(x))
        return self.head(x)
