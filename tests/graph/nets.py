"""Small hand-built networks, one for each way that channels can be coupled."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 4


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 6, 3)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.conv2(x)).mean((2, 3))
        return self.head(x)


class Residual(nn.Module):
    """stem + branch: the stream is made by `stem` and `conv2` together."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv1 = nn.Conv2d(8, 5, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(5)
        self.conv2 = nn.Conv2d(5, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return self.head(x.mean((2, 3)))


class Concat(nn.Module):
    """Dense connections: `mix` reads [a, b], `last` reads [a, b, mix]."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, padding=1)
        self.b = nn.Conv2d(3, 4, 1)
        self.mix = nn.Conv2d(10, 5, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(15)
        self.last = nn.Conv2d(15, 6, 1)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.a(x), F.relu(self.b(x))], 1)
        x = torch.cat([x, self.mix(F.relu(x))], 1)
        x = F.relu(self.last(F.relu(self.norm(x))))
        return self.head(x.mean((2, 3)))


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 8, 1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.point = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.deep(F.relu(self.bn(self.expand(x)))))
        return self.head(F.relu(self.point(x)).mean((2, 3)))


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.conv2 = nn.Conv2d(8, 12, 3, groups=2)
        self.conv3 = nn.Conv2d(12, 6, 1)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        return self.head(F.relu(self.conv3(x)).mean((2, 3)))


class Transposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 6, 3, stride=2)
        self.up = nn.ConvTranspose2d(6, 5, 4, stride=2)
        self.last = nn.Conv2d(5, 6, 3)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.up(F.relu(self.down(x))))
        return self.head(F.relu(self.last(x)).mean((2, 3)))


class TransposedInGroups(nn.Module):
    """A transposed convolution in groups, and one with a filter for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 6, 3, stride=2)
        self.up = nn.ConvTranspose2d(6, 8, 4, stride=2, groups=2)
        self.deep = nn.ConvTranspose2d(8, 8, 3, groups=8)
        self.last = nn.Conv2d(8, 6, 3)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.deep(F.relu(self.up(F.relu(self.down(x)))))
        return self.head(F.relu(self.last(x)).mean((2, 3)))


class Flatten(nn.Module):
    """A small LeNet-5: 4×4 images of 5 channels are flattened into fc1."""

    def __init__(self, relu: bool = True) -> None:
        super().__init__()
        self.relu = relu
        self.conv1 = nn.Conv2d(3, 5, 3)
        self.fc1 = nn.Linear(5 * 16, 12)
        self.fc2 = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = F.max_pool2d(F.relu(x) if self.relu else x, 2).flatten(1)
        return self.fc2(F.relu(self.fc1(x)))


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(3 * 10 * 10, 16)
        self.fc2 = nn.Linear(16, 8)
        self.fc3 = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x.flatten(1))))))


class Token(nn.Module):
    """Linear layers over tokens (B, T, C) with a LayerNorm over the last axis."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(10, 8)
        self.norm = nn.LayerNorm(8)
        self.up = nn.Linear(8, 12)
        self.down = nn.Linear(12, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.embed(x.flatten(1, 2)))  # (B, 30, 8)
        x = F.gelu(self.up(x))
        return self.head(F.relu(self.down(x)).mean(1))


class WithPReLU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3)
        self.act1 = nn.PReLU(6)
        self.conv2 = nn.Conv2d(6, 5, 3)
        self.act2 = nn.PReLU()
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act2(self.conv2(self.act1(self.conv1(x))))
        return self.head(x.mean((2, 3)))


SHAPE = (3, 10, 10)

NETS: dict[str, Callable[[], nn.Module]] = {
    "plain": Plain,
    "residual": Residual,
    "concat": Concat,
    "depthwise": Depthwise,
    "grouped": Grouped,
    "transposed": Transposed,
    "transposed in groups": TransposedInGroups,
    "flatten": Flatten,
    "mlp": Mlp,
    "token": Token,
    "prelu": WithPReLU,
}


def build(name: str, seed: int = 0) -> nn.Module:
    """Build the network `name` with random weights, biases and norms, in eval mode."""
    from tests.conftest import randomise_norms_

    torch.manual_seed(seed)
    return randomise_norms_(NETS[name](), seed).eval()


def images(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *SHAPE, generator=generator)


def batches(count: int = 3, size: int = 8, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Return `count` batches of images whose mean depends on their class."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        y = torch.randint(0, CLASSES, (size,), generator=generator)
        pattern = torch.randn(CLASSES, *SHAPE, generator=torch.Generator().manual_seed(7))
        x = torch.randn(size, *SHAPE, generator=generator) + 0.5 * pattern[y]
        made.append((x, y))
    return made
