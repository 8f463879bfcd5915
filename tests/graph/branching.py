"""Small networks whose branches may be removed as a whole, one for each layout of branches."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.models import build_model

CLASSES, SHAPE = 4, (3, 10, 10)


class Unit(nn.Sequential):
    """relu(norm(conv(x))), as torchvision's GoogLeNet has it."""

    def __init__(self, read: int, made: int, kernel: int, **how: object) -> None:
        super().__init__(
            nn.Conv2d(read, made, kernel, bias=False, **how),  # type: ignore[arg-type]
            nn.BatchNorm2d(made),
            nn.ReLU(),
        )


class Reduction(nn.Module):
    """Strided, dilated and `same` branches beside a pool, twice; the second is flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.one = Unit(3, 4, 1, stride=2)
        self.three = nn.Sequential(Unit(3, 3, 1), Unit(3, 5, 3, stride=2, padding=1))
        self.wide = nn.Sequential(
            Unit(3, 2, 1), Unit(2, 3, 3, padding="same"), Unit(3, 4, 3, padding=1, stride=2)
        )
        self.loose = nn.Conv2d(16, 5, 3, dilation=2, padding=2, groups=1)
        self.tight = nn.Conv2d(16, 3, 1)
        self.head = nn.Linear(8 * 25, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.one(x), self.three(x), self.wide(x), F.max_pool2d(x, 2)], 1)
        x = torch.cat([F.relu(self.loose(x)), F.leaky_relu(self.tight(x))], 1)
        return self.head(x.flatten(1))


class Dense(nn.Module):
    """DenseNet: norm, 1×1, norm, 3×3, joined to everything before, and a transition."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(6 + 4 * i) for i in range(3)])
        self.reduce = nn.ModuleList([Unit(6 + 4 * i, 5, 1) for i in range(3)])
        self.grow = nn.ModuleList([nn.Conv2d(5, 4, 3, padding=1, bias=False) for _ in range(3)])
        self.norm = nn.BatchNorm2d(18)
        self.last = nn.Conv2d(18, 6, 1)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, reduce, grow in zip(self.norms, self.reduce, self.grow, strict=True):
            x = torch.cat([x, grow(reduce(F.relu(norm(x))))], 1)
        x = F.avg_pool2d(F.relu(self.last(F.relu(self.norm(x)))), 10)
        return self.head(x.flatten(1))


class Thin(nn.Module):
    """Branches of one channel: alone, with a norm, behind another of one, pooled; and summed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.a = nn.Conv2d(6, 1, 1)
        self.b = Unit(6, 1, 3, padding=1)
        self.c = nn.Sequential(Unit(6, 1, 1), Unit(1, 1, 3, padding=1))
        self.d = nn.Conv2d(6, 3, 1)
        self.e, self.f = nn.Conv2d(6, 1, 1), nn.Conv2d(6, 1, 1)
        self.last = nn.Conv2d(7, 1, 1)
        self.side = nn.Conv2d(7, 1, 1)
        self.head = nn.Conv2d(2, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = [F.silu(self.a(x)), self.b(x), self.c(x), self.d(x), self.e(x) + self.f(x)]
        x = torch.cat(y, 1)
        x = torch.cat([F.relu(self.last(x)), self.side(x)], 1)
        return self.head(x).mean((2, 3))


class Coupled(nn.Module):
    """Branches that must stay: summed, gated, depthwise, pooled; `plain` alone may."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.left, self.right = nn.Conv2d(6, 4, 1), nn.Conv2d(6, 4, 3, padding=1)
        self.body, self.gate = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 4, 1)
        self.wide = nn.Conv2d(6, 4, 1)
        self.deep = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.pooled = nn.Conv2d(6, 4, 1)
        self.plain = nn.Conv2d(6, 4, 1)
        self.last = nn.Conv2d(20, 6, 1)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        body = self.body(x)
        branches = [
            self.left(x) + self.right(x),
            body * torch.sigmoid(self.gate(body.mean((2, 3), keepdim=True))),
            self.deep(F.relu(self.wide(x))),
            F.max_pool2d(self.pooled(x), 3, 1, 1),
            self.plain(x),
        ]
        return self.head(F.relu(self.last(torch.cat(branches, 1))).mean((2, 3)))


def inception() -> nn.Module:
    return build_model("inception_v1_small", num_classes=CLASSES, input_shape=SHAPE)


NETS: dict[str, Callable[[], nn.Module]] = {
    "inception": inception,
    "reduction": Reduction,
    "dense": Dense,
    "thin": Thin,
    "coupled": Coupled,
}


def build(name: str, seed: int = 0) -> nn.Module:
    """Build the network `name` with random weights, biases and norms, in eval mode."""
    from tests.conftest import randomise_norms_

    torch.manual_seed(seed)
    return randomise_norms_(NETS[name](), seed).eval()
