"""Small networks that run a module several times, each with its twin in which every call is a
module of its own."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 4


class Siamese(nn.Module):
    """`a` reads what `left` and `right` make; only its first result is normalised."""

    calls: ClassVar = {"a": 2}

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 8, 3, padding=1)
        self.right = nn.Conv2d(3, 8, 3, padding=1)
        self.a = nn.Conv2d(8, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        u = F.relu(self.norm(self.a(F.relu(self.left(x)))))
        v = F.relu(self.a(F.relu(self.right(x))))
        return self.head(torch.cat([u, v], 1).mean((2, 3)))


class Level(nn.Module):
    """Two residual blocks with one A (and a norm for each call), as in ResNet-A^l-B^{l,i}."""

    calls: ClassVar = {"a": 2}

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.b1 = nn.Conv2d(6, 5, 3, padding=1, bias=False)
        self.b2 = nn.Conv2d(6, 5, 3, padding=1, bias=False)
        self.a = nn.Conv2d(5, 6, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        r = F.relu(self.stem(x))
        r = F.relu(r + self.norm1(self.a(F.relu(self.b1(r)))))
        r = F.relu(r + self.norm2(self.a(F.relu(self.b2(r)))))
        return self.head(r.mean((2, 3)))


class Chain(nn.Module):
    """A convolution with its norm, run three times, then once more on a smaller map."""

    calls: ClassVar = {"a": 4, "norm": 4}

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.a = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for _ in range(3):
            x = F.relu(self.norm(self.a(x)))
        x = F.relu(self.norm(self.a(F.max_pool2d(x, 2))))
        return self.head(x.mean((2, 3)))


class Tokens(nn.Module):
    """A linear layer that tokens go through twice."""

    calls: ClassVar = {"mix": 2}

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(10, 8)
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.embed(x.flatten(1, 2)))  # (B, 30, 8)
        x = x + F.gelu(self.mix(x))
        x = x + F.gelu(self.mix(x))
        return self.head(x.mean(1))


NETS: dict[str, Callable[[], nn.Module]] = {
    "siamese": Siamese,
    "level": Level,
    "chain": Chain,
    "tokens": Tokens,
}


class Turns(nn.Module):
    """The copies of a module, called one after the other."""

    def __init__(self, copies: list[nn.Module]) -> None:
        super().__init__()
        self.copies, self.turn = nn.ModuleList(copies), 0

    def forward(self, x: Tensor) -> Tensor:
        made = self.copies[self.turn](x)
        self.turn = (self.turn + 1) % len(self.copies)
        return made


def build(name: str, seed: int = 0) -> nn.Module:
    """Build the network `name`, in float64 and eval mode, its norms randomised."""
    from tests.conftest import randomise_norms_

    torch.manual_seed(seed)
    return randomise_norms_(NETS[name](), seed).double().eval()


def unrolled(name: str, seed: int = 0) -> nn.Module:
    """Return the twin of `build(name, seed)`: call k of module m is `m.copies.k`."""
    twin = build(name, seed)
    for module, calls in twin.calls.items():
        copies = [build(name, seed).get_submodule(module) for _ in range(calls)]
        twin.set_submodule(module, Turns(copies))
    return twin
